"""Data sets with countable modes, to measure mode collapse (1712.04086, section 4): 25 Gaussians and Stacked-MNIST."""

import numpy as np
from jaxtyping import Float, Int32, UInt8

from genjax.data.sources.base import Arrays, labeled
from genjax.data.sources.tfds import Tfds
from genjax.errors import UsageError

SETS = ('gaussians_25', 'stacked_mnist')
POINTS = 100_000
SPACING, DEVIATION = 51.0, 1.275  # of 255 levels: as 2 and 0.05 in the papers, from -5 to 5


def centers() -> Float[np.ndarray, '25 2']:
  """The means of the Gaussians, a grid of 5 x 5, in levels from 0 to 255."""
  line = 127.5 + SPACING * (np.arange(5) - 2)
  return np.stack(np.meshgrid(line, line, indexing='ij'), axis=-1).reshape(25, 2)


def gaussians(split: str) -> tuple[UInt8[np.ndarray, 'n 1 1 2'], Int32[np.ndarray, 'n']]:
  """Points of 25 Gaussians as images of one pixel with two channels, rounded to levels; the labels are the Gaussians."""
  random = np.random.default_rng({'train': 0, 'test': 1}[split])
  labels = random.integers(25, size=POINTS)
  points = centers()[labels] + DEVIATION * random.normal(size=(POINTS, 2))
  return np.rint(points).astype(np.uint8).reshape(POINTS, 1, 1, 2), labels.astype(np.int32)


def stacked(images: UInt8[np.ndarray, 'n h w 1'], labels: Int32[np.ndarray, 'n'], seed: int):
  """Equally many images [N, H, W, 3], each with three random images as red, green and blue; labels 100 r + 10 g + b."""
  three = np.random.default_rng(seed).integers(len(images), size=(len(images), 3))
  return images[three][..., 0].transpose(0, 2, 3, 1), (labels[three] @ [100, 10, 1]).astype(np.int32)


def with_modes(name: str, split: str, resolution: int, channels: int, data_dir: str) -> Arrays:
  """The data set gaussians_25 or stacked_mnist."""
  if split not in ('train', 'test'):
    raise UsageError(f'{name} has no split {split!r}: use data.split=train or test.')
  if channels:
    raise UsageError(f'data.channels={channels}: the channels of {name} are fixed, set it to 0.')
  if name == 'gaussians_25':
    if resolution != 1:
      raise UsageError(f'data.resolution={resolution}: the images of gaussians_25 have one pixel, set it to 1.')
    return labeled(name, *gaussians(split), 25)
  mnist = Tfds('mnist', split, resolution, 1, data_dir)
  images, cond = mnist.read(np.arange(len(mnist)))
  return labeled(name, *stacked(images, cond['label'], {'train': 0, 'test': 1}[split]), 1000)
