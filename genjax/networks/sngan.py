"""Residual networks of SNGAN (1802.05957, table 4), with SAGAN's self-attention as an option (1805.08318).

The pyramid follows the image as in genjax/networks/dcgan.py: 32 -> 16 -> 8 -> 4 in three blocks, 28 -> 14 -> 7 in two; all
blocks have the same width, as in the paper for 32x32. Upsampling repeats pixels, downsampling averages them.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from genjax.errors import UsageError
from genjax.networks.layers import (
  LABEL,
  NO_COND,
  Conv,
  DiscriminatorHead,
  concat_label,
  condition_vector,
  halvings,
  spectral,
  square_side,
)
from genjax.networks.resample import double, halve
from genjax.types import Cond

INIT = nn.initializers.glorot_uniform()


def check_attention(attention: tuple[int, ...], sides: list[int], player: str) -> None:
  """Raises UsageError for a side that the network does not have."""
  for side in attention:
    if side not in sides:
      known = ', '.join(map(str, sorted(set(sides))))
      raise UsageError(f'objective.{player}.attention={attention}: for these images the blocks have sides {known}, use these.')


class ConditionalNorm(nn.Module):
  """Class-conditional batch normalization (1610.07629), followed by ReLU."""

  dtype: str

  @nn.compact
  def __call__(self, h: Float[Array, 'b h w c'], label: Float[Array, 'b k'] | None, train: bool):
    plain = label is None
    h = nn.BatchNorm(not train, momentum=0.9, use_bias=plain, use_scale=plain, dtype=self.dtype)(h)
    if not plain:
      dense = lambda init, name: nn.Dense(h.shape[-1], False, kernel_init=init, dtype=self.dtype, name=name)(label)  # noqa: E731
      gain, bias = dense(nn.initializers.ones, 'gain'), dense(nn.initializers.zeros, 'bias')
      h = gain[:, None, None] * h + bias[:, None, None]
    return nn.relu(h)


class SelfAttention(nn.Module):
  """x + gamma o(self-attention), with gamma initialized to 0 (1805.08318, section 3).

  Keys and values are pooled to a quarter of the positions, as in the authors' code; the paper does not mention it.
  """

  train: bool
  dtype: str

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    b, h, w, c = x.shape
    conv = lambda n: spectral(self.train)(Conv(n, (1, 1), use_bias=False, kernel_init=INIT, dtype=self.dtype))  # noqa: E731
    pooled = lambda y: nn.max_pool(y, (2, 2), (2, 2), 'SAME').reshape(b, -1, y.shape[-1])  # noqa: E731 - 'SAME' for odd sides
    query = conv(max(c // 8, 1))(x).reshape(b, h * w, -1)
    key, value = (pooled(conv(n)(x)) for n in (max(c // 8, 1), max(c // 2, 1)))
    weights = jax.nn.softmax(jnp.einsum('bqc,bkc->bqk', query, key, preferred_element_type=jnp.float32), axis=-1)
    mixed = jnp.einsum('bqk,bkc->bqc', weights.astype(value.dtype), value).reshape(b, h, w, -1)
    return x + self.param('gamma', nn.initializers.zeros, ()).astype(x.dtype) * conv(c)(mixed)


class ResNetGenerator(nn.Module):
  """Latent [B, z_dim] -> image in [-1, 1], float32 [B, H, W, C]. Labels set the gains and biases of the batch normalization."""

  image_shape: tuple[int, int, int]
  z_dim: int = 128
  width: int = 256
  attention: tuple[int, ...] = ()  # sides of the feature maps with self-attention
  dtype: str = 'float32'

  fields = LABEL

  @nn.compact
  def __call__(self, z: Float[Array, 'b z'], cond: Cond = NO_COND, train: bool = True):
    label = condition_vector(cond, self.fields)
    side = square_side(self.image_shape, 'ResNetGenerator')
    levels = halvings(side)
    base = side >> levels
    check_attention(self.attention, [base << i for i in range(1, levels + 1)], 'generator')
    conv = lambda n, size: Conv(n, (size, size), kernel_init=INIT, dtype=self.dtype)  # noqa: E731
    h = nn.Dense(base * base * self.width, kernel_init=INIT, dtype=self.dtype)(z).reshape(-1, base, base, self.width)
    for _ in range(levels):
      skip = conv(self.width, 1)(double(h))
      h = conv(self.width, 3)(double(ConditionalNorm(self.dtype)(h, label, train)))
      h = skip + conv(self.width, 3)(ConditionalNorm(self.dtype)(h, label, train))
      if h.shape[1] in self.attention:
        h = SelfAttention(train, self.dtype)(h)
    h = nn.relu(nn.BatchNorm(not train, momentum=0.9, dtype=self.dtype)(h))
    return jnp.tanh(conv(self.image_shape[-1], 3)(h).astype(jnp.float32))


class ResNetDiscriminator(nn.Module):
  """Image [B, H, W, C] -> logit of being real, float32 [B]; every layer with spectral normalization.

  The first two of four blocks halve the image while its side is even. `conditioning` is as in `layers.DiscriminatorHead`, by
  default projection (1802.05637).
  """

  width: int = 128
  attention: tuple[int, ...] = ()
  conditioning: str = 'projection'
  dtype: str = 'float32'

  fields = LABEL

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], cond: Cond = NO_COND, train: bool = True):
    label = condition_vector(cond, self.fields)
    side = square_side(x.shape[1:], 'ResNetDiscriminator')
    check_attention(self.attention, [side // 2, side // 2 if side % 4 else side // 4], 'discriminator')
    conv = lambda n, size: spectral(train)(Conv(n, (size, size), kernel_init=INIT, dtype=self.dtype))  # noqa: E731
    h = concat_label(x, label if self.conditioning == 'concat' else None)
    for i in range(4):
      down = halve if i < 2 and h.shape[1] % 2 == 0 else lambda h: h
      skip = h
      h = conv(self.width, 3)(nn.relu(h) if i else h)  # the image itself is not rectified
      h = down(conv(self.width, 3)(nn.relu(h)))
      if i == 0:
        skip = conv(self.width, 1)(down(skip))
      elif down is halve:
        skip = down(conv(self.width, 1)(skip))
      h = h + skip
      if h.shape[1] in self.attention:
        h = SelfAttention(train, self.dtype)(h)
    h = nn.relu(h).astype(jnp.float32).sum(axis=(1, 2))
    return DiscriminatorHead(self.conditioning, spectral(train), INIT, name='Verdict_0')(h, label)
