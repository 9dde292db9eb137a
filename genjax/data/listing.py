"""Finds the image files of a folder, and the sub-folders that are its labels."""

import collections
import os
import re
from pathlib import Path
from typing import NamedTuple

from genjax.data.photos import SUFFIXES
from genjax.errors import UsageError

TRAIN = {'train', 'training'}
OTHER_SPLITS = {'test', 'testing', 'val', 'valid', 'validation', 'eval', 'dev'}


class ImageListing(NamedTuple):
  """The visible files below a folder, all sorted."""

  files: list[Path]  # with the suffix of an image
  folders: list[str]  # sub-folders that hold images; empty if the images are not in sub-folders
  ignored: list[Path]  # all other files


def image_files(root: Path) -> ImageListing:
  """Lists the image files below a folder.

  Raises:
    UsageError: there are no images, a folder cannot be read, a link leads out of the folder, images lie beside sub-folders, the
      sub-folders are splits, or one of them holds files but no images.
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
  ignored = sorted(set(plain) - set(files))
  if not files:
    contents = f'; it holds {count_suffixes(ignored)}' if ignored else ''
    raise UsageError(f'{root} holds no images (files ending in {", ".join(SUFFIXES)}){contents}.')
  loose = [p for p in files if p.parent == root]
  if len(loose) == len(files):
    return ImageListing(files, [], ignored)
  if loose:
    raise UsageError(f'{root}: {loose[0].name} lies beside the sub-folders, which are the labels; move it into one.')
  holding = {p.relative_to(root).parts[0] for p in files}
  words = {name: set(re.split(r'[\W_]+', name.lower())) for name in sorted(holding)}
  train, others = ([name for name in words if words[name] & split] for split in (TRAIN, OTHER_SPLITS))
  if others and (train or len(others) == len(holding)):
    raise UsageError(
      f'{root}: its sub-folders ({", ".join(words)}) are splits, not classes: use {root / (train or others)[0]}.'
    )
  for folder in set(top) - holding:
    if inside := [p for p in ignored if p.relative_to(root).parts[0] == folder]:
      raise UsageError(
        f'{root / folder}: the class has no images; it holds {count_suffixes(inside)}. Convert or move the files.'
      )
  return ImageListing(files, [name for name in top if name in holding], ignored)


def count_suffixes(paths: list[Path]) -> str:
  """Counts files by suffix, such as '3 .txt, 1 without a suffix'."""
  counts = collections.Counter(path.suffix.lower() or 'without a suffix' for path in paths)
  shown = [f'{count} {suffix}' for suffix, count in counts.most_common(5)]
  others = len(paths) - sum(count for _, count in counts.most_common(5))
  return ', '.join(shown + [f'{others} others'] * (others > 0))


def print_ignored(root: Path, listing: ImageListing) -> None:
  """Prints which files below a folder are ignored."""
  if listing.ignored:
    examples = f'{listing.ignored[0].relative_to(root)}{", ..." * (len(listing.ignored) > 1)}'
    print(f'{root}: ignoring {len(listing.ignored)} files that are not images: {count_suffixes(listing.ignored)} ({examples}).')


def refuse_folder(error: OSError) -> None:
  raise UsageError(f'{error.filename} cannot be read ({error.strerror}): change its permissions, or move it.') from None


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
