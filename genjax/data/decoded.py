"""Decoded images on disk, so that the next start does not decode thousands of photographs again."""

import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from genjax.files import NotWritten, cache_folder, write_whole

MOST = 16 * 2**30  # bytes of the folder; the files used longest ago are deleted


def fetch(
  key: str, images: tuple[int, ...], make: Callable[[], tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
  """`make()`, kept under `key` in $GENJAX_CACHE/images: images uint8 [N, H, W, C], and numbers of files without an image.

  Args:
    key: a hash of all that the result depends on.
    images: shape (N, H, W, C) that the images have if none is left out.
    make: decodes them.

  A file that is damaged is made again, and one that cannot be written is done without; both are said.
  """
  path = cache_folder() / 'images' / f'{key}.npz'
  try:
    with open(path, 'rb') as raw, np.load(raw, allow_pickle=False) as file:
      found = file['images'], file['left_out']
    if found[0].dtype == np.uint8 and found[0].shape == (images[0] - len(found[1]), *images[1:]):
      os.utime(path)
      return found
    print(f'{path} is of other images: they are decoded again.')
  except FileNotFoundError:
    pass
  except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
    print(f'{path} cannot be read ({error}): the images are decoded again.')
  made = make()
  try:
    write_whole(path, lambda file: np.savez(file, images=made[0], left_out=made[1]), 'set GENJAX_CACHE to another folder')
    delete_oldest(path.parent)
  except (NotWritten, OSError) as error:
    print(f'{error}\nThe images will be decoded again at the next start.')
  return made


def delete_oldest(folder: Path) -> None:
  """Until the others take MOST bytes at most."""
  files = sorted(((p.stat(), p) for p in folder.glob('*.npz')), key=lambda pair: -pair[0].st_mtime)
  total = 0
  for status, path in files:
    total += status.st_size
    if total > MOST and path != files[0][1]:
      path.unlink(missing_ok=True)
