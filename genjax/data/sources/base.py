"""The base class of data sources, sources in memory, and the hash of what a source reads."""

import abc
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from genjax.data import contents
from genjax.data.contents import Contents
from genjax.data.photos import MODES, to_array
from genjax.errors import DataError, UsageError
from genjax.images import resize
from genjax.logging import reading_bar
from genjax.memory import machine_memory
from genjax.types import Example

MAX_CLASSES = 1_000_000  # each has a name in memory

Read = tuple[UInt8[np.ndarray, 'n h w c'], dict[str, np.ndarray]]


class Source(abc.ABC):
  """Examples by number: images, and the conditions that come with them.

  A subclass has a `name` for messages, an `example`, and `read`. One that identifies its content is also a `HasContents`
  (genjax/data/contents.py).
  """

  name: str

  @property
  @abc.abstractmethod
  def example(self) -> Example:
    """Shapes and types of an example, the names of the classes if there is a field `label`, and the number of examples."""

  @abc.abstractmethod
  def read(self, rows: np.ndarray) -> Read:
    """Images uint8 [n, H, W, C] and conditions, each [n, ...], of the examples `rows`."""

  def __len__(self) -> int:
    return self.example.size

  @property
  def image_shape(self) -> tuple[int, int, int]:
    return self.example.image.shape

  @property
  def num_classes(self) -> int:
    """The number of classes; 0 without labels."""
    return len(self.example.classes)


def numbered(classes: int) -> tuple[str, ...]:
  """Names of classes without names: '0', '1', ... Raises UsageError for more than MAX_CLASSES."""
  if classes > MAX_CLASSES:
    raise UsageError(f'{classes:,} classes are too many: genjax supports up to {MAX_CLASSES:,}.')
  return tuple(map(str, range(classes)))


def example_of(
  image_shape: Sequence[int], cond: Mapping[str, np.ndarray], classes: Sequence[str] = (), size: int = 0
) -> Example:
  """The `Example` of a source with images of this shape and conditions [n, ...]; `size` is the number of examples."""
  shapes = {name: jax.ShapeDtypeStruct(np.shape(x)[1:], np.asarray(x[:0]).dtype) for name, x in cond.items()}
  return Example(jax.ShapeDtypeStruct(tuple(image_shape), np.float32), shapes, tuple(classes), size)


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays(Source):
  """A source in memory: `images` uint8 [N, H, W, C], and `cond` with arrays [N, ...]."""

  name: str
  images: UInt8[np.ndarray, 'n h w c']
  cond: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  classes: tuple[str, ...] = ()  # names, if `cond` has a label
  origin: Contents | None = None  # contents of the original files or arrays; None: of `images` and `cond`

  def contents(self) -> Contents:
    return self.origin or contents.hash_arrays(self.images, self.cond)

  @property
  def example(self) -> Example:
    return example_of(self.images.shape[1:], self.cond, self.classes, len(self.images))

  def read(self, rows: np.ndarray) -> Read:
    return self.images[rows], {name: x[rows] for name, x in self.cond.items()}


def labeled(
  name: str,
  images: UInt8[np.ndarray, 'n h w c'],
  labels: np.ndarray,
  classes: int | Sequence[str],
  origin: Contents | None = None,
) -> Arrays:
  """Images in memory with labels of `classes`, a number or names; without labels if there are no classes."""
  names = numbered(classes) if isinstance(classes, int) else tuple(classes)
  return Arrays(name, images, {'label': np.asarray(labels, np.int32)} if names else {}, names, origin)


@dataclasses.dataclass(frozen=True, eq=False)
class Subset(Source):
  """The examples `rows` of `source`."""

  source: Source
  rows: np.ndarray

  @property
  def name(self) -> str:
    return self.source.name

  @property
  def example(self) -> Example:
    return self.source.example._replace(size=len(self.rows))

  def read(self, rows: np.ndarray) -> Read:
    return self.source.read(self.rows[rows])


def data_hash(source: Source) -> str:
  """sha256 (16 digits) over shape, images and conditions in order."""
  digest = hashlib.sha256(f'{source.image_shape} {len(source)}'.encode())
  for start in range(0, len(source), 1024):
    images, cond = source.read(np.arange(start, min(start + 1024, len(source))))
    for array in (images, *contents.arrays_of(cond, len(images), np.int32)):
      digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()[:16]


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
  origin = contents.hash_arrays(images, {'label': labels})
  images = images if images.ndim == 4 else images[..., None]
  channels = channels or (3 if images.shape[-1] == 4 else images.shape[-1])
  needed = 2 * len(images) * resolution**2 * channels  # with a copy
  if needed > machine_memory():
    problem = (
      f'{name}: {len(images)} images of {resolution} x {resolution} pixels need {needed // 10**9:,} GB of memory; lower '
    )
    raise DataError(problem, f'data.resolution={resolution}', f'--resolution={resolution}')
  if channels != images.shape[-1]:
    mode = MODES[channels]
    images = [to_array(Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x), mode, background) for x in reading_bar(images)]
    images = np.stack(images) if images else np.empty((0, resolution, resolution, channels), np.uint8)
  if images.shape[1:3] != (resolution, resolution):
    images = np.stack([resize(x, resolution) for x in reading_bar(images)]) if len(images) else images
  return labeled(name, np.ascontiguousarray(images), labels, num_classes, origin)
