"""Nearest-neighbor metrics of samples and real images: precision, recall, density, coverage, and copies of training images.

Improved precision and recall: Kynkaanniemi et al. 1904.06991. Density and coverage: Naeem et al. 2002.09797. The radius of the
ball of a point is the distance to its k-th nearest neighbor in the same set, not counting the point itself.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from genjax.parallel import batch_sharding, make_mesh, replicated

BLOCK = 1024  # rows of a block of distances


class Manifold(NamedTuple):
  """Each is between 0 and 1, except for density, which may exceed 1."""

  precision: float  # fraction of samples in the ball of a real image
  recall: float  # fraction of real images in the ball of a sample
  density: float | None  # mean number of balls of real images that contain a sample, divided by k; None if balls have radius 0
  coverage: float  # fraction of real images whose ball contains a sample


def squared_distances(a: Float[Array, 'n d'], b: Float[Array, 'm d']) -> Float[Array, 'n m']:
  """|a_i - b_j|^2, at least 0."""
  product = jnp.matmul(a, b.T, precision='highest')
  return jnp.maximum((a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * product, 0)


@functools.partial(jax.jit, static_argnames='k')
def _nearest(rows, points, k: int):
  squared = squared_distances(rows, points).astype(jnp.float32)  # top_k of float64 sorts: 17 times slower on CPU
  _, index = jax.lax.top_k(-squared, k)
  distances = jnp.linalg.norm(rows[:, None] - points[index], axis=-1)  # recomputed without cancellation, for near duplicates
  return jax.lax.sort((distances, index), dimension=1, num_keys=1)


@jax.jit
def _counts(rows, points, radii):
  # The tolerance makes ties count despite the rounding of float32 features, mainly for duplicates.
  tie = 1e-6 * (jnp.linalg.norm(rows, axis=1)[:, None] + jnp.linalg.norm(points, axis=1)[None])
  return (squared_distances(rows, points) <= (radii[None] + tie) ** 2).sum(axis=1)


def _blockwise(function, rows: Float[np.ndarray, 'n d'], *rest):
  """Applies `function` to blocks of rows, split over the local devices; returns the results as one array on the host."""
  mesh, parts = make_mesh(jax.local_devices()), []
  size = -(-min(BLOCK, len(rows)) // mesh.size) * mesh.size
  with jax.enable_x64(True):  # float32 cannot resolve small distances between points far from the origin
    rest = jax.device_put(rest, replicated(mesh))
    for start in range(0, len(rows), size):
      block = rows[start : start + size]
      padded = jax.device_put(np.pad(block, ((0, size - len(block)), (0, 0))), batch_sharding(mesh))
      results = jax.device_get(function(padded, *rest))
      parts.append(jax.tree.map(lambda x: x[: len(block)], results))
  return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


def nearest(rows: Float[np.ndarray, 'n d'], points: Float[np.ndarray, 'm d'], k: int = 1):
  """Sorted distances [n, k] and indices [n, k] of the k nearest points of each row."""
  neighbors: tuple[Float[np.ndarray, 'n k'], Int[np.ndarray, 'n k']]
  neighbors = _blockwise(functools.partial(_nearest, k=k), np.asarray(rows, np.float64), np.asarray(points, np.float64))
  return neighbors


def radii(points: Float[np.ndarray, 'n d'], k: int) -> Float[np.ndarray, 'n']:
  """The distance of each point to its k-th nearest other point, that is the (k + 1)-th including itself."""
  return nearest(points, points, k + 1)[0][:, k]


def manifold(
  real: Float[np.ndarray, 'n d'], fake: Float[np.ndarray, 'm d'], k_precision: int = 3, k_density: int = 5
) -> Manifold:
  """Computes the metrics from features of more than k real images and samples; the defaults are those of the papers.

  The papers compare equally many of both; recall and coverage depend on the numbers. All pairs are compared, block by block.
  """
  real, fake = (np.asarray(x, np.float64) - np.mean(real, axis=0, dtype=np.float64) for x in (real, fake))
  precision = (_blockwise(_counts, fake, real, radii(real, k_precision)) > 0).mean()
  recall = (_blockwise(_counts, real, fake, radii(fake, k_precision)) > 0).mean()
  reach = radii(real, k_density)
  # If points lie on a grid, many balls have radius 0 and contain all points at the same position: density is undefined.
  points = (reach <= 1e-6 * np.linalg.norm(real, axis=1)).mean() > 0.1
  density = None if points else float(_blockwise(_counts, fake, real, reach).mean() / k_density)
  coverage = (nearest(real, fake)[0][:, 0] <= reach * (1 + 1e-6)).mean()
  return Manifold(float(precision), float(recall), density, float(coverage))


class Copies(NamedTuple):
  """Distances of samples to training images, relative to those of held-out real images."""

  median_ratio: float  # median distance to the nearest training image, divided by that of held-out images; << 1: copies
  closer: float  # fraction of samples closer than the 1st percentile of the held-out images; 0.01 by chance


def copies(
  train: Float[np.ndarray, 'n d'], held_out: Float[np.ndarray, 'm d'], fake: Float[np.ndarray, 'l d']
) -> Copies | None:
  """Compares features: samples that copy training images are closer to them than held-out images are.

  None if one percent of the held-out images repeat training images (points on a grid, duplicates): then they are no baseline.
  """
  center = np.mean(train, axis=0, dtype=np.float64)
  train, held_out, fake = (np.asarray(x, np.float64) - center for x in (train, held_out, fake))
  unseen, generated = (nearest(x, train)[0][:, 0] for x in (held_out, fake))
  near = np.percentile(unseen, 1)
  if near <= 1e-6 * np.linalg.norm(train, axis=1).mean():
    return None
  return Copies(float(np.median(generated) / np.median(unseen)), float((generated < near).mean()))
