"""Image files in a folder, whose sub-folders are the classes."""

import functools
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import __version__ as pillow_version

from genjax.data import contents, decoded
from genjax.data.contents import Contents
from genjax.data.listing import image_files, print_ignored
from genjax.data.photos import read_photo
from genjax.data.sources.base import Read, Source, example_of, labeled
from genjax.errors import DataError, UsageError
from genjax.logging import reading_bar
from genjax.types import Example

DECODER_VERSION = 2  # increased when decoding changes the pixels
CACHED_FILES, CACHED_BYTES = 1000, 8 * 2**20  # a folder with fewer files and bytes is not cached: decoding takes about a second


class ImageFolder(Source):
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
      raise UsageError(f'{root / unknown[0]}: the training images have no such sub-folder; they have {have}.')
    if folders and not listing.folders:
      raise UsageError(f'{root}: the images must be in sub-folders like the training images: {", ".join(folders)}.')
    self.classes, self.files = tuple(folders), listing.files
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
    self.shape = first.shape

  @property
  def example(self) -> Example:
    return example_of(self.shape, self.cond(self.labels), self.classes, len(self.files))

  def cond(self, labels: np.ndarray) -> dict[str, np.ndarray]:
    return {'label': labels} if self.classes else {}

  def contents(self) -> Contents:
    return self.origin

  def load(self, path: Path, skip: bool = False) -> UInt8[np.ndarray, 'h w c'] | None:
    """One image at the folder's resolution, with `channels` if set. None if it cannot be read and `skip`."""
    try:
      return read_photo(path, **self.options)
    except UsageError:
      if not skip:
        raise
      return None

  def check_channels(self, path: Path, image: np.ndarray) -> None:
    if image.shape[-1] != self.shape[-1]:
      problem = f'{path} has {image.shape[-1]} channel{"s"[: image.shape[-1] - 1]}, the first image {self.shape[-1]}: '
      raise DataError(problem, 'set data.channels=3 or 1', 'convert the file, or with --images use --channels 3 or 1')

  def read(self, rows: np.ndarray) -> Read:
    images = [self.load(self.files[i]) for i in rows]
    for i, image in zip(rows, images, strict=True):
      self.check_channels(self.files[i], image)
    return np.stack(images), self.cond(self.labels[rows])

  def into_memory(self, memory: float) -> Source:
    """Decodes the images into memory if they take at most `memory` bytes; with `skip`, drops those that cannot be read."""
    shape = (len(self), *self.shape)
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
      empty = {files[i].relative_to(self.root).parts[0] for i in left_out if self.classes}
      empty -= {path.relative_to(self.root).parts[0] for path in self.files}
      if empty:
        raise UsageError(f'{self.root / min(empty)}: none of the images of this class can be read; repair or remove them.')
    return labeled(self.name, images, self.labels, self.classes, self.origin) if keep else self

  def decode(self, keep: bool) -> tuple[UInt8[np.ndarray, 'n h w c'], np.ndarray]:
    """Decodes all images in threads. Returns them (none unless `keep`), and the indices of those that cannot be read."""
    images, left_out = np.empty((len(self) if keep else 0, *self.shape), np.uint8), []
    with (
      ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool,
      reading_bar(total=len(self)) as progress,
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
