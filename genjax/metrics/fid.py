"""Frechet inception distance (Heusel et al. 1706.08500) and its extrapolation to infinitely many samples (1911.07023)."""

import numpy as np

from genjax.metrics.moments import Moments


def frechet_distance(a: Moments, b: Moments) -> float:
  """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (1706.08500, eq. 6), in float64.

  The trace of the root is the sum of the roots of the eigenvalues of S_a^(1/2) S_b S_a^(1/2), which is symmetric: no root
  of a matrix that is not, no imaginary parts to drop, and singular covariances (n <= d) are no special case.
  """
  values, vectors = np.linalg.eigh(a.cov)
  root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
  values = np.linalg.eigvalsh(root @ b.cov @ root)
  trace = np.trace(a.cov) + np.trace(b.cov) - 2 * np.sqrt(np.maximum(values, 0)).sum()
  return float(((a.mean - b.mean) ** 2).sum() + trace)


def infinity(counts: list[int], distances: list[float]) -> float:
  """FID_infinity (Chong & Forsyth 1911.07023, section 3): the least-squares line of FID over 1/n, at 1/n = 0.

  `counts` are numbers of samples, two or more, and `distances` the FID of the first so many. These share samples, so how
  well they lie on the line says nothing of the error: several seeds do.
  """
  return float(np.polynomial.Polynomial.fit(1 / np.asarray(counts, np.float64), distances, 1)(0.0))
