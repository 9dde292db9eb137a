"""The protocol of a data source, sources in memory, and the hash of what a source reads."""

import dataclasses
import hashlib
from typing import Protocol

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from genjax.data import contents
from genjax.data.contents import Contents
from genjax.data.photos import MODES, to_array
from genjax.images import resize

Read = tuple[UInt8[np.ndarray, 'n h w c'], Int32[np.ndarray, 'n']]


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


def data_hash(source: Source) -> str:
  """sha256 (16 digits) over shape, images and labels in order."""
  digest = hashlib.sha256(f'{source.image_shape} {len(source)}'.encode())
  for start in range(0, len(source), 1024):
    for array in source.read(np.arange(start, min(start + 1024, len(source)))):
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
