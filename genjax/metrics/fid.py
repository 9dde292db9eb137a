"""Frechet inception distance (Heusel et al. 1706.08500), its limit for infinitely many samples (1911.07023), and its floor."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from genjax.metrics.moments import Moments, moments

FLOOR_IMAGES = 10_000  # maximum number of images from which the floor is estimated
MIN_DRAWS, MAX_DRAWS = 5, 20  # minimum and maximum number of random divisions of these images
ENOUGH = 0.02  # relative standard error at which no more draws are needed


def frechet_distance(a: Moments, b: Moments) -> float:
  """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (1706.08500, eq. 6), in float64.

  The trace of the root is the sum of the roots of the eigenvalues of S_a^(1/2) S_b S_a^(1/2). This matrix is symmetric, so that
  there are no imaginary parts to drop, and singular covariances (n <= d) need no special case.
  """
  return distance_from(a, square_root(a.cov), b)


def square_root(cov: Float[np.ndarray, 'd d']) -> Float[np.ndarray, 'd d']:
  """The symmetric square root of a covariance."""
  values, vectors = np.linalg.eigh(cov)
  return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def distance_from(a: Moments, root: Float[np.ndarray, 'r d'], b: Moments) -> float:
  """`frechet_distance(a, b)`, where a's covariance is `root.T @ root`."""
  values = np.linalg.eigvalsh(root @ b.cov @ root.T)
  trace = np.trace(a.cov) + np.trace(b.cov) - 2 * np.sqrt(np.maximum(values, 0)).sum()
  return float(((a.mean - b.mean) ** 2).sum() + trace)


def infinity(counts: list[int], distances: list[float]) -> float:
  """FID_infinity (Chong & Forsyth 1911.07023, section 3): the least-squares line of FID over 1/n, at 1/n = 0.

  `counts` are two or more numbers of samples, and `distances` the FID of the first `counts[i]` samples. These share samples, so
  the residuals do not measure the error; use several seeds for that.
  """
  return float(np.polynomial.Polynomial.fit(1 / np.asarray(counts, np.float64), distances, 1)(0.0))


class Floor(NamedTuple):
  """FID of equally many fresh real images as samples."""

  fid: float  # mean
  spread: float  # the standard deviation of a single evaluation


class FloorCoefficients(NamedTuple):
  """Coefficients of the floor for any number of samples; each is a mean and the standard deviation of a single evaluation.

  FID is quadratic in small deviations of the moments. Deviations of a mean over n images have variance 1 / n, so that m images
  have an expected FID, against n others, of

      within (1 / m + 1 / n) + between / m,

  where `between` is due to the labels, which only the m samples draw at random, and `within` to the images of each class.
  Without labels, `within` is due to all images, and `between` is 0.
  """

  within: tuple[float, float]
  between: tuple[float, float]

  def floor(self, images: int, samples: int) -> Floor:
    """The floor of `samples` images against a reference of `images`."""
    factor = 1 / samples + 1 / images
    spread = np.hypot(self.within[1] * factor, self.between[1] / samples)
    return Floor(self.within[0] * factor + self.between[0] / samples, float(spread))


def floor_coefficients(features: Float[np.ndarray, 'n d'], labels: Int[np.ndarray, 'n'] | None) -> FloorCoefficients:
  """Estimates the coefficients from features of real images in random order; at most FLOOR_IMAGES are used. Deterministic.

  Args:
    features: features of the reference, or of a part of it.
    labels: labels of these images, if the labels of samples are drawn at random with the frequencies of the reference. None if
      they are not, as for a model without labels.

  For `within`, a random third of the images is compared with the others; with labels, both have the same frequencies of
  labels. FID is not exactly quadratic if there are few images for their dimension d: halves would underestimate the floor for
  more samples than images, and smaller parts would overestimate it. With thirds, the error is below 10 % for at least 1.5 d
  images (tests/test_metrics.py). With fewer images the estimate is inaccurate, and often too low.

  For `between`, all images are weighted by random counts of labels.

  Divisions are repeated until the relative standard error of the mean is 2 %. In many dimensions a few are enough.
  """
  x = np.asarray(features[:FLOOR_IMAGES], np.float64)
  n, random = len(x), np.random.default_rng(0)
  labels = np.zeros(n, np.int64) if labels is None else np.asarray(labels[:n])
  counts = np.bincount(labels)

  def of_a_third() -> float:
    order = random.permutation(n)
    order = order[np.argsort(labels[order], kind='stable')]
    chosen = np.arange(n) % 3 == random.integers(3)  # every third image of each class
    few, others = x[order[chosen]], moments(x[order[~chosen]])
    mean = few.mean(axis=0)
    root = np.linalg.qr(few - mean, mode='r') / np.sqrt(len(few) - 1)
    return distance_from(Moments(len(few), mean, root.T @ root), root, others) / (1 / len(few) + 1 / others.n)

  def of_random_labels() -> float:
    weights = (random.multinomial(n, counts / n) / np.maximum(counts, 1))[labels]
    mean = weights @ x / n
    cov = (weights[:, None] * x).T @ x / n - np.outer(mean, mean)
    return distance_from(whole, whole_root, Moments(n, mean, cov * n / (n - 1))) * n

  with tqdm(desc='floor of FID', unit=' divisions', delay=10, leave=False, disable=None) as progress:
    within = repeat_until_precise(of_a_third, 0.0, progress)
    if np.count_nonzero(counts) < 2:
      return FloorCoefficients(within, (0.0, 0.0))
    whole = moments(x)
    whole_root = square_root(whole.cov)
    return FloorCoefficients(within, repeat_until_precise(of_random_labels, 2 * within[0], progress))


def repeat_until_precise(draw: Callable[[], float], known: float, progress: tqdm) -> tuple[float, float]:
  """Mean and standard deviation of calls of `draw`, until the standard error is ENOUGH of the mean plus `known`."""
  values: list[float] = []
  while len(values) < MIN_DRAWS or (
    len(values) < MAX_DRAWS and np.std(values, ddof=1) > ENOUGH * (np.mean(values) + known) * np.sqrt(len(values))
  ):
    values.append(draw())
    progress.update()
  return float(np.mean(values)), float(np.std(values, ddof=1))


def estimate_floor(features: Float[np.ndarray, 'n d'], labels: Int[np.ndarray, 'n'] | None, images: int, samples: int) -> Floor:
  """FID that `samples` fresh images would have against a reference of `images`; see `floor_coefficients`."""
  return floor_coefficients(features, labels).floor(images, samples)
