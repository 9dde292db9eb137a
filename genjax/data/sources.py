"""Data sources: the digits in scikit-learn's wheel, TensorFlow Datasets, a folder of images, an npz file.

A source has `name`, `image_shape` (H, W, C), `num_classes` (0: no labels), a length, and `read(indices)` -> uint8
[n, H, W, C] and int32 [n]. `open_data` picks one by name and brings it into memory if it fits.
"""

import dataclasses
import difflib
import hashlib
import os
import re
import zipfile
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image, ImageOps

from genjax.data import modes
from genjax.errors import UsageError
from genjax.images import resize

Read = tuple[UInt8[np.ndarray, 'n h w c'], Int32[np.ndarray, 'n']]
MODES = {1: 'L', 3: 'RGB'}  # Pillow's names for channel counts
MAX_PIXELS = 64_000_000  # of an image file: larger ones are refused before they are unpacked
SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.gif', '.tif', '.tiff', '.ppm', '.pgm')
FORMATS = ('PNG', 'JPEG', 'WEBP', 'BMP', 'GIF', 'TIFF', 'PPM')  # no other, whatever the suffix says: for EPS Pillow runs gs


class Source(Protocol):
  """Images by number: `read` gives uint8 [n, H, W, C] and labels int32 [n] in [0, num_classes), 0 if there are none."""

  name: str
  image_shape: tuple[int, int, int]
  num_classes: int

  def __len__(self) -> int: ...

  def read(self, indices: np.ndarray) -> Read: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays:
  """A source in memory: `images` uint8 [N, H, W, C], `labels` int32 [N]."""

  name: str
  images: UInt8[np.ndarray, 'n h w c']
  labels: Int32[np.ndarray, 'n']
  num_classes: int

  @property
  def image_shape(self) -> tuple[int, int, int]:
    return self.images.shape[1:]

  def __len__(self) -> int:
    return len(self.images)

  def read(self, indices: np.ndarray) -> Read:
    return self.images[indices], self.labels[indices]


@dataclasses.dataclass(frozen=True, eq=False)
class Subset:
  """The images of `source` at the places `rows`."""

  source: Source
  rows: np.ndarray

  def __getattr__(self, name):
    return getattr(self.source, name)

  def __len__(self) -> int:
    return len(self.rows)

  def read(self, indices: np.ndarray) -> Read:
    return self.source.read(self.rows[indices])


def open_data(
  name: str,  # 'digits', 'gaussians_25', 'stacked_mnist', a data set of TensorFlow Datasets, a folder, or a file ending in .npz
  resolution: int,  # side of the square images in pixels
  split: str = 'train',  # a path whose name ends in 'train', x_train.npz or x/train, has the one that ends in 'test', too
  channels: int = 0,  # 1 greyscale, 3 RGB, 0 as they are
  skip: bool = False,  # leave out images of a folder that cannot be read, and say how many
  data_dir: str = '',  # of TensorFlow Datasets; '': $TFDS_DATA_DIR or its default
  memory_gib: float = 4.0,  # larger sets are streamed from disk
) -> Source:
  """The images of `name`, at `resolution`.

  Raises:
    UsageError: an unknown or unprepared data set, a path without images, an unreadable image, mixed channel counts,
      labels that are not 0, 1, 2, ...
  """
  if resolution < 1:
    raise UsageError(f'data.resolution={resolution} is not a side in pixels.')
  if channels not in (0, 1, 3):
    raise UsageError(f'data.channels={channels}: give 1 (greyscale), 3 (RGB) or 0 (as they are).')
  if memory_gib < 0:
    raise UsageError(f'data.memory_gib={memory_gib} must not be negative.')
  if not name:
    raise UsageError('data.name is empty: give digits, a data set of TensorFlow Datasets, a folder or an .npz file.')
  try:
    path = Path(name).expanduser()
    is_folder = path.is_dir()
  except (OSError, RuntimeError, ValueError) as error:  # too long, no such user, a zero byte
    reason = error.strerror if isinstance(error, OSError) else error
    raise UsageError(f'data.name={name[:80]!r} is no path ({reason}).') from None
  if name == 'digits':
    source = digits(split, resolution, channels)
  elif name in modes.SETS:
    source = with_modes(name, split, resolution, channels, data_dir)
  elif name.endswith('.npz') or is_folder:
    place = path if split == 'train' else sibling(path, split)
    if place is None:
      raise UsageError(
        f'data.split={split!r}: {name} names its images itself. Only a path that ends in train, as x_train.npz or x/train, '
        f'has others beside it, x_{split}.npz or x/{split}.'
      )
    if name.endswith('.npz'):
      source = npz(place, resolution, channels)
    else:
      source = ImageFolder(place, resolution, channels, skip, None if place == path else image_files(path)[1])
  elif name.startswith(('.', '/', '~')):
    raise UsageError(f'data.name={name!r} is a path, and there is no folder or .npz file at it.')
  else:
    source = Tfds(name, split, resolution, channels, data_dir)
  if not len(source):
    raise UsageError(f'data.name={source.name!r} holds no images.')
  if isinstance(source, Arrays) or len(source) * np.prod(source.image_shape) > memory_gib * 2**30:
    return source
  images = np.empty((len(source), *source.image_shape), np.uint8)
  labels = np.empty(len(source), np.int32)
  for start in range(0, len(source), 1024):
    part = np.arange(start, min(start + 1024, len(source)))
    images[part], labels[part] = source.read(part)
  return Arrays(source.name, images, labels, source.num_classes)


