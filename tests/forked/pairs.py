"""A data set with a second image per example: a digit, and the same digit upside down as its source image."""

import numpy as np

from genjax.data.sources.base import Source, example_of
from genjax.data.sources.digits import digits


class Pairs(Source):
  name = 'pairs'

  def __init__(self, size: int = 200, split: str = 'train'):
    whole = digits(split, 8, 1)
    self.images = whole.images[:size]
    self.sources = self.images[:, ::-1].astype(np.float32) / 127.5 - 1

  @property
  def example(self):
    return example_of(self.images.shape[1:], {'source': self.sources}, size=len(self.images))

  def read(self, rows):
    return self.images[rows], {'source': self.sources[rows]}
