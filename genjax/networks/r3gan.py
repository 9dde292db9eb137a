"""R3GAN's networks (Huang et al. 2501.05441, section 4, configuration E): only residual blocks.

No normalization, no style, no noise. A stage is a change of resolution (the filter of genjax/networks/resample.py, and a 1x1
convolution where the channels change) and `blocks` inverted bottlenecks with grouped 3x3 convolutions; `width` channels at
the full resolution, `growth` times as many at half of it, and so on up to `max_width`. Fix-up initialization (1901.09321):
the last convolution of a block starts at 0, the others at MSRA's times L^(-1/4), L blocks in all. The generator starts from
a learned constant whose channels are scaled by the latent; the discriminator ends with a learned weighted sum over positions.
An embedding of the label is concatenated to the latent of the generator; the discriminator adds its projection to a logit of
the image (1802.05637; the authors' code has only the projection, and the filter [1, 2, 1]).
"""

import math

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from genjax.networks.cpu_workarounds import grouped_convolve
from genjax.networks.layers import (
  LABEL,
  NO_COND,
  Conv,
  DiscriminatorHead,
  concat_label,
  condition_vector,
  halvings,
  square_side,
)
from genjax.networks.resample import downsample, upsample
from genjax.networks.stylegan2 import channels
from genjax.types import Cond

GAIN = 2 / (1 + 0.2**2)  # of the variance, for LeakyReLU


def scaled(gain: float) -> nn.initializers.Initializer:
  return nn.initializers.variance_scaling(gain, 'fan_in', 'normal') if gain else nn.initializers.zeros


class GroupedConv(nn.Module):
  """3x3 convolution in groups of `group` channels, without bias: [B, H, W, C] -> [B, H, W, C]."""

  group: int
  gain: float
  dtype: str

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    c = x.shape[-1]
    size = math.gcd(self.group, c)
    kernel = self.param('kernel', scaled(self.gain), (3, 3, size, c)).astype(self.dtype)
    return grouped_convolve(x.astype(self.dtype), kernel, c // size)


class BiasedLeakyReLU(nn.Module):
  """LeakyReLU(h + bias), slope 0.2."""

  @nn.compact
  def __call__(self, h: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    bias = self.param('bias', nn.initializers.zeros, h.shape[-1:])
    return nn.leaky_relu(h + bias.astype(h.dtype)[None, None, None], 0.2)


class Bottleneck(nn.Module):
  """x + 1x1 (3x3 in groups (1x1 (x))), twice as wide inside, biases and LeakyReLU between."""

  group: int
  blocks: int  # in the whole network
  dtype: str

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    gain, c = GAIN * self.blocks**-0.5, x.shape[-1]
    conv = lambda n, gain: Conv(n, (1, 1), use_bias=False, kernel_init=scaled(gain), dtype=self.dtype)  # noqa: E731
    h = BiasedLeakyReLU()(conv(2 * c, gain)(x))
    h = BiasedLeakyReLU()(GroupedConv(self.group, gain, self.dtype)(h))
    return x + conv(c, 0.0)(h)


class R3GANGenerator(nn.Module):
  """Latent [B, z_dim] -> image around [-1, 1], float32 [B, H, W, C]."""

  image_shape: tuple[int, int, int]
  z_dim: int = 64
  width: int = 64
  max_width: int = 512
  growth: int = 2
  blocks: int = 2
  group: int = 16
  dtype: str = 'float32'

  fields = LABEL

  @nn.compact
  def __call__(self, z: Float[Array, 'b z'], cond: Cond = NO_COND, train: bool = True):
    label = condition_vector(cond, self.fields)
    levels = halvings(square_side(self.image_shape, 'R3GANGenerator'))
    base, n = self.image_shape[0] >> levels, channels(levels, self.width, self.max_width, self.growth)
    if label is not None:
      z = jnp.concatenate([z, nn.Dense(self.z_dim, use_bias=False, kernel_init=nn.initializers.normal(1.0))(label)], axis=1)
    picture = self.param('picture', nn.initializers.normal(1.0), (base, base, n))
    h = (picture[None] * nn.Dense(n, use_bias=False)(z)[:, None, None]).astype(self.dtype)
    for level in reversed(range(levels + 1)):
      if level < levels:
        n = channels(level, self.width, self.max_width, self.growth)
        h = upsample(h if h.shape[-1] == n else Conv(n, (1, 1), use_bias=False, dtype=self.dtype)(h))
      for _ in range(self.blocks):
        h = Bottleneck(self.group, self.blocks * (levels + 1), self.dtype)(h)
    return Conv(self.image_shape[-1], (1, 1), use_bias=False, dtype=self.dtype)(h).astype(jnp.float32)


class R3GANDiscriminator(nn.Module):
  """Image [B, H, W, C] -> logit of being real, float32 [B]; [B, 1 + K] with class logits if `conditioning` is 'classifier'."""

  width: int = 64
  max_width: int = 512
  growth: int = 2
  blocks: int = 2
  group: int = 16
  conditioning: str = 'projection'
  dtype: str = 'float32'

  fields = LABEL

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], cond: Cond = NO_COND, train: bool = True):
    label = condition_vector(cond, self.fields)
    levels = halvings(square_side(x.shape[1:], 'R3GANDiscriminator'))
    x = concat_label(x, label if self.conditioning == 'concat' else None)
    h = Conv(self.width, (1, 1), use_bias=False, dtype=self.dtype)(x)
    for level in range(levels + 1):
      if level:
        n, h = channels(level, self.width, self.max_width, self.growth), downsample(h)
        h = h if h.shape[-1] == n else Conv(n, (1, 1), use_bias=False, dtype=self.dtype)(h)
      for _ in range(self.blocks):
        h = Bottleneck(self.group, self.blocks * (levels + 1), self.dtype)(h)
    picture = self.param('picture', nn.initializers.normal(1 / math.sqrt(h.shape[1] * h.shape[2])), h.shape[1:])
    return DiscriminatorHead(self.conditioning, name='Verdict_0')((h * picture[None].astype(h.dtype)).sum(axis=(1, 2)), label)
