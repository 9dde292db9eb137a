"""Networks of a hierarchical VAE (VDVAE, Child 2011.10650, section 3 and figure 3): residual bottlenecks, one latent per block.

The encoder goes from the highest resolution to the lowest, the decoder from the lowest to the highest, with the features of the
encoder at each resolution as inputs. Each block of the decoder has a prior p(z_i | z_<i) and, given features of an image, a
posterior q(z_i | z_<i, x), both normal with diagonal covariance. Downsampling averages pixels, and upsampling repeats them. The
initial weights of the last convolution of a branch are divided by the square root of the number of blocks (section 3.2), those
of the prior are 0.
"""

import functools
import itertools
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from genjax import rng
from genjax.errors import UsageError
from genjax.networks.layers import LABEL, NO_COND, Conv, concat_label, condition_vector, from_patches, to_patches
from genjax.types import Cond, Keys

Grid = Float[Array, 'b s s c']


class Descent(NamedTuple):
  """Output of the decoder: the parameters of the likelihood and, for each image in nats, KL(q(z_i|..) || p(z_i|..)) of each of
  L blocks and log q(z|x) - log p(z) at the sampled z. Both are 0 if z was sampled from the prior."""

  out: Float[Array, 'b h w o']
  kl: Float[Array, 'b l']
  log_ratio: Float[Array, 'b']


def scaled(gain: float) -> nn.initializers.Initializer:
  return nn.initializers.variance_scaling(gain, 'fan_in', 'truncated_normal') if gain else nn.initializers.zeros


def check(sides: tuple[int, ...], blocks: tuple[int, ...], image_side: int, patch: int, name: str) -> None:
  """Raises UsageError unless the sides decrease from that of the image, each dividing the previous one."""
  if len(sides) != len(blocks) or min(blocks, default=0) < 1:
    raise UsageError(f'objective.{name}.blocks={blocks} must be 1 or more, one for each of sides={sides}.')
  if image_side != sides[0] * patch or any(a % b or a == b for a, b in itertools.pairwise(sides)):
    raise UsageError(
      f'objective.{name}.sides={sides} must start at {image_side} / patch={patch}, and each must divide the previous one: '
      'images of side 28 have 28, 14, 7, 1.'
    )


class Bottleneck(nn.Module):
  """1x1 (3x3 (3x3 (1x1 (x)))), GELU before each, `width` channels between; 1x1 for 3x3 at sides of 1 and 2."""

  features: int
  width: int
  last: float  # gain of the last convolution's weights
  dtype: str

  @nn.compact
  def __call__(self, x: Grid) -> Grid:
    dense = functools.partial(nn.Dense, self.width, dtype=self.dtype)  # a 1x1 convolution
    conv = functools.partial(Conv, self.width, (3, 3), dtype=self.dtype)
    for layer in (dense, conv, conv) if x.shape[1] > 2 else (dense, dense, dense):
      x = layer()(nn.gelu(x))
    return nn.Dense(self.features, kernel_init=scaled(self.last), dtype=self.dtype)(nn.gelu(x))


class TopDown(nn.Module):
  """One block of the decoder: samples z with z_dim channels and adds it to h."""

  z_dim: int
  bottleneck: int
  blocks: int  # in the whole decoder
  dtype: str

  @nn.compact
  def __call__(self, h: Grid, features: Grid | None, noise: Grid, temperature: float):
    width, d = h.shape[-1], self.z_dim
    prior = Bottleneck(2 * d + width, self.bottleneck, 0.0, self.dtype, name='prior')(h)
    mean, log_sigma = prior[..., :d].astype(jnp.float32), prior[..., d : 2 * d].astype(jnp.float32)
    kl = log_ratio = jnp.zeros(h.shape[0])
    if features is None:
      z = mean + temperature * jnp.exp(log_sigma) * noise
    else:
      posterior = Bottleneck(2 * d, self.bottleneck, 1.0, self.dtype, name='posterior')(jnp.concatenate([h, features], axis=-1))
      q_mean, q_log_sigma = jnp.split(posterior.astype(jnp.float32), 2, axis=-1)
      z = q_mean + jnp.exp(q_log_sigma) * noise
      delta, inverse = q_log_sigma - log_sigma, jnp.exp(-log_sigma)
      kl = (0.5 * jnp.square((q_mean - mean) * inverse) + 0.5 * jnp.expm1(2 * delta) - delta).sum(axis=(1, 2, 3))
      log_ratio = (0.5 * jnp.square((z - mean) * inverse) - 0.5 * jnp.square(noise) - delta).sum(axis=(1, 2, 3))
    h = h + prior[..., 2 * d :]
    h = h + nn.Dense(width, kernel_init=scaled(1 / self.blocks), dtype=self.dtype, name='add')(z.astype(h.dtype))
    return h + Bottleneck(width, self.bottleneck, 1 / self.blocks, self.dtype, name='residual')(h), kl, log_ratio


