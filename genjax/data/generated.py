"""External images, made by another program, with labels that match the classes of the data that they are compared with."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from genjax.data.listing import image_files
from genjax.data.photos import open_photo, own_channels
from genjax.data.sources.base import Read, Source, example_of, from_arrays
from genjax.data.sources.npz import check_pixels, read_arrays
from genjax.data.sources.open import open_data
from genjax.errors import UsageError
from genjax.types import Example


class Generated(NamedTuple):
  """Images as they were read. Their labels are indices into `folders`, or those of the npz file."""

  source: Source
  folders: list[str]  # sub-folders that contain images
  labeled: bool  # whether an npz file has labels


def open_generated(path: Path, resolution: int = 0, channels: int = 0) -> Generated:
  """The images of a folder or an npz file, at `resolution` and with `channels`; 0: unchanged.

  An npz file has `image` uint8 [N, H, W] or [N, H, W, C] and, for labels, `label` [N], as `sample.py --npz` writes it; or
  `arr_0` and `arr_1`, as numpy.savez names arrays without names.

  Raises:
    UsageError: there are no images at that path, or some cannot be read; the images are not square or have several sizes, and
      `resolution` is 0; the images have several channel counts, and `channels` is 0.
  """
  if path.is_dir():
    if (path / 'config.json').is_file():
      raise UsageError(f'--images {path} is a run directory: use --run {path}.')
    listing = image_files(path)
    side = folder_resolution(path, listing.files, resolution, channels)
    return Generated(open_data(str(path.resolve()), resolution or side, channels=channels), listing.folders, False)
  if path.suffix != '.npz' or not path.exists():
    what = 'is neither a folder of images nor an .npz file' if path.exists() else 'does not exist'
    raise UsageError(f'--images {path} {what}: pass a folder of image files, or an npz file with image uint8 [N, H, W, C].')
  arrays, keys = read_arrays(path, ('image', 'label', 'arr_0', 'arr_1'))
  image, label = ('image', 'label') if 'image' in arrays else ('arr_0', 'arr_1')
  if image not in arrays:
    raise UsageError(f"{path} has no array 'image'; it has {', '.join(keys) or 'nothing'}.")
  images, labels = arrays[image], arrays.get(label)
  is_points = images.shape[1:] == (1, 1, 2)  # of gaussians_25, as sample.py writes them
  check_pixels(path, image, images, (2,) if is_points else (1, 3, 4))
  height, width = images.shape[1:3]
  if not resolution and height != width:
    raise UsageError(f'{path}: the images are {width} x {height} pixels. {NOT_SQUARE}')
  if labels is not None and (labels.shape != images.shape[:1] or labels.dtype.kind not in 'iu'):
    raise UsageError(f"{path}: '{label}' is {labels.dtype}{list(labels.shape)}; it must be whole numbers [{len(images)}].")
  size = (1, 0) if is_points else (resolution or height, channels)
  source = from_arrays(str(path), images, np.zeros(len(images)), 0, *size)
  return Generated(source if labels is None else dataclasses.replace(source, cond={'label': labels}), [], labels is not None)


NOT_SQUARE = 'They must be square: --resolution N resizes the central square to N pixels.'


def folder_resolution(root: Path, files: Sequence[Path], resolution: int, channels: int) -> int:
  """The side of a folder's images, from the headers of the files. Unreadable files are ignored; reading them fails later."""
  sizes, counts = {}, {}
  for path in files if not (resolution and channels) else ():
    try:
      image, _ = open_photo(path)
      sizes.setdefault(image.size, path)
      counts.setdefault(own_channels(image), path)
    except Exception:  # Pillow's decoders raise many types
      continue
  if not channels and len(counts) > 1:
    raise UsageError(
      f'{root} has grayscale and RGB images ({counts[1].relative_to(root)}, {counts[3].relative_to(root)}): '
      '--channels 1 or 3 converts all of them.'
    )
  if not resolution and len(sizes) > 1:
    examples = [f'{path.relative_to(root)} is {width} x {height}' for (width, height), path in sizes.items()][:2]
    raise UsageError(
      f'{root} has images of several sizes ({", ".join(examples)} pixels): --resolution N resizes the central square of each '
      'to N pixels.'
    )
  width, height = next(iter(sizes), (1, 1))
  if not resolution and width != height:
    raise UsageError(f'{root}: the images are {width} x {height} pixels. {NOT_SQUARE}')
  return width


