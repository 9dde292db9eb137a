"""U-Net for diffusion and flow models: residual blocks with adaptive group normalisation, attention where asked.

After Ho et al. (2006.11239, appendix B) and Dhariwal & Nichol (2105.05233, section 3). Time and label enter through one
embedding that scales and shifts each block's second normalisation.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from genjax.errors import UsageError
from genjax.networks.layers import sinusoidal_embedding


def group_norm(features: int, dtype: str, affine: bool = True) -> nn.GroupNorm:
  """At most 32 groups of at least 4 channels."""
  groups = math.gcd(max(features // 4, 1), 32)
  return nn.GroupNorm(groups, epsilon=1e-5, dtype=dtype, use_bias=affine, use_scale=affine)


class ResBlock(nn.Module):
  """[B, H, W, C] and an embedding [B, E] -> [B, H, W, features]; the identity (or a projection) at the start."""

  features: int
  dtype: str

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], emb: Float[Array, 'b e']) -> Float[Array, 'b h w d']:
    conv = lambda init: nn.Conv(self.features, (3, 3), dtype=self.dtype, kernel_init=init)  # noqa: E731
    lecun, zeros = nn.initializers.lecun_normal(), nn.initializers.zeros
    h = conv(lecun)(nn.silu(group_norm(x.shape[-1], self.dtype)(x)))
    scale, shift = jnp.split(nn.Dense(2 * self.features, dtype=self.dtype)(nn.silu(emb))[:, None, None], 2, axis=-1)
    h = group_norm(self.features, self.dtype, affine=False)(h) * (1 + scale) + shift
    h = conv(zeros)(nn.silu(h))
    if x.shape[-1] != self.features:
      x = nn.Conv(self.features, (1, 1), dtype=self.dtype)(x)
    return x + h


class Attention(nn.Module):
  """Self-attention over all pixels, `head_features` channels a head."""

  head_features: int
  dtype: str

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    b, h, w, c = x.shape
    if c % self.head_features:
      raise UsageError(f'head_features={self.head_features} must divide the {c} channels of a UNet: change it or width.')
    heads = c // self.head_features
    y = group_norm(c, self.dtype)(x).reshape(b, h * w, c)
    q, k, v = jnp.split(nn.Dense(3 * c, dtype=self.dtype)(y).reshape(b, h * w, heads, -1), 3, axis=-1)
    y = jax.nn.dot_product_attention(q, k, v).reshape(b, h, w, c)
    return x + nn.Dense(c, dtype=self.dtype, kernel_init=nn.initializers.zeros)(y)


class UNet(nn.Module):
  """(x_t, t, label) -> an image-shaped prediction, float32 [B, H, W, C].

  `t` is [B], or [B, T] for T times, from 0 to about 1; `label` one-hot [B, K], zeros for the null label, or None. The first
  prediction is 0.
  """

  width: int = 64  # channels at full resolution
  multipliers: tuple[int, ...] = (1, 2, 2)  # of `width`, one per resolution, each half of the one before
  blocks: int = 2  # residual blocks per resolution
  attention: tuple[int, ...] = (7, 8)  # sides of the feature maps that have it
  head_features: int = 32
  patch: int = 1  # 2: fold 2x2 pixels into channels first, so that the whole network works at half the side
  remat: bool = False  # compute each block's activations again in the backward pass rather than keep them
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b h w c'], t: Float[Array, 'b *k'], label: Float[Array, 'b k'] | None = None
  ) -> Float[Array, 'b h w c']:
    b, height, width, channels = x.shape
    if not self.multipliers:
      raise UsageError('a UNet needs at least one of multipliers.')
    p = self.patch
    factor = p << (len(self.multipliers) - 1)
    if height % factor or width % factor:
      raise UsageError(
        f'a UNet with patch={p} and {len(self.multipliers)} multipliers needs sides that {factor} divides, '
        f'not {height}x{width}: change data.resolution or multipliers.'
      )
    times = t.reshape(b, -1)
    embedded = [sinusoidal_embedding(1000.0 * times[:, i], self.width) for i in range(times.shape[1])]
    emb = nn.Dense(4 * self.width)(jnp.concatenate(embedded, axis=1))
    if label is not None:
      emb = emb + nn.Dense(4 * self.width, use_bias=False, kernel_init=nn.initializers.normal(1.0))(label)
    emb = nn.Dense(4 * self.width)(nn.silu(emb)).astype(self.dtype)

    counts = {ResBlock: 0, Attention: 0}

    def make(cls, features):  # named by number, so that parameters are the same with and without remat
      counts[cls] += 1
      lifted = nn.remat(cls) if self.remat else cls
      return lifted(features, self.dtype, name=f'{cls.__name__}_{counts[cls] - 1}')

    def attend(h):
      return make(Attention, self.head_features)(h) if h.shape[1] in self.attention else h

    def block(h, multiplier):
      return attend(make(ResBlock, self.width * multiplier)(h, emb))

    h = x.reshape(b, height // p, p, width // p, p, channels).transpose(0, 1, 3, 2, 4, 5)
    h = h.reshape(b, height // p, width // p, p * p * channels)
    h = nn.Conv(self.width, (3, 3), dtype=self.dtype)(h)
    skips = [h]
    for level, multiplier in enumerate(self.multipliers):
      if level:
        h = nn.Conv(h.shape[-1], (3, 3), strides=2, dtype=self.dtype)(h)
        skips.append(h)
      for _ in range(self.blocks):
        h = block(h, multiplier)
        skips.append(h)

    h = attend(make(ResBlock, h.shape[-1])(h, emb))
    h = make(ResBlock, h.shape[-1])(h, emb)

    for level, multiplier in reversed(list(enumerate(self.multipliers))):
      for _ in range(self.blocks + 1):
        h = block(jnp.concatenate([h, skips.pop()], axis=-1), multiplier)
      if level:
        h = jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)
        h = nn.Conv(h.shape[-1], (3, 3), dtype=self.dtype)(h)

    h = nn.silu(group_norm(h.shape[-1], self.dtype)(h)).astype(jnp.float32)
    h = nn.Conv(p * p * channels, (3, 3), kernel_init=nn.initializers.zeros)(h)
    h = h.reshape(b, height // p, width // p, p, p, channels).transpose(0, 1, 3, 2, 4, 5)
    return h.reshape(b, height, width, channels)