def sibling(path: Path, split: str) -> Path | None:
  """The images of another split beside those of a path that ends in 'train'; None if there are none.

  Raises:
    UsageError: it is a link.
  """
  suffix = path.suffix if path.suffix == '.npz' else ''
  stem = path.name.removesuffix(suffix)
  if not stem.endswith('train') or not split.isidentifier():
    return None
  other = path.with_name(stem.removesuffix('train') + split + suffix)
  if other.is_symlink():
    raise UsageError(f'{other} is a link, which is not followed: copy there what it leads to, or remove it.')
  return other if other.exists() else None


def data_hash(source: Source) -> str:
  """sha256 (16 digits) over shape, images and labels in order."""
  digest = hashlib.sha256(f'{source.image_shape} {len(source)}'.encode())
  for start in range(0, len(source), 1024):
    for array in source.read(np.arange(start, min(start + 1024, len(source)))):
      digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()[:16]


def digits(split: str, resolution: int, channels: int) -> Arrays:
  """scikit-learn's 1,797 handwritten digits (UCI, 8x8, 17 levels): the first 1,500 are 'train', the others 'test'."""
  from sklearn.datasets import load_digits

  parts = {'train': slice(0, 1500), 'test': slice(1500, None)}
  if split not in parts:
    raise UsageError(f'digits has no split {split!r}: give data.split=train or test.')
  data = load_digits()
  images = np.round(data.images[parts[split]] * (255 / 16)).astype(np.uint8)
  return from_arrays('digits', images, data.target[parts[split]], 10, resolution, channels)


def with_modes(name: str, split: str, resolution: int, channels: int, data_dir: str) -> Arrays:
  """A set whose modes can be counted (genjax/data/modes.py): 25 Gaussians, or MNIST's digits three by three."""
  if split not in ('train', 'test'):
    raise UsageError(f'{name} has no split {split!r}: give data.split=train or test.')
  if channels:
    raise UsageError(f'data.channels={channels}: {name} has its own, leave it 0.')
  if name == 'gaussians_25':
    if resolution != 1:
      raise UsageError(f'data.resolution={resolution}: gaussians_25 are points, images of one pixel: give 1.')
    return Arrays(name, *modes.gaussians(split), 25)
  mnist = Tfds('mnist', split, resolution, 1, data_dir)
  return Arrays(name, *modes.stacked(*mnist.read(np.arange(len(mnist))), {'train': 0, 'test': 1}[split]), 1000)


def npz(path: Path, resolution: int, channels: int) -> Arrays:
  """An npz file with `image` uint8 [N, H, W] or [N, H, W, C] and, for labels, `label` [N] of whole numbers from 0."""
  try:
    with zipfile.ZipFile(path) as archive:
      size = sum(member.file_size for member in archive.infolist())
    if size > os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'):
      raise MemoryError(f'it unpacks to {size / 2**30:,.0f} GiB, more than this machine has')
    with np.load(path, allow_pickle=False) as file:
      arrays = {key: file[key] for key in ('image', 'label') if key in file.files}
      found = file.files
  except FileNotFoundError:
    raise UsageError(f'{path}: there is no such file.') from None
  except Exception as error:  # numpy, zipfile and zlib each have their own for bytes that make no sense
    reason = str(error).splitlines()[0] if str(error) and 'pickle' not in str(error) else type(error).__name__
    raise UsageError(f'{path} is not an npz file of plain arrays ({reason}); write it with numpy.savez.') from None
  if 'image' not in arrays:
    raise UsageError(f"{path} has no array 'image'; it has {', '.join(found) or 'nothing'}.")
  images, labels = arrays['image'], arrays.get('label')
  if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] not in (1, 3)):
    raise UsageError(f"{path}: 'image' is {images.dtype}{list(images.shape)}; it must be uint8 [N, H, W] or [N, H, W, 1 or 3].")
  if 0 in images.shape[1:]:
    raise UsageError(f"{path}: 'image' is uint8{list(images.shape)}: images without pixels.")
  if labels is None:
    return from_arrays(str(path), images, np.zeros(len(images), np.int32), 0, resolution, channels)
  if labels.shape != images.shape[:1] or labels.dtype.kind not in 'iu':
    raise UsageError(f"{path}: 'label' is {labels.dtype}{list(labels.shape)}; it must be whole numbers [{len(images)}].")
  if len(labels) and (labels.min() < 0 or labels.max() >= 2**31 - 1):
    raise UsageError(f'{path}: labels run from {labels.min()} to {labels.max()}; they must be 0, 1, 2, ...')
  return from_arrays(str(path), images, labels, int(labels.max()) + 1 if len(labels) else 0, resolution, channels)