def match(generated: Generated, train: Source) -> tuple[Source, list[str]]:
  """Matches labels and channels to `train`. Returns the images, and notes on them.

  Without matching labels `num_classes` is 0. A sub-folder is matched to a class by its name, ignoring case and punctuation, or
  by its number. RGB images with equal channels are converted to grayscale if `train` is grayscale.

  Raises:
    UsageError: `train` does not have these labels, or its images have another shape.
  """
  source, folders, classes, names = generated.source, generated.folders, train.num_classes, train.example.classes
  notes, table = [], None
  if generated.labeled and classes:
    labels = source.cond['label']
    if len(labels) and (labels.min() < 0 or labels.max() >= classes):
      raise UsageError(
        f'{source.name}: labels run from {labels.min()} to {labels.max()}, and those of {train.name} from 0 to {classes - 1}: '
        'use the labels of the data, or remove the labels.'
      )
    table = np.arange(classes, dtype=np.int32)
  elif folders and classes:
    table = class_table(folders, names, classes)
    if table is None:
      known = f'classes of {train.name} ({", ".join(names[:12])}{", ..." if len(names) > 12 else ""})'
      examples = f'{", ".join(folders[:5])}{", ..." if len(folders) > 5 else ""}'
      notes.append(f'the sub-folders ({examples}) are not named or numbered like the {known}: the labels are not used')
  channels = source.image_shape[-1]
  if (channels, train.image_shape[-1]) == (3, 1) and is_gray(source):
    channels = 1
  matched = Matched(source, table, () if table is None else train.example.classes, channels)
  if matched.image_shape != train.image_shape:
    remedy = '--channels 1 compares them as grayscale, --channels 3 as RGB.'
    if 2 in (channels, train.image_shape[-1]):
      remedy = 'they cannot be compared.'
    raise UsageError(
      f'{source.name} has images {list(matched.image_shape)}, and {train.name} has {list(train.image_shape)}: {remedy}'
    )
  return matched, notes


def class_table(folders: Sequence[str], names: Sequence[str], classes: int) -> np.ndarray | None:
  """The class of each sub-folder, int32; None unless each is a class."""
  for form in (str, lambda name: re.sub(r'[\W_]+', '', name.lower())):  # 'T-shirt/top' cannot be the name of a folder
    index = {form(name): i for i, name in enumerate(names)}
    if len(index) == len(names) and all(form(folder) in index for folder in folders):
      return np.array([index[form(folder)] for folder in folders], np.int32)
  if all(folder.isdecimal() and int(folder) < classes for folder in folders):
    return np.array([int(folder) for folder in folders], np.int32)
  return None


def is_gray(source: Source) -> bool:
  """Whether the three channels of all images are equal, as torchvision.utils.save_image writes grayscale images."""
  starts = range(0, len(source), 1024)
  parts = (source.read(np.arange(start, min(start + 1024, len(source))))[0] for start in starts)
  return all((images == images[..., :1]).all() for images in parts)


@dataclasses.dataclass(frozen=True, eq=False)
class Matched(Source):
  """The first `channels` channels of a source's images, with labels that `table` maps to the classes of the real images."""

  source: Source
  table: np.ndarray | None  # None: without labels
  classes: tuple[str, ...]  # of the real images
  channels: int

  @property
  def name(self) -> str:
    return self.source.name

  @property
  def example(self) -> Example:
    shape = (*self.source.image_shape[:2], self.channels)
    cond = {} if self.table is None else {'label': self.table}
    return example_of(shape, cond, self.classes, len(self.source))

  def read(self, rows: np.ndarray) -> Read:
    images, cond = self.source.read(rows)
    return images[..., : self.channels], {} if self.table is None else {'label': self.table[cond['label']]}
