"""Convolutional encoder and decoder for VAEs: 4x4 convolutions with stride 2 and their transposes, no normalization."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from genjax.networks.layers import (
  LABEL,
  NO_COND,
  Conv,
  LatentInput,
  TransposedConv,
  concat_label,
  condition_vector,
  halvings,
  square_side,
)
from genjax.types import Cond


class ConvEncoder(nn.Module):
  """Image [B, H, W, C] -> mean and log-variance of q(z|x), each [B, z_dim]. Each downsampling doubles the channels."""

  z_dim: int = 32
  width: int = 32
  hidden: int = 256
  dtype: str = 'float32'

  fields = LABEL

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], cond: Cond = NO_COND, train: bool = True):
    label = condition_vector(cond, self.fields)
    h = concat_label(x, label)
    for level in range(halvings(square_side(x.shape[1:], 'ConvEncoder'))):
      h = nn.silu(Conv(self.width << level, (4, 4), strides=2, dtype=self.dtype)(h))
    h = nn.silu(nn.Dense(self.hidden, dtype=self.dtype)(h.reshape(h.shape[0], -1)))
    return jnp.split(nn.Dense(2 * self.z_dim)(h.astype(jnp.float32)), 2, axis=-1)


class ConvDecoder(nn.Module):
  """Latent [B, z_dim] -> parameters of p(x|z), float32 [B, H, W, outputs]."""

  image_shape: tuple[int, int, int]
  width: int = 32
  hidden: int = 256
  dtype: str = 'float32'
  outputs: int | None = None  # channels of the output; None: those of the image

  fields = LABEL

  @nn.compact
  def __call__(self, z: Float[Array, 'b z'], cond: Cond = NO_COND, train: bool = True):
    label = condition_vector(cond, self.fields)
    side = square_side(self.image_shape, 'ConvDecoder')
    levels = halvings(side)
    base, features = side >> levels, self.width << (levels - 1)
    h = nn.silu(LatentInput(self.hidden, self.dtype)(z, label))
    h = nn.silu(nn.Dense(base * base * features, dtype=self.dtype)(h)).reshape(-1, base, base, features)
    for level in reversed(range(levels)):
      h = nn.silu(TransposedConv(self.width << level, dtype=self.dtype)(h))
    return Conv(self.outputs or self.image_shape[-1], (3, 3), dtype=self.dtype)(h).astype(jnp.float32)
