"""U-Net for diffusion and flow models: residual blocks conditioned on the time, with attention at chosen resolutions.

After Ho et al. (2006.11239, appendix B) and Dhariwal & Nichol (2105.05233, section 3). Time and label enter through one
embedding that scales and shifts each block's second normalization, or is added before it.
"""

import functools
import math
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from genjax import rng
from genjax.errors import UsageError, UsageWarning
from genjax.networks.embeddings import fourier_embedding, sinusoidal_embedding
from genjax.networks.layers import DIFFUSION, NO_COND, Conv, condition_vector, from_patches, to_patches
from genjax.networks.resample import double, halve
from genjax.types import Cond, Keys


def group_norm(
  features: int, dtype: str, affine: bool = True, groups: int = 32, group_size: int = 4, epsilon: float = 1e-5
) -> nn.GroupNorm:
  """GroupNorm with at most `groups` groups of at least `group_size` channels."""
  groups = math.gcd(max(features // group_size, 1), groups, features)
  return nn.GroupNorm(groups, epsilon=epsilon, dtype=dtype, use_bias=affine, use_scale=affine)


def dropout(x: Float[Array, 'b h w c'], rate: float, keys: Keys | None, number: int) -> Float[Array, 'b h w c']:
  """Dropout with one key per image; none without keys, as in sampling. `number` distinguishes the layers of a network."""
  if not rate or keys is None:
    return x
  kept = rng.bernoulli(rng.fold_in(keys, number), 1 - rate, x.shape[1:])
  return jnp.where(kept, x / (1 - rate), 0.0).astype(x.dtype)


class ResBlock(nn.Module):
  """[B, H, W, C] and an embedding [B, E] -> [B, H, W, features], or with half or twice the sides. Initially the identity.

  Where size or channels change, the skip is a 1x1 convolution of the resized input.
  """

  features: int
  dtype: str
  number: int = 0  # index of the block in its network, for independent dropout
  adaptive: bool = True  # scale and shift the second normalization (2105.05233), or add before it (2006.11239)
  rate: float = 0.0  # of dropout
  resize: str = ''  # 'halve', 'double' or neither
  skip_scale: float = 1.0  # of the sum of both branches (2011.13456: sqrt(1/2))
  norm: Callable[..., nn.GroupNorm] = group_norm

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], emb: Float[Array, 'b e'], keys: Keys | None = None) -> Float[Array, 'b i j d']:
    conv = lambda init: Conv(self.features, (3, 3), dtype=self.dtype, kernel_init=init)  # noqa: E731
    lecun, zeros = nn.initializers.lecun_normal(), nn.initializers.zeros
    resize = {'halve': halve, 'double': double}.get(self.resize, lambda x: x)
    h = conv(lecun)(resize(nn.silu(self.norm(x.shape[-1], self.dtype)(x))))
    emb = nn.Dense((2 if self.adaptive else 1) * self.features, dtype=self.dtype)(nn.silu(emb))[:, None, None]
    if self.adaptive:
      scale, shift = jnp.split(emb, 2, axis=-1)
      h = self.norm(self.features, self.dtype, affine=False)(h) * (1 + scale) + shift
    else:
      h = self.norm(self.features, self.dtype)(h + emb)
    h = conv(zeros)(dropout(nn.silu(h), self.rate, keys, self.number))
    if self.resize or x.shape[-1] != self.features:
      x = Conv(self.features, (1, 1), dtype=self.dtype)(resize(x))
    return (x + h) * self.skip_scale


