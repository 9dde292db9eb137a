"""README.md and docs/: commands name scripts, configs and flags that exist, and links and pictures are there.

With -m slow, the blocks that have the comment <!-- run --> above them are run in a copy of the tree, and the site is built.
"""

import argparse
import functools
import importlib
import inspect
import os
import pydoc
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

import sweep
from genjax.commandline import load_config, parse_options, split_overrides
from genjax.errors import UsageError
from genjax.run import sampling_options
from tests.conftest import CONFIGS, OBJECTIVES, ROOT, objects

README = ROOT / 'README.md'
PAGES = [README, ROOT / 'LOG.md', ROOT / 'CHANGELOG.md', *sorted((ROOT / 'docs').rglob('*.md'))]
BLOCK = re.compile(r'(<!-- run -->\n+)?^```bash\n(.*?)^```', re.M | re.S)
LINK = re.compile(r'\]\(([^)\s]+)\)')
LOOP = re.compile(r'for (\w+) in (.*?); do\s(.*?)\bdone', re.S)
OTHERS = {'gcloud', 'gcsfuse', 'mkdocs', 'pip', 'rclone', 'sbatch', 'source', 'tensorboard'}  # programs that are not checked
TESTS_ONLY = ('XLA_FLAGS', 'JAX_NUM_CPU_DEVICES')  # which conftest.py sets: fast compilation of slow programs, many devices
NOT_COPIED = shutil.ignore_patterns('.git', '.venv*', '.*_cache', '__pycache__', 'runs', 'site')


def named(page: Path) -> str:
  return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[tuple[bool, str]]:
  """The blocks of commands, and whether they are marked to be run."""
  return [(bool(mark), text) for mark, text in BLOCK.findall(page.read_text())]


def commands(block: str) -> list[list[str]]:
  """The words of each command, with loops unrolled and without leading environment variables."""
  text = block.replace('\\\n', ' ')
  unroll = lambda m: '\n'.join(re.sub(rf'\${m[1]}\b', value, m[3]) for value in m[2].split())  # noqa: E731
  results = []
  for line in LOOP.sub(unroll, text).splitlines():
    lexer = shlex.shlex(line, posix=True, punctuation_chars=';&|')
    lexer.whitespace_split = True
    results.append([])
    for word in lexer:
      if re.fullmatch('[;&|]+', word):
        results.append([])
      elif results[-1] or not re.match(r'\w+=', word):
        results[-1].append(word)
  return [words for words in results if words]


class Parsed(Exception):
  """The arguments that the parser of `main` parses from a command line, and the words that it does not know."""


