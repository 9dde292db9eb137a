"""A cache of decoded images on disk, so that thousands of photographs are not decoded at every start."""

import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from genjax.files import cache_folder, optional, write_whole

MAX_BYTES = 16 * 2**30  # of the cache; the least recently used files are deleted


def fetch(key: str, shape: tuple[int, ...], make: Callable[[], tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
  """`make()`, cached under `key` in $GENJAX_CACHE/images: images uint8 [N, H, W, C], and indices of files that were skipped.

  Args:
    key: a hash of everything that the result depends on.
    shape: (N, H, W, C) of the images if none is skipped.
    make: decodes the images.

  A damaged cache file is replaced, and without write access nothing is cached; a message reports both.
  """
  path = cache_folder() / 'images' / f'{key}.npz'
  try:
    with open(path, 'rb') as raw, np.load(raw, allow_pickle=False) as file:
      images, left_out = file['images'], file['left_out']
    if images.dtype == np.uint8 and images.shape == (shape[0] - len(left_out), *shape[1:]):
      os.utime(path)
      return images, left_out
    print(f'{path} contains other images: decoding them again.')
  except FileNotFoundError:
    pass
  except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
    print(f'{path} cannot be read ({error}): decoding the images again.')
  images, left_out = make()
  with optional('The images will be decoded again at the next start.'):
    write_whole(path, lambda file: np.savez(file, images=images, left_out=left_out), 'set GENJAX_CACHE to another folder')
    delete_oldest(path.parent)
  return images, left_out


def delete_oldest(folder: Path) -> None:
  """Deletes the least recently used files of the cache until it takes at most MAX_BYTES."""
  files = sorted(((p.stat(), p) for p in folder.glob('*.npz')), key=lambda pair: -pair[0].st_mtime)
  total = 0
  for status, path in files:
    total += status.st_size
    if total > MAX_BYTES and path != files[0][1]:
      path.unlink(missing_ok=True)