def from_arrays(name: str, images: np.ndarray, labels: np.ndarray, num_classes: int, resolution: int, channels: int) -> Arrays:
  """Arrays [N, H, W] or [N, H, W, C] at another resolution or channel count."""
  images = images if images.ndim == 4 else images[..., None]
  if channels and channels != images.shape[-1]:
    images = np.stack([to_array(Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x), MODES[channels]) for x in images])
  if images.shape[1:3] != (resolution, resolution):
    images = np.stack([resize(x, resolution) for x in images]) if len(images) else images
  return Arrays(name, np.ascontiguousarray(images), labels.astype(np.int32), num_classes)


def to_array(image: Image.Image, mode: str) -> UInt8[np.ndarray, 'h w c']:
  """Pillow's image as an array with a channel axis, in mode 'L' or 'RGB'."""
  array = np.asarray(image.convert(mode))
  return array[..., None] if array.ndim == 2 else array


class ImageFolder:
  """Image files below a folder. Its sub-folders, sorted by name, are the labels; without any there are no labels.

  Hidden files and folders are passed over; links out of the folder, to folders or to nothing are refused. Rotations noted
  by cameras are applied, alpha channels dropped; palettes become RGB, 16-bit greyscale 8-bit. All images have the channels
  of the first unless `channels` says which to make of them. `folders`, if given, are the labels: those of another split.
  """

  def __init__(self, root: Path, resolution: int, channels: int, skip: bool, folders: list[str] | None = None):
    self.name, self.root = str(root), root
    files, own = image_files(root)
    folders = own if folders is None else folders
    if strange := sorted(set(own) - set(folders)):
      have = ', '.join(folders) or 'none'
      raise UsageError(f'{root / strange[0]}: the images trained on have no such sub-folder; they have {have}.')
    if folders and not own:
      raise UsageError(f'{root}: its images are in no sub-folder, those trained on are: in {", ".join(folders)}.')
    self.num_classes, self.resolution, self.convert = len(folders), resolution, channels
    self.files = files
    self.skipped: list[Path] = []
    if skip:
      for path in files:
        try:
          self.load(path)
        except UsageError:
          self.skipped.append(path)
      self.files = [p for p in files if p not in set(self.skipped)]
      print(f'{root}: skipped {len(self.skipped)} of {len(files)} images that cannot be read.')
      if not self.files:
        raise UsageError(f'{root}: none of its {len(files)} images can be read.')
    number = {folder: i for i, folder in enumerate(folders)}
    self.labels = np.array([number.get(p.relative_to(root).parts[0], 0) for p in self.files], np.int32)
    self.image_shape = self.load(self.files[0]).shape

  def __len__(self) -> int:
    return len(self.files)

  def load(self, path: Path) -> UInt8[np.ndarray, 'h w c']:
    """One image at the folder's resolution, with the channels asked for or its own."""
    try:
      with Image.open(path, formats=FORMATS) as image:
        if image.mode == 'F':
          raise ValueError('its pixels are floating-point numbers; make them 8-bit')
        if image.width * image.height > MAX_PIXELS:
          raise ValueError(f'{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}')
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith('I'):  # 16-bit greyscale, 0..65535
          image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) // 257).astype(np.uint8))
        own = 1 if image.mode in ('1', 'L', 'LA') else 3
        return resize(to_array(image, MODES[self.convert or own]), self.resolution)
    except Exception as error:  # Pillow's decoders each have their own for bytes that make no sense
      raise UsageError(f'{path} cannot be read ({error}); mend or remove it, or set data.skip=True.') from None

  def read(self, indices: np.ndarray) -> Read:
    images = [self.load(self.files[i]) for i in indices]
    for i, image in zip(indices, images, strict=True):
      if image.shape[-1] != self.image_shape[-1]:
        raise UsageError(
          f'{self.files[i]} has {image.shape[-1]} channel{"s"[: image.shape[-1] - 1]}, the first image '
          f'{self.image_shape[-1]}: set data.channels=3 or 1.'
        )
    return np.stack(images), self.labels[indices]


