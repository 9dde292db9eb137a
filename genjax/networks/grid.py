"""Encoder to a grid of vectors and decoder from it, for codes: residual blocks as in VQ-VAE (1711.00937, section 4.1)."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from genjax.errors import UsageError
from genjax.networks.layers import LABEL, NO_COND, Conv, TransposedConv, concat_label, condition_vector
from genjax.types import Cond

Grid = Float[Array, 'b h w d']


class Residual(nn.Module):
  """x + 1x1 (3x3 (x)), ReLU before each."""

  dtype: str

  @nn.compact
  def __call__(self, x: Grid) -> Grid:
    h = Conv(x.shape[-1], (3, 3), dtype=self.dtype)(nn.relu(x))
    return x + Conv(x.shape[-1], (1, 1), dtype=self.dtype)(nn.relu(h))


class GridEncoder(nn.Module):
  """Image [B, H, W, C] -> float32 [B, H / 2^levels, W / 2^levels, dim]."""

  dim: int
  width: int = 64
  levels: int = 2
  blocks: int = 2
  dtype: str = 'float32'

  fields = LABEL

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], cond: Cond = NO_COND) -> Grid:
    label = condition_vector(cond, self.fields)
    if any(side % (1 << self.levels) for side in x.shape[1:3]):
      raise UsageError(f'images {x.shape[1:]} cannot be halved {self.levels} times: lower objective.encoder.levels.')
    h = concat_label(x, label)
    for level in range(self.levels):
      h = Conv(self.width, (4, 4), strides=2, dtype=self.dtype)(nn.relu(h) if level else h)
    h = Conv(self.width, (3, 3), dtype=self.dtype)(nn.relu(h))
    for _ in range(self.blocks):
      h = Residual(self.dtype)(h)
    return nn.Dense(self.dim)(h.astype(jnp.float32))


class GridDecoder(nn.Module):
  """Grid [B, h, w, dim] -> parameters of p(x|z), float32 [B, h 2^levels, w 2^levels, outputs]."""

  image_shape: tuple[int, int, int]
  width: int = 64
  levels: int = 2
  blocks: int = 2
  dtype: str = 'float32'
  outputs: int | None = None  # channels of the output; None: those of the image

  fields = LABEL

  @nn.compact
  def __call__(self, z: Grid, cond: Cond = NO_COND) -> Float[Array, 'b h w o']:
    label = condition_vector(cond, self.fields)
    h = Conv(self.width, (3, 3), dtype=self.dtype)(concat_label(z, label))
    for _ in range(self.blocks):
      h = Residual(self.dtype)(h)
    for _ in range(self.levels):
      h = TransposedConv(self.width, dtype=self.dtype)(nn.relu(h))
    outputs = self.outputs or self.image_shape[-1]
    return Conv(outputs, (3, 3), dtype=self.dtype, name='out')(nn.relu(h)).astype(jnp.float32)
