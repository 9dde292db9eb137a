"""Previews of an autoencoder: grids [rows, columns, H, W, C] of images with reconstructions, interpolations and traversals."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax.types import Cond, Images

Preview = Float[Array, 'r k h w c']
COLUMNS = 10  # of interpolations and traversals


def reconstructions(x: Images, ours: Images) -> Preview:
  """Observed images, and below each its reconstruction."""
  return jnp.stack([x, ours])


def latent_previews(
  decode: Callable[[Float[Array, 'n z'], Cond], Images],
  x: Images,
  z: Float[Array, 'b z'],
  embedded: Cond,
) -> dict[str, Preview]:
  """Previews of a model with one latent vector per image.

  `reconstructions`; `interpolation`, linear between the latents (and conditions) of two images; and `traversal` (as in the
  beta-VAE paper), a row for each of the eight latents with the largest variance over the images (1509.00519, section 5), in
  which this latent of the first image varies from -2.5 to 2.5.
  """
  t = jnp.linspace(0, 1, COLUMNS)

  def way(a):
    part = t.reshape(1, -1, *[1] * (a.ndim - 1))
    return ((1 - part) * a[:-1:2, None] + part * a[1::2, None]).reshape(-1, *a.shape[1:])

  between = decode(way(z), jax.tree.map(way, embedded))
  order = jnp.argsort(-z.var(axis=0))[:8]
  one = jax.nn.one_hot(order, z.shape[1])[:, None]  # [8, 1, z]
  moved = (z[0][None, None] * (1 - one) + jnp.linspace(-2.5, 2.5, COLUMNS)[None, :, None] * one).reshape(-1, z.shape[1])
  traversed = decode(moved, jax.tree.map(lambda x: jnp.broadcast_to(x[:1], (len(moved), *x.shape[1:])), embedded))
  rows = lambda images: images.reshape(-1, COLUMNS, *images.shape[1:])  # noqa: E731
  shown = reconstructions(x, decode(z, embedded))
  return {'reconstructions': shown, 'interpolation': rows(between), 'traversal': rows(traversed)}
