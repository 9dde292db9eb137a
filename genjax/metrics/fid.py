"""Frechet inception distance (Heusel et al. 1706.08500), its limit for infinitely many samples (1911.07023), and its floor."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from genjax.metrics.moments import Moments, moments

HALVES = 20  # random halves from which the floor is estimated
FLOOR_IMAGES = 10_000  # maximum number of images for this estimate


def frechet_distance(a: Moments, b: Moments) -> float:
  """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (1706.08500, eq. 6), in float64.

  The trace of the root is the sum of the roots of the eigenvalues of S_a^(1/2) S_b S_a^(1/2), which is symmetric: no root
  of a matrix that is not, no imaginary parts to drop, and singular covariances (n <= d) are no special case.
  """
  return distance_from(a, square_root(a.cov), b)


def square_root(cov: Float[np.ndarray, 'd d']) -> Float[np.ndarray, 'd d']:
  """The symmetric square root of a covariance."""
  values, vectors = np.linalg.eigh(cov)
  return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def distance_from(a: Moments, root: Float[np.ndarray, 'd d'], b: Moments) -> float:
  """`frechet_distance(a, b)`, where `root` is the square root of a's covariance."""
  values = np.linalg.eigvalsh(root @ b.cov @ root)
  trace = np.trace(a.cov) + np.trace(b.cov) - 2 * np.sqrt(np.maximum(values, 0)).sum()
  return float(((a.mean - b.mean) ** 2).sum() + trace)


def infinity(counts: list[int], distances: list[float]) -> float:
  """FID_infinity (Chong & Forsyth 1911.07023, section 3): the least-squares line of FID over 1/n, at 1/n = 0.

  `counts` are numbers of samples, two or more, and `distances` the FID of the first so many. These share samples, so how
  well they lie on the line says nothing of the error: several seeds do.
  """
  return float(np.polynomial.Polynomial.fit(1 / np.asarray(counts, np.float64), distances, 1)(0.0))


class Floor(NamedTuple):
  """FID of equally many fresh real images as samples."""

  fid: float  # mean
  spread: float  # the standard deviation of a single evaluation


def estimate_floor(features: Float[np.ndarray, 'n d'], labels: Int[np.ndarray, 'n'] | None, images: int, samples: int) -> Floor:
  """FID that `samples` fresh images of the reference's distribution would have against a reference of `images`.

  `features` and `labels` are those of the reference, or of a part of it; at most FLOOR_IMAGES are used. Labels of samples are
  drawn at random with the frequencies of the reference. The estimate is deterministic.

  FID is quadratic in small deviations of the moments. Those of a mean over n images have variance 1 / n, so that m images
  against n others have an expected FID of

      within (1 / m + 1 / n) + between / m,

  where `within` comes from the images of each class and `between` from the labels, which only the m samples draw. A half of h
  of n images with the same label frequencies has within (1 / h - 1 / n) against all of them. All images, weighted by the
  counts of n random labels, have between / n.
  """
  x = np.asarray(features[:FLOOR_IMAGES], np.float64)
  n, random = len(x), np.random.default_rng(0)
  labels = np.zeros(n, np.int64) if labels is None else np.asarray(labels[:n])
  counts = np.bincount(labels)
  whole = moments(x)
  root, within, between = square_root(whole.cov), [], []
  for _ in range(HALVES):
    order = random.permutation(n)
    order = order[np.argsort(labels[order], kind='stable')]
    half = moments(x[order[random.integers(2) :: 2]])  # every other image of each class
    within.append(distance_from(whole, root, half) / (1 / half.n - 1 / n))
    if np.count_nonzero(counts) > 1:
      weights = (random.multinomial(n, counts / n) / np.maximum(counts, 1))[labels]
      mean = weights @ x / n
      cov = (weights[:, None] * x).T @ x / n - np.outer(mean, mean)
      between.append(distance_from(whole, root, Moments(n, mean, cov * n / (n - 1))) * n)
  parts = (1 / samples + 1 / images) * np.array(within), np.array(between or [0.0, 0.0]) / samples
  return Floor(float(sum(part.mean() for part in parts)), float(np.hypot(*(part.std(ddof=1) for part in parts))))