def image_files(root: Path) -> tuple[list[Path], list[str]]:
  """The image files below a folder, and those of its sub-folders that hold any, both sorted."""
  found = [p for p in sorted(root.rglob('*')) if not any(part.startswith('.') for part in p.relative_to(root).parts)]
  for path in found:
    if path.is_symlink():
      refuse_link(path, root)
  folders = [p.name for p in found if p.parent == root and p.is_dir()]
  files = [p for p in found if p.suffix.lower() in SUFFIXES and p.is_file()]
  if not files:
    raise UsageError(f'{root} holds no images (files ending in {", ".join(SUFFIXES)}).')
  loose = [p for p in files if p.parent == root]
  if folders and loose and len(loose) < len(files):
    raise UsageError(f'{root}: {loose[0].name} lies beside the sub-folders, which are the labels; move it into one.')
  return files, [f for f in folders if any(p.relative_to(root).parts[0] == f for p in files)] if len(loose) < len(files) else []


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


class Tfds:
  """An image data set of TensorFlow Datasets, prepared as ArrayRecord and read by random access without TensorFlow."""

  def __init__(self, name: str, split: str, resolution: int, channels: int, data_dir: str):
    import tensorflow_datasets as tfds

    self.name = name
    where = data_dir or os.environ.get('TFDS_DATA_DIR') or None
    if name.split('/')[0].split(':')[0] not in (known := tfds.list_builders(with_community_datasets=False)):
      exact = [k for k in known if k.replace('_', '') == re.sub('[^a-z0-9]', '', name.lower())]  # CIFAR-10 is cifar10
      near = exact or difflib.get_close_matches(name.lower(), ['digits', *known])
      raise UsageError(
        f'data.name={name!r} is not digits, a data set of TensorFlow Datasets, a folder or an .npz file.'
        + (f' Did you mean {" or ".join(near)}?' if near else '')
      )
    try:
      builder = tfds.builder(name, data_dir=where, file_format='array_record')
    except (ValueError, KeyError, AssertionError, RuntimeError, tfds.core.DatasetNotFoundError) as error:
      configs = list(tfds.builder_cls(name.split('/')[0].split(':')[0]).builder_configs)
      has = f'; its configs are {", ".join(configs[:12])}' if configs else ''
      raise UsageError(f'data.name={name!r}: TensorFlow Datasets has no such config or version{has}.') from error
    if not builder.info.splits:
      raise UsageError(f'{name} is not prepared in {builder.data_dir}. ' + how_to_prepare(name, data_dir))
    image = [k for k, f in builder.info.features.items() if isinstance(f, tfds.features.Image)]
    label = [k for k, f in builder.info.features.items() if isinstance(f, tfds.features.ClassLabel)]
    if not image:
      raise UsageError(f'{name} has no image feature; it has {", ".join(builder.info.features)}.')
    self.image_key, self.label_key = image[0], label[0] if label else None
    self.num_classes = builder.info.features[label[0]].num_classes if label else 0
    try:
      self.examples = builder.as_data_source(split=split)
    except (ValueError, KeyError, AssertionError):
      have = ', '.join(builder.info.splits)
      raise UsageError(f'{name} has no split {split!r}; it has {have}, and parts like train[:10%].') from None
    except NotImplementedError as error:
      raise UsageError(f'{name} in {builder.data_dir}: {error}. ' + how_to_prepare(name, data_dir)) from None
    own = builder.info.features[image[0]].shape[-1]
    self.channels = channels or (1 if own == 1 else 3)
    self.resolution = resolution
    self.image_shape = (resolution, resolution, self.channels)

  def __len__(self) -> int:
    return len(self.examples)

  def read(self, indices: np.ndarray) -> Read:
    examples = self.examples.__getitems__([int(i) for i in indices])
    images = np.stack([resize(self.as_channels(e[self.image_key]), self.resolution) for e in examples])
    labels = np.array([e[self.label_key] if self.label_key else 0 for e in examples], np.int32)
    if labels.min(initial=0) < 0:
      raise UsageError(f'{self.name} has images without a label (-1) in this split: choose another data.split.')
    return images, labels

  def as_channels(self, image: np.ndarray) -> np.ndarray:
    if image.shape[-1] == self.channels:
      return image
    return to_array(Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image), MODES[self.channels])


def how_to_prepare(name: str, data_dir: str) -> str:
  from genjax.data.prepare import DATASETS

  where = f' --data_dir {data_dir}' if data_dir else ''
  if name in DATASETS:
    return f'Run: python -m genjax.data.prepare {name}{where}'
  return f'Run, where TensorFlow is installed: tfds build {name} --file_format=array_record{where}'
