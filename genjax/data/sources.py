"""Data sources: the digits in scikit-learn's wheel, TensorFlow Datasets, a folder of images, an npz file.

A source has `name`, `image_shape` (H, W, C), `num_classes` (0: no labels), a length, and `read(indices)` -> uint8
[n, H, W, C] and int32 [n]. `open_data` picks one by name and brings it into memory if it fits. Sources may also have
`classes` and `contents()`, which identify their data (genjax/data/contents.py).
"""

import dataclasses
import difflib
import functools
import hashlib
import importlib.util
import os
import re
import zipfile
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image, ImageColor
from PIL import __version__ as pillow_version
from tqdm import tqdm

from genjax.data import contents, decoded, modes
from genjax.data.contents import Contents
from genjax.data.listing import image_files, print_ignored
from genjax.data.photos import MODES, read_photo, to_array
from genjax.errors import UsageError
from genjax.images import resize

Read = tuple[UInt8[np.ndarray, 'n h w c'], Int32[np.ndarray, 'n']]
DECODER_VERSION = 1  # increased when decoding changes the pixels
CACHED_FILES, CACHED_BYTES = 1000, 8 * 2**20  # a folder with fewer files and bytes is not cached: decoding takes about a second


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
  classes: tuple[str, ...] = ()
  origin: Contents | None = None  # contents of the original files or arrays; None: of `images` and `labels`

  def contents(self) -> Contents:
    return self.origin or contents.hash_arrays(self.images, self.labels)

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
  channels: int = 0,  # 1 grayscale, 3 RGB, 0 as they are
  background: str = 'white',  # behind transparent pixels: a name or #rrggbb; '' drops the transparency
  skip: bool = False,  # leave out images of a folder that cannot be read, and say how many
  data_dir: str = '',  # of TensorFlow Datasets; '': $TFDS_DATA_DIR or its default
  memory_gib: float = 4.0,  # larger sets are streamed from disk
) -> Source:
  """The images of `name`, at `resolution`.

  Raises:
    UsageError: an unknown or unprepared data set, a path without images, an unreadable image, mixed channel counts,
      labels that are not 0, 1, 2, ..., a folder of splits, or a class without images.
  """
  if resolution < 1:
    raise UsageError(f'data.resolution={resolution} is not a side in pixels.')
  if channels not in (0, 1, 3):
    raise UsageError(f'data.channels={channels} must be 1 (grayscale), 3 (RGB) or 0 (as they are).')
  if background:
    try:
      ImageColor.getrgb(background)
    except ValueError:
      raise UsageError(f'data.background={background!r} is not a color: use a name such as white, or #rrggbb.') from None
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
  if is_folder and path.name == name and is_known(name):
    print(f'data.name={name!r} is the data set of that name. For the folder {name} use data.name=./{name}.')
    is_folder = False
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
      source = npz(place, resolution, channels, background, place == path)
    else:
      folders = None if place == path else image_files(path).folders
      source = ImageFolder(place, resolution, channels, skip, folders, background)
  elif name.startswith(('.', '/', '~')):
    raise UsageError(f'data.name={name!r} is a path, and there is no folder or .npz file at it.')
  else:
    source = Tfds(name, split, resolution, channels, data_dir, background)
  if isinstance(source, ImageFolder):
    source = source.into_memory(memory_gib * 2**30)
  if not len(source):
    raise UsageError(f'data.name={source.name!r} holds no images.')
  if isinstance(source, Arrays) or len(source) * np.prod(source.image_shape) > memory_gib * 2**30:
    return source
  images = np.empty((len(source), *source.image_shape), np.uint8)
  labels = np.empty(len(source), np.int32)
  for start in range(0, len(source), 1024):
    part = np.arange(start, min(start + 1024, len(source)))
    images[part], labels[part] = source.read(part)
  return Arrays(source.name, images, labels, source.num_classes, *contents.describe(source))


def is_known(name: str) -> bool:
  """Whether genjax or TensorFlow Datasets has a data set of that name."""
  return name in ('digits', *modes.SETS) or name in tfds_names()


