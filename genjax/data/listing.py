"""Finds the image files of a folder, and the sub-folders that are its labels."""

import collections
import os
import re
from pathlib import Path
from typing import NamedTuple

from genjax.data.photos import SUFFIXES
from genjax.errors import UsageError

TRAIN = ('train', 'training', 'trn')
OTHER_SPLITS = ('test', 'testing', 'tst', 'val', 'valid', 'validation', 'eval', 'evaluation', 'dev', 'development')
OTHER_SPLITS += ('holdout', 'heldout')
BESIDE_SPLITS = ('extra', 'unlabeled', 'unlabelled', 'pred', 'query', 'gallery')  # splits only next to other splits
BESIDE_SPLITS += ('annotations', 'labels', 'masks', 'groundtruth')
ALL_SPLITS = TRAIN + OTHER_SPLITS + BESIDE_SPLITS
PART = r'(sets?|data|dataset|images?|imgs?|pictures?|photos?|samples?|split|fold|part|[ab]|\d)*'  # before or after the split


class ImageListing(NamedTuple):
  """The visible files below a folder, all sorted."""

  files: list[Path]  # with the suffix of an image
  folders: list[str]  # sub-folders that contain images; empty if the images are not in sub-folders
  ignored: list[Path]  # all other files


def image_files(root: Path) -> ImageListing:
  """Lists the image files below a folder.

  Raises:
    UsageError: there are no images, a folder cannot be read, a link leads out of the folder, images are next to sub-folders,
      the sub-folders are splits, or one of them contains files but no images.
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
    contents = f'; it contains {count_suffixes(ignored)}' if ignored else ''
    raise UsageError(f'{root} contains no images (files ending in {", ".join(SUFFIXES)}){contents}.')
  loose = [p for p in files if p.parent == root]
  if len(loose) == len(files):
    return ImageListing(files, [], ignored)
  if loose:
    raise UsageError(f'{root}: {loose[0].name} is next to the sub-folders, which are the labels; move it into one of them.')
  holding = {p.relative_to(root).parts[0] for p in files}
  if splits := training_splits(sorted(holding)):
    shown = f'{", ".join(sorted(holding)[:5])}{", ..." if len(holding) > 5 else ""}'
    raise UsageError(
      f'{root}: its sub-folders ({shown}) look like splits, not classes: use {" or ".join(str(root / x) for x in splits[:3])}. '
      f'If they are classes, rename one of them, for example {splits[0]} to class_{splits[0]}.'
    )
  for folder in set(top) - holding:
    if inside := [p for p in ignored if p.relative_to(root).parts[0] == folder]:
      raise UsageError(
        f'{root / folder}: the class has no images; it contains {count_suffixes(inside)}. Convert or move the files.'
      )
  return ImageListing(files, [name for name in top if name in holding], ignored)


def training_splits(names: list[str]) -> list[str]:
  """The names of training splits (else of another split) if all names are those of splits; else an empty list.

  Parts such as a number, A and B, 'set' and 'images' are ignored, as in 'train2017', 'trainA' and 'test_images', and so are
  words that several names share, as in 'birds_train' and 'birds_test'.
  """
  words = {name: re.findall(r'[^\W\d_]+|\d+', name.lower()) for name in names}
  uses = collections.Counter(word for name in names for word in set(words[name]))

  def are(splits, *forms):
    return any(re.fullmatch(f'{PART}({"|".join(splits)}){PART}', form) for form in forms)

  own = {name: [word for word in words[name] if uses[word] == 1 or are(ALL_SPLITS, word)] for name in names}
  train, others, beside = (
    [name for name in names if are(splits, ''.join(words[name]), ''.join(own[name]))]
    for splits in (TRAIN, OTHER_SPLITS, BESIDE_SPLITS)
  )
  return (train or others[:1]) if {*train, *others, *beside} == set(names) else []


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
