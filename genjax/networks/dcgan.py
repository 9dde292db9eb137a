"""DCGAN (Radford, Metz & Chintala, 1511.06434): strided and transposed 4x4 convolutions, batch normalisation, no pooling.

The pyramid follows the image: 28 -> 14 -> 7 has two levels, 32 -> 16 -> 8 -> 4 three, 64 four as in the paper; the
channels double from `width` at the largest level down to the smallest. Weights start at N(0, 0.02^2) (section 4).
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from genjax.networks.layers import TransposedConv, concat_label, halvings, square_side

INIT = nn.initializers.normal(0.02)


def batch_norm(train: bool, dtype: str) -> nn.BatchNorm:
  return nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=dtype)


class DCGANGenerator(nn.Module):
  """Latent [B, z_dim] -> image in [-1, 1], float32 [B, H, W, C]."""

  image_shape: tuple[int, int, int]
  z_dim: int = 100
  width: int = 64
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, z: Float[Array, 'b z'], label: Float[Array, 'b k'] | None = None, train: bool = True):
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
  """Image [B, H, W, C] -> logit of being real, float32 [B]. The label comes in as further channels (1411.1784)."""

  width: int = 64
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], label: Float[Array, 'b k'] | None = None, train: bool = True):
    levels = halvings(square_side(x.shape[1:], 'DCGANDiscriminator'))
    h = concat_label(x, label)
    for level in range(levels):
      first = level == 0
      h = nn.Conv(self.width << level, (4, 4), strides=2, use_bias=first, kernel_init=INIT, dtype=self.dtype)(h)
      h = nn.leaky_relu(h if first else batch_norm(train, self.dtype)(h), 0.2)
    return nn.Dense(1, kernel_init=INIT)(h.reshape(h.shape[0], -1).astype(jnp.float32))[:, 0]