def tfds_names() -> list[str]:
  import tensorflow_datasets as tfds

  return tfds.list_builders(with_community_datasets=False)


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
  parts = {'train': slice(0, 1500), 'test': slice(1500, None)}
  if split not in parts:
    raise UsageError(f'digits has no split {split!r}: give data.split=train or test.')
  package = Path(importlib.util.find_spec('sklearn').origin).parent  # importing it would take seconds
  rows = np.loadtxt(package / 'datasets' / 'data' / 'digits.csv.gz', delimiter=',')[parts[split]]
  images = np.round(rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
  return from_arrays('digits', images, rows[:, -1].astype(np.int64), 10, resolution, channels)


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


def npz(path: Path, resolution: int, channels: int, background: str = 'white', complete: bool = True) -> Arrays:
  """An npz file with `image` uint8 [N, H, W] or [N, H, W, 1, 3 or 4] and, for labels, `label` [N] of whole numbers from 0.

  `complete`: require every label from 0 to the largest. The test split of another file need not have all of them.
  """
  arrays, keys = read_arrays(path, ('image', 'label'))
  if 'image' not in arrays:
    raise UsageError(f"{path} has no array 'image'; it has {', '.join(keys) or 'nothing'}.")
  images, labels = arrays['image'], arrays.get('label')
  if unread := sorted(set(keys) - {'image', 'label', 'seed', 'options'}):  # the last two are those of sample.py --npz
    print(f'{path}: ignoring the arrays {", ".join(unread)}; only image and label are read.')
  check_pixels(path, 'image', images)
  if labels is None:
    return from_arrays(str(path), images, np.zeros(len(images), np.int32), 0, resolution, channels, background)
  if labels.shape != images.shape[:1] or labels.dtype.kind not in 'iu':
    raise UsageError(f"{path}: 'label' is {labels.dtype}{list(labels.shape)}; it must be whole numbers [{len(images)}].")
  if len(labels) and (labels.min() < 0 or labels.max() >= 2**31 - 1):
    raise UsageError(f'{path}: labels run from {labels.min()} to {labels.max()}; they must be 0, 1, 2, ...')
  values = np.unique(labels)
  if complete and (gaps := np.flatnonzero(values != np.arange(len(values), dtype=labels.dtype))).size:
    raise UsageError(
      f'{path}: there are {len(values)} labels up to {labels.max()}, and none is {gaps[0]}; they must be 0, 1, 2, ... '
      'without gaps: save numpy.unique(label, return_inverse=True)[1].'
    )
  classes = int(labels.max()) + 1 if len(labels) else 0
  return from_arrays(str(path), images, labels, classes, resolution, channels, background)


def read_arrays(path: Path, names: Collection[str]) -> tuple[dict[str, np.ndarray], list[str]]:
  """The arrays `names` of an npz file, as far as it has them, and the names of all its arrays. Raises UsageError if invalid."""
  try:
    with zipfile.ZipFile(path) as archive:
      size = sum(member.file_size for member in archive.infolist())
    if size > os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'):
      raise MemoryError(f'it unpacks to {size / 2**30:,.0f} GiB, more than this machine has')
    with np.load(path, allow_pickle=False) as file:
      return {key: file[key] for key in names if key in file.files}, file.files
  except FileNotFoundError:
    raise UsageError(f'{path}: there is no such file.') from None
  except Exception as error:  # numpy, zipfile and zlib each have their own for bytes that make no sense
    reason = str(error).splitlines()[0] if str(error) and 'pickle' not in str(error) else type(error).__name__
    raise UsageError(f'{path} is not an npz file of plain arrays ({reason}); write it with numpy.savez.') from None


def check_pixels(path: Path, name: str, images: np.ndarray, channels: Collection[int] = (1, 3, 4)) -> None:
  """Raises UsageError unless an array of an npz file is uint8 [N, H, W] or [N, H, W, C], C one of `channels`."""
  if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] not in channels):
    channels_first = images.ndim == 4 and images.shape[1] in (1, 3, 4) and images.shape[-1] not in (1, 3, 4)
    hint = f' This looks like [N, C, H, W]: save {name}.transpose(0, 2, 3, 1).' if channels_first else ''
    raise UsageError(
      f"{path}: '{name}' is {images.dtype}{list(images.shape)}; it must be uint8 [N, H, W] or [N, H, W, C], C 1, 3 or 4.{hint}"
    )
  if 0 in images.shape[1:]:
    raise UsageError(f"{path}: '{name}' is uint8{list(images.shape)}: images without pixels.")


