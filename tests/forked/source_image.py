"""A conditioner for a source image, which cannot be drawn. Guidance leaves it as it is."""

import dataclasses

import numpy as np
from PIL import Image

from genjax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class SourceImage:
  fields = ('source',)

  def check(self, example):
    if 'source' not in example.cond:
      raise UsageError('the data have no source images.')

  def encode(self, values, n, example):
    if 'source' not in values:
      return {}
    source = values['source']
    if isinstance(source, str):  # a file, from sample.py
      with Image.open(source) as image:
        source = np.atleast_3d(np.asarray(image.convert('L'))) / 127.5 - 1
    source = np.asarray(source, np.float32)
    shape = example.cond['source'].shape
    if source.shape not in (shape, (n, *shape)):
      raise UsageError(f'source: give an image {list(shape)}, or one for each of the {n} samples.')
    return {'source': np.broadcast_to(source, (n, *shape))}

  def null(self, cond):
    return dict(cond)

  def draw(self, keys):
    raise UsageError('source images cannot be drawn: give source=...')

  def embed(self, cond):
    return dict(cond)

  def drop(self, keys, cond, rate):
    return dict(cond)
