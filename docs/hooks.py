"""MkDocs hooks: links to files outside of docs/, such as ../configs/digits_flow.py, open pages that show the file."""

import os
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
LINK = re.compile(r'(\]\()([^)#\s]+)')
PAGES = ('LOG.md', 'CHANGELOG.md')  # pages of the site although they are not in docs/


def on_files(files, config):
  """Adds a page for every file or folder that a page links to and that is not a file of the site."""
  for name in PAGES:
    files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
  sources = {source_of(target) for file in files.documentation_pages() for target in targets(file)}
  for target in sorted(target for target in sources if target):
    files.append(File.generated(config, page_uri(target), content=page(target)))
  return files


def on_page_markdown(markdown, page, config, files):
  """Rewrites links to files outside of docs/ to the pages that show them."""
  folder = posixpath.dirname(page.file.src_uri)

  def rewrite(match):
    target = resolve(page.file.src_uri, match[2])
    if target is None:
      return match[0]
    uri = page_uri(target) if source_of(target) else target.removeprefix('docs/')
    return match[1] + posixpath.relpath(uri, folder or '.')

  return LINK.sub(rewrite, markdown)


def targets(file) -> list[str]:
  """The targets of the links of a page, as paths in the repository."""
  if file.src_uri.startswith('source/'):
    return []
  paths = (resolve(file.src_uri, link) for _, link in LINK.findall(file.content_string))
  return [target for target in paths if target]


def resolve(src_uri: str, link: str) -> str | None:
  """The path in the repository that a link on a page refers to; None for external and broken links."""
  if ':' in link or src_uri.startswith('source/'):
    return None
  folder = '' if src_uri in PAGES else posixpath.join('docs', posixpath.dirname(src_uri))
  target = posixpath.normpath(posixpath.join(folder, link))
  return target if (ROOT / target).exists() else None


def source_of(target: str) -> str | None:
  """`target` if a page has to be generated for this file or folder; None if the site already has it."""
  in_site = target in PAGES or (target.startswith('docs/') and (ROOT / target).is_file() and target != 'docs/hooks.py')
  return None if in_site else target


def page_uri(target: str) -> str:
  """The path, in the site, of the page that shows a file or folder."""
  return f'source/{target}.md'


def page(target: str) -> str:
  """A page that shows a file, or lists a folder."""
  path = ROOT / target
  if path.is_dir():
    link = lambda p: os.path.relpath(p, ROOT / 'docs' / posixpath.dirname(page_uri(target)))  # noqa: E731
    names = sorted(p for p in path.iterdir() if p.is_file())
    text = '\n'.join(f'* [{p.name}]({link(p)})' if target.startswith('docs/') else f'* `{p.name}`' for p in names)
  else:
    text = f'~~~~ {path.suffix[1:].replace("ipynb", "json")}\n{path.read_text()}\n~~~~'
  return f'---\nsearch:\n  exclude: true\n---\n# {target}\n\n{text}\n'
