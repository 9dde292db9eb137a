"""StyleGAN2 (Karras et al. 1912.04958): a mapping to styles, modulated convolutions, skip generator, residual discriminator.

The pyramid follows the image as in genjax/networks/dcgan.py; channels double from `width` at the largest level down, up to
`max_width`. Weights start at N(0, 1) and are scaled when they are used (equalized learning rate, 1710.10196, section 4.1).
Resampling precedes a plain convolution, where the authors' code fuses both: the generator upsamples instead of using a
transposed convolution, and the discriminator filters and decimates first. Path length refers to one w for all layers.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key

from genjax import rng
from genjax.errors import UsageError
from genjax.networks.cpu_workarounds import convolve
from genjax.networks.layers import LABEL, NO_COND, DiscriminatorHead, concat_label, condition_vector, halvings, square_side
from genjax.networks.resample import downsample, upsample
from genjax.types import Cond

MEAN_OF = 256  # number of latents for the mean w of truncation


def activate(h: Float[Array, '*b c']) -> Float[Array, '*b c']:
  """LeakyReLU of slope 0.2, times sqrt(2) to keep the variance."""
  return nn.leaky_relu(h, 0.2) * math.sqrt(2)


def channels(level: int, width: int, max_width: int, growth: int = 2) -> int:
  """The number of channels of feature maps that are halved `level` times."""
  return min(width * growth**level, max_width)


class EqualDense(nn.Module):
  """Dense layer with an equalized learning rate, `rate` times that of the others."""

  features: int
  bias: float = 0.0
  rate: float = 1.0
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x: Float[Array, 'b c']) -> Float[Array, 'b d']:
    kernel = self.param('kernel', nn.initializers.normal(1 / self.rate), (x.shape[-1], self.features))
    bias = self.param('bias', nn.initializers.constant(self.bias / self.rate), (self.features,))
    kernel, bias = kernel * (self.rate / math.sqrt(x.shape[-1])), bias * self.rate
    return x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)[None]


class EqualConv(nn.Module):
  """Convolution with an equalized learning rate."""

  features: int
  size: int = 3
  use_bias: bool = True
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w d']:
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = self.param('kernel', nn.initializers.normal(1.0), shape) / math.sqrt(math.prod(shape[:3]))
    y = convolve(x.astype(self.dtype), kernel.astype(self.dtype))
    if self.use_bias:
      y = y + self.param('bias', nn.initializers.zeros, (self.features,)).astype(self.dtype)[None, None, None]
    return y


class ModulatedConv(nn.Module):
  """Convolution whose weights w''_ijk are modulated by the style of each image (section 2.2, eq. 1 to 3).

  w' = s_i w_ijk, w'' = w' / sqrt(sum_ik w'^2 + 1e-8) unless `demodulate` is False. Scaling inputs and outputs instead of
  weights is the same, and one plain convolution for the whole batch.
  """

  features: int
  size: int = 3
  demodulate: bool = True
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], w: Float[Array, 'b w']) -> Float[Array, 'b h w d']:
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = self.param('kernel', nn.initializers.normal(1.0), shape) / math.sqrt(math.prod(shape[:3]))
    s = EqualDense(x.shape[-1], bias=1.0, name='style')(w)  # [B, C]
    y = convolve((x * s[:, None, None]).astype(self.dtype), kernel.astype(self.dtype))
    if self.demodulate:
      y = y * jax.lax.rsqrt(jnp.square(s) @ jnp.square(kernel).sum(axis=(0, 1)) + 1e-8)[:, None, None].astype(self.dtype)
    return y


class StyledConv(nn.Module):
  """Modulated convolution (upsampling if `up`), noise per image, bias, activation."""

  features: int
  up: bool
  dtype: str

  @nn.compact
  def __call__(self, h: Float[Array, 'b h w c'], w: Float[Array, 'b w'], keys: Key[Array, 'b']):
    h = ModulatedConv(self.features, dtype=self.dtype)(upsample(h) if self.up else h, w)
    strength = self.param('strength', nn.initializers.zeros, ())
    bias = self.param('bias', nn.initializers.zeros, (self.features,))[None, None, None]
    return activate(h + (strength * rng.normal(keys, (*h.shape[1:3], 1)) + bias).astype(h.dtype))


class Mapping(nn.Module):
  """Latent z and one-hot label -> w. The latent is normalized, and joined with the embedded label (2006.06676, appendix D)."""

  features: int
  depth: int

  @nn.compact
  def __call__(self, z: Float[Array, 'b z'], label: Float[Array, 'b k'] | None) -> Float[Array, 'b w']:
    unit = lambda x: x * jax.lax.rsqrt(jnp.square(x).mean(axis=1, keepdims=True) + 1e-8)  # noqa: E731
    h = unit(z)
    if label is not None:
      h = jnp.concatenate([h, unit(EqualDense(self.features)(label))], axis=1)
    for _ in range(self.depth):
      h = activate(EqualDense(self.features, rate=0.01)(h))
    return h


class StyleGAN2Generator(nn.Module):
  """Latent [B, z_dim] and keys [B] -> image around [-1, 1], float32 [B, H, W, C].

  `mapping` returns w [B, w_dim]. `synthesis` generates images from w, or from one w for each of `num_ws` layers. In training, a
  fraction `mixing` of the images has the styles of a second latent from a random layer on (1812.04948, section 3.1).
  """

  image_shape: tuple[int, int, int]
  z_dim: int = 512
  w_dim: int = 512
  mapping_depth: int = 8
  width: int = 64
  max_width: int = 512
  mixing: float = 0.9
  dtype: str = 'float32'

  has_noise_input = True
  fields = LABEL

  @property
  def levels(self) -> int:
    return halvings(square_side(self.image_shape, 'StyleGAN2Generator'))

  @property
  def num_ws(self) -> int:
    """The number of styles: one convolution at the lowest level, two at each other level, and the last image."""
    return 2 * self.levels + 2

  def setup(self):
    if not 0 <= self.mixing <= 1:
      raise UsageError(f'objective.generator.mixing={self.mixing} must be in [0, 1].')
    self.to_w = Mapping(self.w_dim, self.mapping_depth)
    top = channels(self.levels, self.width, self.max_width)
    base = self.image_shape[0] >> self.levels
    self.start = self.param('start', nn.initializers.normal(1.0), (base, base, top))
    widths = [top] + [channels(level, self.width, self.max_width) for level in reversed(range(self.levels)) for _ in range(2)]
    self.convs = [StyledConv(n, bool(i % 2), self.dtype) for i, n in enumerate(widths)]
    self.to_rgb = [ModulatedConv(self.image_shape[-1], 1, False, self.dtype) for _ in range(self.levels + 1)]
    self.rgb_bias = self.param('rgb_bias', nn.initializers.zeros, (self.levels + 1, self.image_shape[-1]))

  def __call__(self, z: Float[Array, 'b z'], cond: Cond, train: bool, keys: Key[Array, 'b']):
    label = condition_vector(cond, self.fields)
    w = self.to_w(z, label)
    if not train:
      return self.synthesis(w, keys)
    latent_keys, layer_keys, mixing_keys, noise_keys = rng.split(keys, 4)
    second = self.to_w(rng.normal(latent_keys, z.shape[1:]), label)
    crossover = jax.vmap(lambda key: jax.random.randint(key, (), 1, self.num_ws))(layer_keys)
    crossover = jnp.where(rng.bernoulli(mixing_keys, self.mixing), crossover, self.num_ws)
    mixed = jnp.arange(self.num_ws)[None] >= crossover[:, None]
    return self.synthesis(jnp.where(mixed[:, :, None], second[:, None], w[:, None]), noise_keys)

  def mapping(self, z: Float[Array, 'b z'], cond: Cond, truncation: float = 1.0) -> Float[Array, 'b w']:
    """Returns w; a `truncation` below 1 moves it towards the mean w of its label (1812.04948, appendix B).

    With the mean over all labels, images would lose their class (2202.11777, section 3).
    """
    label = condition_vector(cond, self.fields)
    w = self.to_w(z, label)
    if isinstance(truncation, int | float) and truncation == 1:
      return w
    labels = None if label is None else jnp.repeat(label, MEAN_OF, axis=0)
    latents = jnp.tile(jax.random.normal(rng.key(0), (MEAN_OF, self.z_dim)), (1 if label is None else len(label), 1))
    mean = self.to_w(latents, labels).reshape(-1, MEAN_OF, self.w_dim).mean(axis=1)
    return mean + truncation * (w - mean)

  def synthesis(self, w: Float[Array, 'b w'] | Float[Array, 'b l w'], keys: Key[Array, 'b']) -> Float[Array, 'b h w c']:
    if w.ndim == 2:
      w = jnp.broadcast_to(w[:, None], (w.shape[0], self.num_ws, w.shape[1]))
    h = jnp.broadcast_to(self.start.astype(self.dtype)[None], (w.shape[0], *self.start.shape))
    image = None
    for i, conv in enumerate(self.convs):
      h = conv(h, w[:, i], rng.fold_in(keys, i))
      if i % 2 == 0:
        level = i // 2
        rgb = self.to_rgb[level](h, w[:, i + 1]).astype(jnp.float32) + self.rgb_bias[level][None, None, None]
        image = rgb if image is None else upsample(image) + rgb
    return image


def deviation_map(h: Float[Array, 'b h w c'], group: int) -> Float[Array, 'b h w 1']:
  """The mean standard deviation within groups of consecutive images (1710.10196, section 3) as an additional channel.

  The group size is the largest divisor of the batch size up to `group`: seven images have no groups of four.
  """
  b, height, width, _ = h.shape
  group = max(n for n in range(1, min(group, b) + 1) if b % n == 0)
  parts = h.astype(jnp.float32).reshape(b // group, group, *h.shape[1:])
  deviation = jnp.sqrt(parts.var(axis=1) + 1e-8).mean(axis=(1, 2, 3))
  return jnp.broadcast_to(jnp.repeat(deviation, group)[:, None, None, None], (b, height, width, 1)).astype(h.dtype)


class DiscriminatorEpilogue(nn.Module):
  """From the smallest feature maps [B, h, w, C] to logits: minibatch deviation, convolution, dense layer, head."""

  stddev_group: int
  conditioning: str
  dtype: str

  @nn.compact
  def __call__(self, h: Float[Array, 'b h w c'], label: Float[Array, 'b k'] | None):
    n = h.shape[-1]
    if self.stddev_group > 1:
      h = jnp.concatenate([h, deviation_map(h, self.stddev_group)], axis=-1)
    h = activate(EqualConv(n, dtype=self.dtype)(h))
    h = activate(EqualDense(n, dtype=self.dtype)(h.reshape(h.shape[0], -1)))
    head = DiscriminatorHead(self.conditioning, kernel_init=nn.initializers.normal(1.0), name='verdict')
    return head(h.astype(jnp.float32) / math.sqrt(n), label)  # scaling the features equalizes the learning rate


class StyleGAN2Discriminator(nn.Module):
  """Image [B, H, W, C] -> logit of being real, float32 [B].

  `stddev_group` is the group size of the minibatch deviation, 1 for none. It is reduced to a divisor of the batch size.
  """

  width: int = 64
  max_width: int = 512
  stddev_group: int = 4
  conditioning: str = 'projection'
  dtype: str = 'float32'

  fields = LABEL

  @property
  def uses_batch_statistics(self) -> bool:
    return self.stddev_group > 1

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], cond: Cond = NO_COND, train: bool = True):
    label = condition_vector(cond, self.fields)
    levels = halvings(square_side(x.shape[1:], 'StyleGAN2Discriminator'))
    h = concat_label(x, label if self.conditioning == 'concat' else None)
    h = activate(EqualConv(channels(0, self.width, self.max_width), 1, dtype=self.dtype)(h))
    for level in range(levels):
      n = channels(level + 1, self.width, self.max_width)
      skip = EqualConv(n, 1, use_bias=False, dtype=self.dtype)(downsample(h))
      h = activate(EqualConv(h.shape[-1], dtype=self.dtype)(h))
      h = activate(EqualConv(n, dtype=self.dtype)(downsample(h)))
      h = (h + skip) / math.sqrt(2)
    return DiscriminatorEpilogue(self.stddev_group, self.conditioning, self.dtype, name='Ending_0')(h, label)
