"""Which files of a folder are images, and which of its sub-folders are labels."""

import collections
import os
from pathlib import Path
from typing import NamedTuple

from genjax.data.photos import SUFFIXES
from genjax.errors import UsageError

SPLITS = ('train', 'training', 'test', 'testing', 'val', 'valid', 'validation', 'dev')


class Found(NamedTuple):
  """What lies below a folder, without what is hidden, all sorted."""

  files: list[Path]  # images, by their suffix
  folders: list[str]  # sub-folders that hold images; empty if those lie beside them
  others: list[Path]  # files that are no images


def image_files(root: Path) -> Found:
  """The image files below a folder.

  Raises:
    UsageError: there are none, a folder that may not be read, links out of it, images beside sub-folders, sub-folders that are
      splits, or one that holds files and no image.
  """
  folders, plain = [], []
  for folder, below, names in os.walk(root, onerror=refuse_folder):
    below[:] = [name for name in below if not name.startswith('.')]
    folders += [Path(folder, name) for name in below]
    plain += [Path(folder, name) for name in names if not name.startswith('.')]
  for path in sorted([*folders, *plain]):
    if path.is_symlink():
      refuse_link(path, root)
  top = sorted(path.name for path in folders if path.parent == root)
  files = sorted(path for path in plain if path.suffix.lower() in SUFFIXES and path.is_file())
  others = sorted(set(plain) - set(files))
  if not files:
    there = f'; it holds {kinds(others)}' if others else ''
    raise UsageError(f'{root} holds no images (files ending in {", ".join(SUFFIXES)}){there}.')
  loose = [p for p in files if p.parent == root]
  if len(loose) == len(files):
    return Found(files, [], others)
  if loose:
    raise UsageError(f'{root}: {loose[0].name} lies beside the sub-folders, which are the labels; move it into one.')
  holding = {p.relative_to(root).parts[0] for p in files}
  if {name.lower() for name in holding} <= set(SPLITS):
    first = next((name for name in sorted(holding) if name.lower().startswith('train')), min(holding))
    raise UsageError(f'{root}: its sub-folders ({", ".join(sorted(holding))}) are splits, no classes: give {root / first}.')
  for folder in set(top) - holding:
    if inside := [p for p in others if p.relative_to(root).parts[0] == folder]:
      raise UsageError(f'{root / folder}: the class has no images; it holds {kinds(inside)}. Convert them, or move it away.')
  return Found(files, [name for name in top if name in holding], others)


def kinds(paths: list[Path]) -> str:
  """'3 .txt, 1 without a suffix'."""
  counts = collections.Counter(path.suffix.lower() or 'without a suffix' for path in paths)
  return ', '.join(f'{count} {suffix}' for suffix, count in counts.most_common(5))


def print_passed_over(root: Path, found: Found) -> None:
  """Says which files below a folder are not read."""
  if found.others:
    first = found.others[0].relative_to(root)
    print(
      f'{root}: files that are no images are passed over: {kinds(found.others)} ({first}{", ..." * (len(found.others) > 1)}).'
    )


def refuse_folder(error: OSError) -> None:
  raise UsageError(f'{error.filename} cannot be read ({error.strerror}): let it be read, or move it away.') from None


def refuse_link(path: Path, root: Path) -> None:
  """Raises UsageError unless a link leads to a file within the folder."""
  try:
    target = path.resolve(strict=True)
  except (OSError, RuntimeError):
    raise UsageError(f'{path} is a link that leads nowhere: remove it.') from None
  if not target.is_relative_to(root.resolve()):
    raise UsageError(f'{path} is a link out of the folder, to {target}: copy what you want there, or remove the link.')
  if target.is_dir():
    raise UsageError(f'{path} is a link to a folder, which is not followed: copy the folder there, or remove the link.')