def from_arrays(
  name: str,
  images: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  resolution: int,
  channels: int,
  background: str = 'white',
) -> Arrays:
  """Arrays [N, H, W] or [N, H, W, C] at another resolution or channel count; transparent pixels show the background."""
  origin = contents.hash_arrays(images, labels)
  images = images if images.ndim == 4 else images[..., None]
  channels = channels or (3 if images.shape[-1] == 4 else images.shape[-1])
  if channels != images.shape[-1]:
    mode = MODES[channels]
    images = [to_array(Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x), mode, background) for x in images]
    images = np.stack(images) if images else np.empty((0, resolution, resolution, channels), np.uint8)
  if images.shape[1:3] != (resolution, resolution):
    images = np.stack([resize(x, resolution) for x in images]) if len(images) else images
  return Arrays(name, np.ascontiguousarray(images), labels.astype(np.int32), num_classes, (), origin)


class ImageFolder:
  """Image files below a folder. Its sub-folders, sorted by name, are the labels; without any there are no labels.

  Hidden files and folders are ignored; broken links and links to folders or out of the folder are errors. Images are rotated by
  the orientation in their metadata, and transparent pixels show the background; palettes become RGB, 16-bit grayscale becomes
  8-bit. All images must have the channels of the first unless `channels` is set. `folders` overrides the labels, with those of
  another split.
  """

  def __init__(
    self,
    root: Path,
    resolution: int,
    channels: int,
    skip: bool,
    folders: list[str] | None = None,
    background: str = 'white',
  ):
    self.name, self.root, self.skip = str(root), root, skip
    listing = image_files(root)
    print_ignored(root, listing)
    folders = listing.folders if folders is None else folders
    if unknown := sorted(set(listing.folders) - set(folders)):
      have = ', '.join(folders) or 'none'
      raise UsageError(f'{root / unknown[0]}: the images trained on have no such sub-folder; they have {have}.')
    if folders and not listing.folders:
      raise UsageError(f'{root}: its images are in no sub-folder, those trained on are: in {", ".join(folders)}.')
    self.num_classes, self.classes, self.files = len(folders), tuple(folders), listing.files
    self.options = {'resolution': resolution, 'channels': channels, 'background': background}
    statuses = [path.stat() for path in self.files]
    self.origin = contents.hash_files(root, self.files, [status.st_size for status in statuses])
    self.bytes, times = sum(status.st_size for status in statuses), [status.st_mtime_ns for status in statuses]
    key = f'{self.origin.hash} {times} {self.options} {skip} {pillow_version} {DECODER_VERSION}'
    self.key = hashlib.sha256(key.encode()).hexdigest()[:32]
    number = {folder: i for i, folder in enumerate(folders)}
    self.labels = np.array([number.get(p.relative_to(root).parts[0], 0) for p in self.files], np.int32)
    first = next((image for path in self.files if (image := self.load(path, skip)) is not None), None)
    if first is None:
      raise UsageError(f'{root}: none of its {len(self.files)} images can be read.')
    self.image_shape = first.shape

  def __len__(self) -> int:
    return len(self.files)

  def contents(self) -> Contents:
    return self.origin

  def load(self, path: Path, skip: bool = False) -> UInt8[np.ndarray, 'h w c'] | None:
    """One image at the folder's resolution, with `channels` or its own channels. None if it cannot be read and `skip`."""
    try:
      return read_photo(path, **self.options)
    except UsageError:
      if not skip:
        raise
      return None

  def check_channels(self, path: Path, image: np.ndarray) -> None:
    if image.shape[-1] != self.image_shape[-1]:
      raise UsageError(
        f'{path} has {image.shape[-1]} channel{"s"[: image.shape[-1] - 1]}, the first image '
        f'{self.image_shape[-1]}: set data.channels=3 or 1.'
      )

  def read(self, indices: np.ndarray) -> Read:
    images = [self.load(self.files[i]) for i in indices]
    for i, image in zip(indices, images, strict=True):
      self.check_channels(self.files[i], image)
    return np.stack(images), self.labels[indices]

  def into_memory(self, memory: float) -> Source:
    """Decodes the images into memory if they take at most `memory` bytes; with `skip`, drops those that cannot be read."""
    shape = (len(self), *self.image_shape)
    if not (keep := np.prod(shape, dtype=np.int64) <= memory) and not self.skip:
      return self
    make = functools.partial(self.decode, keep)
    cached = keep and (len(self) >= CACHED_FILES or self.bytes >= CACHED_BYTES)
    images, left_out = decoded.fetch(self.key, shape, make) if cached else make()
    files, skipped = self.files, set(left_out.tolist())
    self.files = [path for i, path in enumerate(files) if i not in skipped]
    self.labels = np.delete(self.labels, left_out)
    if self.skip:
      examples = ', '.join(str(files[i].relative_to(self.root)) for i in left_out[:5])
      print(
        f'{self.root}: skipped {len(left_out)} of {len(files)} images that cannot be read{": " * bool(examples)}{examples}.'
      )
      empty = {files[i].relative_to(self.root).parts[0] for i in left_out if self.num_classes}
      empty -= {path.relative_to(self.root).parts[0] for path in self.files}
      if empty:
        raise UsageError(f'{self.root / min(empty)}: none of the images of this class can be read; repair or remove them.')
    return Arrays(self.name, images, self.labels, self.num_classes, self.classes, self.origin) if keep else self

  def decode(self, keep: bool) -> tuple[UInt8[np.ndarray, 'n h w c'], np.ndarray]:
    """Decodes all images in threads. Returns them (none unless `keep`), and the indices of those that cannot be read."""
    images, left_out = np.empty((len(self) if keep else 0, *self.image_shape), np.uint8), []
    with (
      ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool,
      tqdm(total=len(self), desc='reading images', delay=2, leave=False, disable=None) as progress,
    ):
      for start in range(0, len(self), 256):  # in parts, so that few images wait to be copied
        part = self.files[start : start + 256]
        for i, image in enumerate(pool.map(functools.partial(self.load, skip=self.skip), part), start):
          if image is None:
            left_out.append(i)
          else:
            self.check_channels(self.files[i], image)
            if keep:
              images[i - len(left_out)] = image
          progress.update()
    return images[: len(self) - len(left_out)], np.array(left_out, np.int64)


