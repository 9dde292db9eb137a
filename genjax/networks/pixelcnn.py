"""PixelCNN++ (Salimans et al. 1701.05517): two streams of shifted convolutions, so that each pixel sees only previous pixels.

`u` depends on the rows above a pixel, `ul` also on the pixels to its left. Unlike the paper, it has no weight normalization.
Downsampling is a strided causal convolution; upsampling repeats pixels before a causal convolution.

`LocalPixelCNN` has a small receptive field, for models that encode the rest of the image otherwise, as in a latent.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from genjax.errors import UsageError
from genjax.networks.layers import LABEL, NO_COND, Conv, condition_vector
from genjax.networks.resample import double
from genjax.networks.unet import dropout
from genjax.types import Cond, Keys

Stream = Float[Array, 'b h w c']
PADS = {'down': ((1, 0), (1, 1)), 'right': ((1, 0), (1, 0))}  # of a 2x3 and a 2x2 kernel: nothing from below or from the right


def shift(x: Stream, rows: int, columns: int) -> Stream:
  """Shifts down and to the right, with zero padding."""
  return jnp.pad(x, ((0, 0), (rows, 0), (columns, 0), (0, 0)))[:, : x.shape[1], : x.shape[2]]


def concat_elu(x: Stream) -> Stream:
  """ELU of x and of -x, twice the channels (1701.05517, section 3)."""
  return nn.elu(jnp.concatenate([x, -x], axis=-1))


def place_condition(cond: Cond) -> Float[Array, 'b h w k'] | None:
  """`features` [B, H, W, K], or else the label [B, 1, 1, K]; None if there is neither."""
  if 'features' in cond:
    return cond['features']
  label = condition_vector(cond, LABEL)
  return None if label is None else label[:, None, None]


class CausalConv(nn.Module):
  """A convolution with no input from below ('down', 2x3), or from below or the right ('right', 2x2)."""

  features: int
  stream: str
  dtype: str
  stride: int = 1

  @nn.compact
  def __call__(self, x: Stream) -> Stream:
    pads = PADS[self.stream]
    size = tuple(sum(pad) + 1 for pad in pads)
    return Conv(self.features, size, self.stride, pads, dtype=self.dtype)(x)


class Gated(nn.Module):
  """x + a sigmoid(b), (a, b) of two convolutions; `skip` is another stream, added through a 1x1 convolution."""

  stream: str
  dropout: float
  number: int  # index of the block in the network
  dtype: str

  @nn.compact
  def __call__(self, x: Stream, skip: Stream | None, label: Float[Array, 'b h w k'] | None, keys: Keys | None) -> Stream:
    c = x.shape[-1]
    h = CausalConv(c, self.stream, self.dtype)(concat_elu(x))
    if skip is not None:
      h = h + nn.Dense(c, dtype=self.dtype)(concat_elu(skip))
    h = dropout(concat_elu(h), self.dropout, keys, self.number)
    h = CausalConv(2 * c, self.stream, self.dtype)(h)
    if label is not None:
      h = h + nn.Dense(2 * c, use_bias=False, dtype=self.dtype)(label)
    a, b = jnp.split(h, 2, axis=-1)
    return x + a * nn.sigmoid(b)


class PixelCNN(nn.Module):
  """Image [B, H, W, C] -> parameters of the likelihood of each pixel given the previous ones, float32 [B, H, W, outputs].

  The previous pixels are those above, and those to the left in the same row. Each of `levels` resolutions has `blocks` gated
  blocks in the downsampling path, and one more in the upsampling path. `cond` may have `label`, one-hot [B, K], or `features`
  of each position, [B, H, W, K].
  """

  outputs: int
  width: int = 32
  blocks: int = 2
  levels: int = 3  # resolutions
  dropout: float = 0.0
  dtype: str = 'float32'
  causal = True  # outputs depend only on previous positions

  fields = ('label', 'features')

  @nn.compact
  def __call__(self, x: Stream, cond: Cond = NO_COND, keys: Keys | None = None) -> Stream:
    label = place_condition(cond)
    if any(side % (1 << (self.levels - 1)) for side in x.shape[1:3]):
      raise UsageError(f'images {x.shape[1:]} cannot be halved {self.levels - 1} times: lower objective.network.levels.')
    x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1).astype(self.dtype)  # distinguishes padding from gray
    conv = lambda size, pads: Conv(self.width, size, padding=pads, dtype=self.dtype)(x)  # noqa: E731
    u = shift(conv((2, 3), ((1, 0), (1, 1))), 1, 0)
    ul = shift(conv((1, 3), ((0, 0), (1, 1))), 1, 0) + shift(conv((2, 1), ((1, 0), (0, 0))), 0, 1)
    number, skips = 0, []

    def gated(u, ul, skip=(None, None)):
      nonlocal number
      ratio = 1 if label is None else label.shape[1] // u.shape[1]
      pooled = label if ratio <= 1 else nn.avg_pool(label, (ratio, ratio), (ratio, ratio))
      u = Gated('down', self.dropout, 2 * number, self.dtype)(u, skip[0], pooled, keys)
      joined = u if skip[1] is None else jnp.concatenate([u, skip[1]], axis=-1)
      ul = Gated('right', self.dropout, 2 * number + 1, self.dtype)(ul, joined, pooled, keys)
      number += 1
      return u, ul

    for level in range(self.levels):
      if level:
        u, ul = (CausalConv(self.width, s, self.dtype, 2)(h) for s, h in (('down', u), ('right', ul)))
      skips.append((u, ul))
      for _ in range(self.blocks):
        u, ul = gated(u, ul)
        skips.append((u, ul))
    for level in range(self.levels):
      if level:
        u, ul = (CausalConv(self.width, s, self.dtype)(double(h)) for s, h in (('down', u), ('right', ul)))
      for _ in range(self.blocks + 1):
        u, ul = gated(u, ul, skips.pop())
    return nn.Dense(self.outputs)(jax.nn.elu(ul).astype(jnp.float32))


class LocalPixelCNN(nn.Module):
  """Like PixelCNN, but depends on pixels at most `reach` away: one shifted convolution and `depth` residual 1x1 layers.

  With such a small window, a latent has to encode the global structure (1611.02731, section 3).
  """

  outputs: int
  width: int = 64
  reach: int = 1
  depth: int = 2
  dtype: str = 'float32'
  causal = True  # outputs depend only on previous positions

  fields = ('label', 'features')

  @nn.compact
  def __call__(self, x: Stream, cond: Cond = NO_COND) -> Stream:
    label = place_condition(cond)
    x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1).astype(self.dtype)
    n, dense = self.reach, functools.partial(nn.Dense, self.width, dtype=self.dtype)
    above = Conv(self.width, (n, 2 * n + 1), padding=((n - 1, 0), (n, n)), dtype=self.dtype)(x)
    left = Conv(self.width, (1, n), padding=((0, 0), (n - 1, 0)), dtype=self.dtype)(x)
    h = shift(above, 1, 0) + shift(left, 0, 1)
    if label is not None:
      h = h + dense(use_bias=False)(label)
    for _ in range(self.depth):
      h = h + dense()(nn.gelu(dense()(nn.gelu(h))))
    return nn.Dense(self.outputs)(nn.gelu(h).astype(jnp.float32))
