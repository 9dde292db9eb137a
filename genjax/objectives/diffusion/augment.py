"""Non-leaking augmentation (Karras et al. 2206.00364, appendix F.2, table 6): the network is conditioned on its parameters.

Samples are drawn with the parameters of images without augmentation.
"""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

from genjax.types import Images, Keys

AUGMENTATIONS = 9  # augmentation parameters; all are 0 without augmentation
SCALE, STRETCH, SHIFT = 0.2, 0.2, 0.125  # standard deviations: in log2, in log2, relative to the side


def augment(keys: Keys, images: Images, probability: float) -> tuple[Images, Float[Array, 'b 9']]:
  """Transforms each image with its own key. Returns the images and the augmentation parameters.

  Flips horizontally with probability 1/2. The others have `probability` each, independently: flip vertically (in half of these
  cases), scale by 2^(0.2 n), rotate by any angle, stretch by 2^(0.2 n) along a direction, shift by n / 8 of the side, where
  n ~ N(0, 1).
  """
  done = jax.vmap(lambda key: _draw(key, probability))(keys)
  mirror, upside_down, scale, cos, sin, stretch_cos, stretch_sin, x, y = done.T
  images = jnp.where(mirror[:, None, None, None] > 0, images[:, :, ::-1], images)
  images = jnp.where(upside_down[:, None, None, None] > 0, images[:, ::-1], images)
  matrix = lambda a, b, c, d: jnp.stack([jnp.stack([a, b], -1), jnp.stack([c, d], -1)], -2)  # noqa: E731
  amount = jnp.hypot(stretch_cos, stretch_sin)  # by 2^(STRETCH amount) along (u, v), its inverse across it
  apart = jnp.where(amount > 0, amount, 1)
  u, v = jnp.where(amount > 0, stretch_cos / apart, 1), stretch_sin / apart
  long, short = 2.0 ** (STRETCH * amount), 2.0 ** (-STRETCH * amount)
  stretch = matrix(long * u * u + short * v * v, (long - short) * u * v, (long - short) * u * v, long * v * v + short * u * u)
  linear = (2.0 ** (SCALE * scale))[:, None, None] * stretch @ matrix(cos + 1, -sin, sin, cos + 1)
  warped = jax.vmap(warp)(images, linear, SHIFT * jnp.stack([x, y], -1))
  moved = (done[:, 2:] != 0).any(axis=1)[:, None, None, None]
  return jnp.where(moved, warped, images), done  # exact without a transformation


def _draw(key, probability: float) -> Float[Array, '9']:
  keys = jax.random.split(key, 3)
  n = jax.random.normal(keys[0], (4,))
  u = jax.random.uniform(keys[1], (4,))
  on = jax.random.bernoulli(keys[2], probability, (5,))
  angle, direction = jnp.pi * (2 * u[2:] - 1)
  return jnp.array([
    u[0] < 0.5,
    on[0] & (u[1] < 0.5),
    on[1] * n[0],
    on[2] * (jnp.cos(angle) - 1),
    on[2] * jnp.sin(angle),
    on[3] * n[1] * jnp.cos(direction),
    on[3] * n[1] * jnp.sin(direction),
    on[4] * n[2],
    on[4] * n[3],
  ]).astype(jnp.float32)  # fmt: skip


def warp(image: Float[Array, 'h w c'], linear: Float[Array, '2 2'], shift: Float[Array, '2']) -> Float[Array, 'h w c']:
  """The image transformed by x -> linear x + shift (relative to the sides) about its center, with reflection padding.

  Sampled bilinearly from twice the resolution, at twice the resolution, and averaged.
  """
  height, width, channels = image.shape
  fine = jax.image.resize(image, (2 * height, 2 * width, channels), 'lanczos3')
  row, column = jnp.meshgrid(jnp.arange(2 * height) + 0.5, jnp.arange(2 * width) + 0.5, indexing='ij')
  target = jnp.stack([column - width, row - height], -1) - (2 * shift * jnp.array([width, height]))[None, None]
  (a, b), (c, d) = linear
  inverse = jnp.stack([jnp.stack([d, -b]), jnp.stack([-c, a])]) / (a * d - b * c)  # no LAPACK inside a step
  source = target @ inverse.T
  at = [source[..., 1] + height - 0.5, source[..., 0] + width - 0.5]
  at = [_reflected(c, 2 * side) for c, side in zip(at, (height, width), strict=True)]
  read = jax.vmap(lambda plane: map_coordinates(plane, at, order=1, mode='nearest'), in_axes=-1, out_axes=-1)
  return read(fine).reshape(height, 2, width, 2, channels).mean(axis=(1, 3))


def _reflected(c: Float[Array, 'h w'], side: int) -> Float[Array, 'h w']:
  """Reflects pixel coordinates at the edges (half a pixel beyond an edge is the pixel at the edge again)."""
  c = jnp.mod(c + 0.5, 2 * side)
  return jnp.minimum(c, 2 * side - c) - 0.5