class Tfds:
  """An image data set of TensorFlow Datasets, prepared as ArrayRecord and read by random access without TensorFlow."""

  def __init__(self, name: str, split: str, resolution: int, channels: int, data_dir: str, background: str = 'white'):
    import tensorflow_datasets as tfds

    self.name = name
    where = data_dir or os.environ.get('TFDS_DATA_DIR') or None
    if name.split('/')[0].split(':')[0] not in (known := tfds_names()):
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
    self.classes = tuple(builder.info.features[label[0]].names) if label else ()
    self.background = background
    try:
      self.examples = builder.as_data_source(split=split)
      self.encoded = builder.as_data_source(split=split, decoders={image[0]: tfds.decode.SkipDecoding()})
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

  def contents(self) -> Contents:
    """Hashes some examples: labels, and bytes of JPEG files or pixels of PNG files, whose bytes vary with the encoder."""
    rows = np.linspace(0, len(self) - 1, min(len(self), contents.SAMPLE)).astype(int).tolist()
    encoded, decoded = (examples.__getitems__(rows) if rows else [] for examples in (self.encoded, self.examples))
    parts = []
    for raw, example in zip(encoded, decoded, strict=True):
      image = raw[self.image_key]
      image = np.ascontiguousarray(example[self.image_key]).tobytes() if image.startswith(b'\x89PNG') else image
      parts.append(f'{example[self.label_key] if self.label_key else 0} '.encode() + image)
    return contents.hash_examples(parts, len(self))

  def as_channels(self, image: np.ndarray) -> np.ndarray:
    if image.shape[-1] == self.channels:
      return image
    return to_array(Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image), MODES[self.channels], self.background)


def how_to_prepare(name: str, data_dir: str) -> str:
  from genjax.data.prepare import DATASETS

  where = f' --data_dir {data_dir}' if data_dir else ''
  if name in DATASETS:
    return f'Run: python -m genjax.data.prepare {name}{where}'
  return f'Run, where TensorFlow is installed: tfds build {name} --file_format=array_record{where}'
