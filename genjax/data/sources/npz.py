"""Images in an npz file."""

import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np

from genjax.data.sources.base import MAX_CLASSES, Arrays, from_arrays
from genjax.errors import UsageError
from genjax.memory import machine_memory


def npz(path: Path, resolution: int, channels: int, background: str = 'white', complete: bool = True) -> Arrays:
  """An npz file with `image` uint8 [N, H, W] or [N, H, W, 1, 3 or 4] and, for labels, `label` [N] of integers from 0.

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
  if classes > MAX_CLASSES:
    raise UsageError(f'{path}: labels run up to {classes - 1}; they must be below {MAX_CLASSES:,}.')
  return from_arrays(str(path), images, labels, classes, resolution, channels, background)


def read_arrays(path: Path, names: Collection[str]) -> tuple[dict[str, np.ndarray], list[str]]:
  """Those of the arrays `names` that an npz file has, and the names of all its arrays. Raises UsageError if invalid."""
  try:
    with zipfile.ZipFile(path) as archive:
      size = sum(member.file_size for member in archive.infolist())
    if size > machine_memory():
      raise MemoryError(f'it unpacks to {size / 2**30:,.0f} GiB, more than this machine has')
    with np.load(path, allow_pickle=False) as file:
      return {key: file[key] for key in names if key in file.files}, file.files
  except FileNotFoundError:
    raise UsageError(f'{path} does not exist.') from None
  except Exception as error:  # numpy, zipfile and zlib raise many types for invalid bytes
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
    raise UsageError(f"{path}: '{name}' is uint8{list(images.shape)}; its images must have pixels.")