def parsed(main, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
  """The first result of a parser in `main`. Raises what the parser raises for wrong flags."""
  known = argparse.ArgumentParser.parse_known_args

  def stop(parser, *args, **options):
    raise Parsed(*known(parser, *args, **options))

  with (
    mock.patch.object(argparse.ArgumentParser, 'parse_known_args', stop),
    mock.patch.object(sys, 'argv', ['', *argv]),
    pytest.raises(Parsed) as result,
  ):
    main(*[argv] if inspect.signature(main).parameters else [])
  return result.value.args


@functools.cache
def model_options(name: str) -> dict:
  """The options of `sample` of a config's model; '': of all models."""
  if name in CONFIGS:
    return sampling_options(objects(name)[0])
  return {option: default for each in OBJECTIVES for option, default in model_options(each).items()}


def check(words: list[str]) -> None:
  """Raises or fails unless a command names a script or module here, flags that it has, and options of a config."""
  program, *words = words
  if not re.fullmatch(r'(.*/)?python3?', program):
    assert program in OTHERS, f'{program} is not known'
    return
  if words[0] == '-m':
    module, argv = words[1], words[2:]
    if module == 'pytest':
      assert all((ROOT / word).exists() for word in argv if word.startswith('tests/'))
    if module in ('pytest', 'venv'):
      return
  else:
    assert (ROOT / words[0]).is_file(), f'{words[0]} does not exist'
    module, argv = words[0].removesuffix('.py'), words[1:]
  with mock.patch.dict(os.environ):  # benchmarks set XLA_FLAGS
    main = importlib.import_module(module).main
    if module == 'train':
      overrides, argv = split_overrides(argv)
    own, more = (argv[: argv.index('--')], argv[argv.index('--') + 1 :]) if '--' in argv else (argv, [])
    args, rest = parsed(main, own if module == 'sweep' else argv)
  if module == 'train':
    run = Path(args.resume or '').name
    load_config(f'configs/{run}.py' if run in CONFIGS else args.config, overrides, args.allow_package)
  elif module == 'sweep':
    for entry in sweep.make_entries(args):
      load_config(args.config, split_overrides(more)[0] | entry.overrides, args.allow_package)
    if args.evaluate:
      check(['python', 'evaluate.py', f'--run={args.workdir}', *shlex.split(args.evaluate)])
  elif module in ('sample', 'evaluate', 'export') and getattr(args, 'run', None):
    rest = parse_options(rest, model_options(Path(args.run).name), vars(args), args.allow_package) and []
  assert not rest, f'{rest} are not flags'


@pytest.mark.parametrize('page', PAGES, ids=named)
def test_commands(page, monkeypatch):
  monkeypatch.chdir(ROOT)
  monkeypatch.syspath_prepend(str(ROOT / 'tests'))  # for the package `forked`
  for _, block in blocks(page):
    for words in commands(block):
      try:
        check(words)
      except (UsageError, SystemExit, AssertionError, ModuleNotFoundError) as error:
        pytest.fail(f'{named(page)}: {shlex.join(words)}: {error}')


@pytest.mark.parametrize(
  'command',
  [
    'python trane.py',
    'python -m genjax.none',
    'rm -r runs',
    'python train.py --steps=3',
    'python train.py --config configs/none.py',
    'python train.py --config.train.step=3',
    'python train.py --config.train.steps=many',
    'python sample.py --run runs/digits_gan --steps 5',
    'python sample.py --run runs/x --step_count 5',
    'python evaluate.py compare runs/a --sorted fid',
    'python sweep.py --set train.step=1,2',
    'python sweep.py --evaluate "--sample 5"',
    'python -m benchmarks.loop --stepz=5',
  ],
)
def test_wrong_commands_are_found(command):
  with pytest.raises((UsageError, SystemExit, AssertionError, ModuleNotFoundError)):
    check(*commands(command))


def test_loops_and_separators_are_read():
  block = (
    'for x in a b; do\n  python train.py --workdir runs/$x; python sample.py\ndone  # twice\nA=b python train.py && pip list'
  )
  names = [words[1] if words[0] == 'python' else words[0] for words in commands(block)]
  assert names == ['train.py', 'sample.py', 'train.py', 'sample.py', 'train.py', 'pip']
  assert commands(block)[2][-1] == 'runs/b'


def anchors(page: Path) -> set[str]:
  """The anchors of a page's headings."""
  headings = re.findall(r'^#+ (.*)', page.read_text(), re.M)
  return {re.sub(r'[-\s]+', '-', re.sub(r'[^\w\s-]', '', heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize('page', PAGES, ids=named)
def test_links(page):
  for link in LINK.findall(page.read_text()):
    if ':' in link:
      continue
    file, _, anchor = link.partition('#')
    target = page.parent / file if file else page
    assert target.exists(), f'{named(page)}: {link}'
    if anchor.startswith('genjax.'):  # of the API reference
      assert any(anchor.startswith(module) for module in re.findall('^::: (.*)', target.read_text(), re.M)), link
      assert pydoc.locate(anchor), f'{named(page)}: {link}'
    elif anchor:
      assert anchor in anchors(target), f'{named(page)}: {link}'


def test_paths_in_code():
  """Files in docs/ that code, configs and scripts mention."""
  folders = ('genjax', 'configs', 'benchmarks', 'tests')
  files = [*ROOT.glob('*.py'), *(path for folder in folders for path in (ROOT / folder).rglob('*.py'))]
  for file in files:
    for path in re.findall(r'docs/[a-z][\w/.-]*', file.read_text()) if file != Path(__file__) else ():
      assert (ROOT / path.rstrip('.')).exists(), f'{named(file)}: {path}'


def test_expressions_select_tests():
  """Each name in `tests/test_x.py -k 'name or name'` is part of the name of a test there."""
  for page in PAGES:
    for files, expression in re.findall(r"(tests/test_\w+\.py(?: tests/test_\w+\.py)*) -k ('[^']+'|\w+)", page.read_text()):
      tests = [name for file in files.split() for name in re.findall(r'def (test_\w+)', (ROOT / file).read_text())]
      for part in expression.strip("'").split(' or '):
        assert any(part in name for name in tests), f'{named(page)}: {files} -k {part}'


def test_api_pages_name_modules():
  for page in (ROOT / 'docs' / 'api').glob('*.md'):
    for module in re.findall('^::: (.*)', page.read_text(), re.M):
      importlib.import_module(module)


def test_readme_is_short():
  assert len(README.read_text().splitlines()) <= 150


def run_blocks(page: Path, tree: Path) -> None:
  """Runs the marked blocks of a page in `tree`, in order."""
  env = {name: value for name, value in os.environ.items() if name not in TESTS_ONLY}
  env['PATH'] = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
  for marked, block in blocks(page):
    if marked:
      result = subprocess.run(['bash', '-euo', 'pipefail', '-c', block], cwd=tree, env=env, capture_output=True, text=True)
      assert not result.returncode, f'{named(page)}:\n{block}\n{result.stdout[-3000:]}{result.stderr[-3000:]}'


@pytest.fixture(scope='module')
def tree(tmp_path_factory) -> Path:
  """A copy of the repository in which the blocks of README.md were run."""
  path = tmp_path_factory.mktemp('docs') / 'genjax'
  shutil.copytree(ROOT, path, ignore=NOT_COPIED)
  run_blocks(README, path)
  return path


@pytest.mark.slow
@pytest.mark.parametrize('page', [page for page in PAGES if any(marked for marked, _ in blocks(page))], ids=named)
def test_marked_blocks_run(page, tree):
  if page != README:
    run_blocks(page, tree)


@pytest.mark.slow
def test_site_builds(tmp_path):
  pytest.importorskip('mkdocs', reason='pip install -r docs/requirements.txt')
  pytest.importorskip('mkdocstrings', reason='pip install -r docs/requirements.txt')
  command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(tmp_path / 'site')]
  result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert not result.returncode, result.stderr[-3000:]
  assert (tmp_path / 'site' / 'index.html').exists()
