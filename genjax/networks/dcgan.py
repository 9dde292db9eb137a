"""DCGAN (Radford, Metz & Chintala, 1511.06434): strided and transposed 4x4 convolutions, batch normalization, no pooling.

The pyramid follows the image: 28 -> 14 -> 7 has two levels, 32 -> 16 -> 8 -> 4 three, 64 four as in the paper; the
channels double from `width` at the largest level down to the smallest. Weights start at N(0, 0.02^2) (section 4).
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from genjax.errors import UsageError
from genjax.networks.layers import (
  LABEL,
  NO_COND,
  Conv,
  DiscriminatorHead,
  TransposedConv,
  concat_label,
  condition_vector,
  halvings,
  spectral,
  square_side,
)
from genjax.types import Cond

INIT = nn.initializers.normal(0.02)


def batch_norm(train: bool, dtype: str) -> nn.BatchNorm:
  return nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=dtype)


class DCGANGenerator(nn.Module):
  """Latent [B, z_dim] -> image in [-1, 1], float32 [B, H, W, C]."""

  image_shape: tuple[int, int, int]
  z_dim: int = 100
  width: int = 64
  dtype: str = 'float32'

  fields = LABEL

  @nn.compact
  def __call__(self, z: Float[Array, 'b z'], cond: Cond = NO_COND, train: bool = True):
    label = condition_vector(cond, self.fields)
    side = square_side(self.image_shape, 'DCGANGenerator')
    levels = halvings(side)
    base, features = side >> levels, self.width << (levels - 1)
    h = concat_label(z, label)
    h = nn.Dense(base * base * features, use_bias=False, kernel_init=INIT, dtype=self.dtype)(h)
    h = nn.relu(batch_norm(train, self.dtype)(h.reshape(-1, base, base, features)))
    for level in reversed(range(levels - 1)):
      h = TransposedConv(self.width << level, use_bias=False, kernel_init=INIT, dtype=self.dtype)(h)
      h = nn.relu(batch_norm(train, self.dtype)(h))
    x = TransposedConv(self.image_shape[-1], kernel_init=INIT, dtype=self.dtype)(h)
    return jnp.tanh(x.astype(jnp.float32))


class DCGANDiscriminator(nn.Module):
  """Image [B, H, W, C] -> logit of being real, float32 [B]; [B, 1 + K] with class logits if `conditioning` is 'classifier'.

  With 'concat' the label is concatenated to the input channels (1411.1784). `norm` is 'batch', 'layer' (over an image, as in
  1704.00028, section 4), 'spectral' (1802.05957, every layer), or 'none'. Batch and layer normalization skip the largest level
  (1511.06434, section 3), and have no effect at 8x8, where it is the only level.
  """

  width: int = 64
  norm: str = 'batch'
  conditioning: str = 'concat'
  dtype: str = 'float32'

  fields = LABEL

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], cond: Cond = NO_COND, train: bool = True):
    label = condition_vector(cond, self.fields)
    levels = halvings(square_side(x.shape[1:], 'DCGANDiscriminator'))
    if self.norm not in ('batch', 'layer', 'spectral', 'none'):
      raise UsageError(f'DCGANDiscriminator: norm={self.norm!r} must be one of batch, layer, spectral, none.')
    wrap = spectral(train) if self.norm == 'spectral' else lambda layer: layer
    h = concat_label(x, label if self.conditioning == 'concat' else None)
    for level in range(levels):
      bias = level == 0 or self.norm in ('spectral', 'none')
      h = wrap(Conv(self.width << level, (4, 4), strides=2, use_bias=bias, kernel_init=INIT, dtype=self.dtype))(h)
      if level and self.norm == 'batch':
        h = batch_norm(train, self.dtype)(h)
      if level and self.norm == 'layer':
        h = nn.LayerNorm(reduction_axes=(1, 2, 3), feature_axes=-1, dtype=self.dtype)(h)
      h = nn.leaky_relu(h, 0.2)
    return DiscriminatorHead(self.conditioning, wrap, INIT, name='Verdict_0')(h.reshape(h.shape[0], -1), label)


class PatchDiscriminator(nn.Module):
  """Image [B, H, W, C] -> a logit for each patch, float32 [B, h, w] (pix2pix, 1611.07004, section 3.2.2).

  `levels` strided 4x4 convolutions, one with stride 1, and one for the logits; no normalization. A label is concatenated to
  the input channels.
  """

  width: int = 64
  levels: int = 2
  dtype: str = 'float32'

  fields = LABEL

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], cond: Cond = NO_COND, train: bool = True):
    label = condition_vector(cond, self.fields)
    h = concat_label(x, label)
    for level in range(self.levels + 1):
      strides = 2 if level < self.levels else 1
      h = nn.leaky_relu(Conv(self.width << level, (4, 4), strides=strides, kernel_init=INIT, dtype=self.dtype)(h), 0.2)
    return Conv(1, (4, 4), kernel_init=INIT, dtype=self.dtype)(h)[..., 0].astype(jnp.float32)
