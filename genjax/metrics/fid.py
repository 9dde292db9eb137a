"""Frechet inception distance (Heusel et al. 1706.08500) and its extrapolation to infinitely many samples (1911.07023)."""

import numpy as np
from jaxtyping import Float64

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


def infinity(counts: list[int], distances: list[float]) -> tuple[float, float]:
  """FID_infinity (Chong & Forsyth 1911.07023, section 3): the least-squares line of FID over 1/n, at 1/n = 0.

  Args:
    counts: numbers of samples, three or more.
    distances: the FID of the first so many.

  Returns: the intercept, and its standard error from the residuals of the line.
  """
  x: Float64[np.ndarray, 'm'] = 1 / np.asarray(counts, np.float64)
  y = np.asarray(distances, np.float64)
  design = np.stack([np.ones_like(x), x], axis=1)
  coefficients, *_ = np.linalg.lstsq(design, y, rcond=None)
  residual = y - design @ coefficients
  covariance = np.linalg.inv(design.T @ design) * (residual @ residual) / (len(x) - 2)
  return float(coefficients[0]), float(np.sqrt(covariance[0, 0]))