class VDVAEEncoder(nn.Module):
  """Image [B, H, W, C] -> features for the decoder: side -> [B, side, side, width]. Bottlenecks have a quarter of the width."""

  sides: tuple[int, ...] = (32, 16, 8, 4, 1)
  blocks: tuple[int, ...] = (12, 7, 7, 4, 3)
  width: int = 384
  patch: int = 1  # side of the patches of pixels that are folded into the channels first
  dtype: str = 'float32'

  fields = LABEL

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], cond: Cond = NO_COND) -> dict[int, Grid]:
    label = condition_vector(cond, self.fields)
    check(self.sides, self.blocks, x.shape[1], self.patch, 'encoder')
    h = to_patches(concat_label(x, label), self.patch, self.patch)
    h = Conv(self.width, (3, 3), dtype=self.dtype)(h)
    features = {}
    for side, blocks in zip(self.sides, self.blocks, strict=True):
      ratio = h.shape[1] // side
      h = h.reshape(h.shape[0], side, ratio, side, ratio, -1).mean(axis=(2, 4))
      for _ in range(blocks):
        h = h + Bottleneck(self.width, -(-self.width // 4), 1 / sum(self.blocks), self.dtype)(h)
      features[side] = h
    return features


class VDVAEDecoder(nn.Module):
  """Features of the encoder, or None -> `Descent`.

  The noise depends on each image's key. `temperature` scales the noise of the prior.
  """

  image_shape: tuple[int, int, int]
  sides: tuple[int, ...] = (32, 16, 8, 4, 1)
  blocks: tuple[int, ...] = (22, 11, 6, 3, 1)
  width: int = 384
  z_dim: int = 16
  patch: int = 1
  dtype: str = 'float32'
  outputs: int | None = None  # channels of the output; None: those of the image
  place: tuple[int, int] = (1, 1)  # rows and columns of pixels per output position, like `patch` of the likelihood

  fields = LABEL

  @nn.compact
  def __call__(self, keys: Keys, features: dict[int, Grid] | None, cond: Cond = NO_COND, temperature: float = 1.0) -> Descent:
    label = condition_vector(cond, self.fields)
    check(self.sides, self.blocks, self.image_shape[0], self.patch, 'decoder')
    if any(self.patch % side for side in self.place):
      raise UsageError(f'objective.decoder.place={self.place} must divide its patch={self.patch}.')
    h = jnp.zeros((keys.shape[0], 1, 1, self.width), self.dtype)
    if label is not None:
      h = h + nn.Dense(self.width, use_bias=False, dtype=self.dtype, name='label')(label)[:, None, None]
    count, kl, log_ratio = 0, [], jnp.zeros(keys.shape[0])
    for side, blocks in reversed(list(zip(self.sides, self.blocks, strict=True))):
      start = self.param(f'start_{side}', nn.initializers.zeros, (side, side, self.width))
      h = jnp.repeat(jnp.repeat(h, side // h.shape[1], axis=1), side // h.shape[2], axis=2) + start[None].astype(self.dtype)
      for _ in range(blocks):
        noise = rng.normal(rng.fold_in(keys, count), (side, side, self.z_dim))
        block = TopDown(self.z_dim, -(-self.width // 4), sum(self.blocks), self.dtype, name=f'block_{count}')
        h, block_kl, block_ratio = block(h, None if features is None else features[side], noise, temperature)
        kl.append(block_kl)
        log_ratio, count = log_ratio + block_ratio, count + 1
    gain = self.param('gain', nn.initializers.ones, (self.width,))
    rows, columns = (self.patch // side for side in self.place)
    out = nn.Dense(rows * columns * (self.outputs or self.image_shape[-1]), name='out')
    out = from_patches(out((h * gain[None, None, None]).astype(jnp.float32)), rows, columns)
    return Descent(out, jnp.stack(kl, axis=1), log_ratio)
