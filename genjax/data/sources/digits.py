"""The handwritten digits in scikit-learn's wheel."""

import importlib.util
from pathlib import Path

import numpy as np

from genjax.data.sources.base import Arrays, from_arrays
from genjax.errors import UsageError


def digits(split: str, resolution: int, channels: int) -> Arrays:
  """scikit-learn's 1,797 handwritten digits (UCI, 8x8, 17 levels): the first 1,500 are 'train', the others 'test'."""
  parts = {'train': slice(0, 1500), 'test': slice(1500, None)}
  if split not in parts:
    raise UsageError(f'digits has no split {split!r}: use data.split=train or test.')
  package = Path(importlib.util.find_spec('sklearn').origin).parent  # importing it would take seconds
  rows = np.loadtxt(package / 'datasets' / 'data' / 'digits.csv.gz', delimiter=',')[parts[split]]
  images = np.round(rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
  return from_arrays('digits', images, rows[:, -1].astype(np.int64), 10, resolution, channels)
