"""Augmentation of all images that a discriminator sees, so that it does not overfit to a small data set.

The transformations are differentiable, and each image is transformed with its own key. Generated images are augmented too, so
that the generator does not learn to produce augmented images.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax import rng
from genjax.errors import UsageError, unknown
from genjax.objectives.diffusion.augment import warp
from genjax.types import Images, Keys

Memory = dict[str, Float[Array, '']]


def mirror(key, image: Float[Array, 'h w c']) -> Float[Array, 'h w c']:
  """Flips the image horizontally with probability 1/2."""
  return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def shift(key, image: Float[Array, 'h w c'], mode: str = 'constant') -> Float[Array, 'h w c']:
  """Translates by integer pixels, at most an eighth of a side; fills with gray, or pads by the `mode` of `jnp.pad`."""
  h, w, _ = image.shape
  far = round(h / 8), round(w / 8)
  start = [jax.random.randint(k, (), 0, 2 * n + 1) for k, n in zip(jax.random.split(key), far, strict=True)]
  wide = jnp.pad(image, ((far[0],) * 2, (far[1],) * 2, (0, 0)), mode)
  return jax.lax.dynamic_slice(wide, (*start, 0), image.shape)


def colored(key, image: Float[Array, 'h w c']) -> Float[Array, 'h w c']:
  """Adds U(-1/2, 1/2) to the brightness (of a range of 2), scales saturation by U(0, 2) and contrast by U(1/2, 3/2)."""
  u = jax.random.uniform(key, (3,))
  image = image + u[0] - 0.5
  gray = image.mean(axis=2, keepdims=True)
  image = gray + 2 * u[1] * (image - gray)
  return image.mean() + (u[2] + 0.5) * (image - image.mean())


def cut_out(key, image: Float[Array, 'h w c']) -> Float[Array, 'h w c']:
  """Replaces a square of half the side, centered anywhere in the image, by gray."""

  def mask(key, n):  # the center is a pixel, or a line between two pixels or at the border
    cut = round(n / 2)
    start = jax.random.randint(key, (), 0, n + 1 - cut % 2) - cut // 2
    return (start <= jnp.arange(n)) & (jnp.arange(n) < start + cut)

  rows, columns = (mask(k, n) for k, n in zip(jax.random.split(key), image.shape[:2], strict=True))
  return jnp.where(rows[:, None, None] & columns[None, :, None], 0.0, image)


POLICIES = {'color': colored, 'translation': shift, 'cutout': cut_out}


@dataclasses.dataclass(frozen=True)
class DiffAugment:
  """Always applies color, translation and cutout, or those in `policy` (2006.10738, section 3.2)."""

  policy: tuple[str, ...] = ('color', 'translation', 'cutout')

  def __post_init__(self):
    if not self.policy:
      raise UsageError(f'DiffAugment: policy is empty, choose from {", ".join(POLICIES)}.')
    for name in self.policy:
      if name not in POLICIES:
        raise UsageError(unknown('policy', name, POLICIES, owner='DiffAugment'))

  def __call__(self, keys: Keys, images: Images, memory: Memory | None = None) -> Images:
    for i, name in enumerate(self.policy):
      images = jax.vmap(POLICIES[name])(rng.fold_in(keys, i), images)
    return images


@dataclasses.dataclass(frozen=True)
class AdaptiveAugment:
  """Each transformation with a probability p that grows while the discriminator overfits (ADA, 2006.06676).

  r = E sign D(x) on real images (or of `Adversarial.ada_signal` instead of D), averaged over about ten steps. p increases while
  r is above `target`, and decreases otherwise, by 1 in `kimg` thousand images. Uses the pixel blitting, geometric and color
  transformations of appendix B ("bgc"), in this order; grayscale images have only brightness and contrast. Images are resampled
  as in genjax/objectives/diffusion/augment.py.
  """

  target: float = 0.6
  kimg: float = 500.0

  def __post_init__(self):
    if not -1 < self.target < 1 or self.kimg <= 0:
      raise UsageError(f'AdaptiveAugment: target={self.target} must be between -1 and 1, kimg={self.kimg} positive.')

  def init(self) -> Memory:
    """The initial state: `p`, in [0, 1], and `r`."""
    return {'p': jnp.zeros(()), 'r': jnp.zeros(())}

  def update(self, memory: Memory, real: Float[Array, 'b'], batch_size: int) -> Memory:
    """The state after a step of `batch_size` images; `real` is positive where a real image was classified as real.

    p is updated with the r of the previous steps.
    """
    step = jnp.sign(memory['r'] - self.target) * batch_size / (1000 * self.kimg)
    r = memory['r'] + 0.1 * (jnp.sign(real).mean() - memory['r'])
    return {'p': jnp.clip(memory['p'] + step, 0, 1), 'r': jax.lax.stop_gradient(r)}

  def __call__(self, keys: Keys, images: Images, memory: Memory) -> Images:
    return jax.vmap(lambda key, image: _adapted(key, image, memory['p']))(keys, images)


def _adapted(key, image: Float[Array, 'h w c'], p: Float[Array, '']) -> Float[Array, 'h w c']:
  keys = jax.random.split(key, 7)
  on = jax.random.bernoulli(keys[0], p, (11,))
  u, n = jax.random.uniform(keys[1], (4,), minval=-1), jax.random.normal(keys[2], (7,))
  # Pixel blitting, without interpolation.
  image = jnp.where(on[0], mirror(keys[3], image), image)
  if image.shape[0] == image.shape[1]:
    quarters = jax.random.randint(keys[4], (), 0, 4) * on[1]
    image = jax.lax.select_n(quarters, *(jnp.rot90(image, k) for k in range(4)))
  image = jnp.where(on[2], shift(keys[5], image, 'reflect'), image)
  # Scale, rotate, stretch, rotate again, shift. Each rotation has probability 1 - sqrt(1 - p), so that p is that of any.
  turns = jax.random.bernoulli(keys[6], 1 - jnp.sqrt(1 - p), (2,))
  before, after = (_rotation(jnp.pi * turns[i] * u[i]) for i in range(2))
  scale, stretch = 2.0 ** (0.2 * on[3] * n[0]), 2.0 ** (0.2 * on[4] * n[1])
  linear = after @ jnp.diag(jnp.stack([stretch, 1 / stretch])) @ before * scale
  offset = 0.125 * on[5] * n[2:4]
  warped = warp(image, linear, offset)
  image = jnp.where(turns.any() | on[3] | on[4] | on[5], warped, image)
  # Colors.
  image = image + 0.2 * on[6] * n[4]
  image = image * 2.0 ** (0.5 * on[7] * n[5])
  if image.shape[2] != 3:
    return image
  luma = jnp.full(3, 1 / math.sqrt(3))  # the gray axis of RGB
  flip = jnp.eye(3) - 2 * (on[8] & (u[2] < 0)) * jnp.outer(luma, luma)
  hue = _about(luma, jnp.pi * on[9] * u[3])
  saturation = jnp.outer(luma, luma) + (jnp.eye(3) - jnp.outer(luma, luma)) * 2.0 ** (on[10] * n[6])
  return image @ (saturation @ hue @ flip).T


def _rotation(angle: Float[Array, '']) -> Float[Array, '2 2']:
  return jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])


def _about(axis: Float[Array, '3'], angle: Float[Array, '']) -> Float[Array, '3 3']:
  """The rotation about a unit vector (Rodrigues)."""
  x, y, z = axis
  cross = jnp.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
  return jnp.cos(angle) * jnp.eye(3) + jnp.sin(angle) * cross + (1 - jnp.cos(angle)) * jnp.outer(axis, axis)
