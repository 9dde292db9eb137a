"""Upsampling and downsampling by 2: by repeating and averaging pixels, or with the filter [1, 3, 3, 1] / 8 (1912.04958).

The filter is applied in both directions with zero padding. It is computed as sums of shifted images for each output phase,
which equals inserting zeros and convolving.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


def halve(x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 c']:
  """Averages 2x2 pixels."""
  return nn.avg_pool(x, (2, 2), (2, 2))


def double(x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 c']:
  """Repeats each pixel 2x2 times."""
  return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def upsample(x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 c']:
  """Inserts zeros between the pixels and applies the filter with gain 4: [B, H, W, C] -> [B, 2H, 2W, C]."""
  for axis in (1, 2):
    size = x.shape[axis]
    before, after = _take(x, axis, -1, size - 1), _take(x, axis, 1, size + 1)
    pair = jnp.stack([before + 3 * x, 3 * x + after], axis=axis + 1) / 4
    x = pair.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
  return x


def downsample(x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 c']:
  """Applies the filter and takes every second pixel: [B, H, W, C] -> [B, H / 2, W / 2, C], H and W even."""
  for axis in (1, 2):
    size = x.shape[axis]
    padded = _take(x, axis, -1, size + 1)
    parts = [_take(padded, axis, i, size + i - 1, 2) for i in range(4)]
    x = (parts[0] + 3 * parts[1] + 3 * parts[2] + parts[3]) / 8
  return x


def _take(x: Float[Array, 'b h w c'], axis: int, start: int, stop: int, step: int = 1) -> Float[Array, 'b h w c']:
  """x[start:stop:step] along `axis`, zeros beyond the ends."""
  before, after = max(-start, 0), max(stop - x.shape[axis], 0)
  pad = [(0, 0)] * x.ndim
  pad[axis] = (before, after)
  index = [slice(None)] * x.ndim
  index[axis] = slice(start + before, stop + before, step)
  return jnp.pad(x, pad)[tuple(index)]
