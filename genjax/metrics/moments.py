"""Mean and covariance of features in float64, from batches on the devices, in constant memory."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float64


class Moments(NamedTuple):
  """Mean and covariance of `n` feature vectors of dimension `d`; `cov` is unbiased, divided by n - 1."""

  n: int
  mean: Float64[np.ndarray, 'd']
  cov: Float64[np.ndarray, 'd d']


class RunningMoments:
  """Moments of all batches passed to `add`, merged pairwise without cancellation (Chan, Golub & LeVeque 1979, eq. 2.1).

  Computed in float64 on the devices of the features; JAX's 64-bit mode is enabled only here.
  """

  def __init__(self, d: int):
    with jax.enable_x64(True):
      self.state = (jnp.zeros(()), jnp.zeros(d), jnp.zeros((d, d)))

  def add(self, features: Float[Array, 'b d'], valid: Bool[Array, 'b'] | None = None) -> None:
    """Adds the rows of `features` where `valid` (default: all)."""
    valid = np.ones(len(features), bool) if valid is None else valid
    with jax.enable_x64(True):
      self.state = _merge(self.state, features, valid)

  def result(self) -> Moments:
    """The moments of all rows so far, of which there must be at least two."""
    n, mean, m2 = jax.device_get(self.state)
    return Moments(int(n), mean, m2 / (n - 1))


@jax.jit
def _merge(state, features, valid):
  n, mean, m2 = state
  x, w = features.astype(jnp.float64), valid.astype(jnp.float64)[:, None]
  n_b = w.sum()
  mean_b = (w * x).sum(axis=0) / jnp.maximum(n_b, 1)
  centered = w * (x - mean_b[None])
  m2_b = jnp.matmul(centered.T, centered, precision='highest')
  delta, total = mean_b - mean, n + n_b
  part = jnp.where(total > 0, n_b / jnp.maximum(total, 1), 0)
  return total, mean + part * delta, m2 + m2_b + n * part * jnp.outer(delta, delta)


def moments(features: Float[np.ndarray, 'n d']) -> Moments:
  """The moments of an array of features."""
  features = np.asarray(features, np.float64)
  return Moments(len(features), features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False)))