class Attention(nn.Module):
  """Self-attention over all pixels, with `head_features` channels per head."""

  head_features: int
  dtype: str
  skip_scale: float = 1.0
  norm: Callable[..., nn.GroupNorm] = group_norm

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    b, h, w, c = x.shape
    if c % self.head_features:
      raise UsageError(f'head_features={self.head_features} must divide the {c} channels of a UNet: change it or width.')
    y = self.norm(c, self.dtype)(x).reshape(b, h * w, c)
    q, k, v = jnp.split(nn.Dense(3 * c, dtype=self.dtype)(y).reshape(b, h * w, c // self.head_features, -1), 3, axis=-1)
    y = jax.nn.dot_product_attention(q, k, v).reshape(b, h, w, c)
    return (x + nn.Dense(c, dtype=self.dtype, kernel_init=nn.initializers.zeros)(y)) * self.skip_scale


class Embedding(nn.Module):
  """Times [B] or [B, T], and a one-hot label or None -> [B, 4 width]."""

  width: int
  dtype: str
  fourier: float = 0.0  # see UNet
  max_period: float = 10_000.0  # see UNet

  @nn.compact
  def __call__(self, t: Float[Array, 'b *k'], label: Float[Array, 'b k'] | None) -> Float[Array, 'b e']:
    times = t.reshape(t.shape[0], -1)
    sinusoidal = functools.partial(sinusoidal_embedding, max_period=self.max_period)
    embed = functools.partial(fourier_embedding, scale=self.fourier) if self.fourier else sinusoidal
    embedded = [embed(times[:, i], self.width) for i in range(times.shape[1])]
    emb = nn.Dense(4 * self.width)(jnp.concatenate(embedded, axis=1))
    if label is not None:
      emb = emb + nn.Dense(4 * self.width, use_bias=False, kernel_init=nn.initializers.normal(1.0))(label)
    return nn.Dense(4 * self.width)(nn.silu(emb)).astype(self.dtype)


def check_attention(attention: tuple[int, ...], sides: list[int], default: tuple[int, ...]) -> None:
  """Warns about sides in `attention` that no feature map has; `sides` are those of the feature maps.

  `default` is the network's default, which is for images of several sizes, so that one match is enough.
  """
  wrong = [side for side in attention if side not in sides]
  if not wrong or (tuple(attention) == default and len(wrong) < len(attention)):
    return
  text = f'network.attention={tuple(attention)}: no feature map has side {" or ".join(map(str, wrong))}; they have '
  text += f'{", ".join(map(str, sides))}. Use only these sides.'
  if len(wrong) == len(attention):
    text += ' As it is, only the middle block has attention; if this is intended, set attention=().'
  warnings.warn(text, UsageWarning, stacklevel=2)


class UNet(nn.Module):
  """(x_t, t, cond) -> an image-shaped prediction, float32 [B, H, W, C].

  `t` is [B], or [B, T] for T times, as scaled by the parameterization (genjax/objectives/diffusion/parameterizations.py).
  `cond` may have `label`, one-hot [B, K], and `augmentation` [B, N]. `keys`, one per image, are for dropout in training. The
  output is initially 0. The smallest feature maps always have attention.
  """

  width: int = 64  # channels at full resolution
  multipliers: tuple[int, ...] = (1, 2, 2)  # of `width`, one per resolution, each half of the previous one
  blocks: int = 2  # residual blocks per resolution
  attention: tuple[int, ...] = (7, 8)  # sides of the feature maps with self-attention
  head_features: int = 32
  patch: int = 1  # 2: fold 2x2 pixels into channels first, so that the whole network works at half the side
  adaptive: bool = True  # see ResBlock
  resize_in_blocks: bool = False  # halve and double within residual blocks (2011.13456) or by convolutions (2006.11239)
  dropout: float = 0.0
  fourier: float = 0.0  # scale of the time's Fourier features (embeddings.py), for times about 1 as EDM's; 0: sinusoidal
  max_period: float = 10_000.0  # of the sinusoidal embedding of the time (embeddings.py)
  norm_groups: int = 32  # largest number of groups of a group normalization
  norm_group_size: int = 4  # smallest number of channels in a group
  norm_epsilon: float = 1e-5
  symmetric_padding: bool = False  # of convolutions that halve: on all sides, or only at the bottom and right (2006.11239)
  outputs: int = 1  # number of output images, concatenated along the channels
  remat: bool = False  # recompute each block's activations in the backward pass instead of storing them
  dtype: str = 'float32'

  fields = DIFFUSION

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b h w c'],
    t: Float[Array, 'b *k'],
    cond: Cond = NO_COND,
    keys: Keys | None = None,
  ) -> Float[Array, 'b h w c']:
    label = condition_vector(cond, self.fields)
    _, height, width, channels = x.shape
    if not self.multipliers:
      raise UsageError('multipliers of a UNet must not be empty: use (1,) for a single resolution.')
    if self.fourier < 0:
      raise UsageError(f'fourier={self.fourier} must be 0 or more.')
    if not 0 <= self.dropout < 1:
      raise UsageError(f'dropout={self.dropout} must be in [0, 1).')
    if self.max_period <= 1 or self.norm_epsilon <= 0:
      raise UsageError(f'max_period={self.max_period} must be above 1, and norm_epsilon={self.norm_epsilon} positive.')
    p = self.patch
    factor = p << (len(self.multipliers) - 1)
    if height % factor or width % factor:
      raise UsageError(
        f'a UNet with patch={p} and {len(self.multipliers)} multipliers needs sides divisible by {factor}, '
        f'not {height}x{width}: change data.resolution or multipliers.'
      )
    check_attention(self.attention, [height // p >> level for level in range(len(self.multipliers))], UNet.attention)
    emb = Embedding(self.width, self.dtype, self.fourier, self.max_period, name='Embedding')(t, label)
    norm = functools.partial(group_norm, groups=self.norm_groups, group_size=self.norm_group_size, epsilon=self.norm_epsilon)
    counts = {ResBlock: 0, Attention: 0}

    def make(cls, *args, **kwargs):  # named by number, so that parameters are the same with and without remat
      counts[cls] += 1
      lifted = nn.remat(cls) if self.remat else cls
      return lifted(*args, self.dtype, name=f'{cls.__name__}_{counts[cls] - 1}', **kwargs)

    def block(h, features, resize=''):
      options = {'number': counts[ResBlock], 'adaptive': self.adaptive, 'rate': self.dropout, 'resize': resize}
      return make(ResBlock, features, norm=norm, **options)(h, emb, keys)

    def attend(h, always=False):
      return make(Attention, self.head_features, norm=norm)(h) if always or h.shape[1] in self.attention else h

    def resized(h, how):
      if self.resize_in_blocks:
        return block(h, h.shape[-1], how)
      if how == 'double':
        return Conv(h.shape[-1], (3, 3), dtype=self.dtype)(double(h))
      padding = 1 if self.symmetric_padding else 'SAME'  # of an even side by 3x3 and stride 2: 0 above and 1 below
      return Conv(h.shape[-1], (3, 3), strides=2, padding=padding, dtype=self.dtype)(h)

    h = Conv(self.width, (3, 3), dtype=self.dtype)(to_patches(x, p, p))
    skips = [h]
    for level, multiplier in enumerate(self.multipliers):
      if level:
        h = resized(h, 'halve')
        skips.append(h)
      for _ in range(self.blocks):
        h = attend(block(h, self.width * multiplier))
        skips.append(h)

    h = attend(block(h, h.shape[-1]), always=True)
    h = block(h, h.shape[-1])

    for level, multiplier in reversed(list(enumerate(self.multipliers))):
      for _ in range(self.blocks + 1):
        h = attend(block(jnp.concatenate([h, skips.pop()], axis=-1), self.width * multiplier))
      if level:
        h = resized(h, 'double')

    h = nn.silu(norm(h.shape[-1], self.dtype)(h)).astype(jnp.float32)
    h = Conv(p * p * self.outputs * channels, (3, 3), kernel_init=nn.initializers.zeros)(h)
    return from_patches(h, p, p)
