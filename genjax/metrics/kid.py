"""Kernel inception distance (Binkowski et al. 1801.01401)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import stdtrit  # of Student's t; scipy.stats takes a second to import


class KID(NamedTuple):
  """Mean over the subsets, their standard deviation, and a 95 % interval of the mean."""

  value: float
  std: float
  low: float
  high: float


@jax.jit
def mmd2(x: Float[Array, 'm d'], y: Float[Array, 'm d']) -> Float[Array, '']:
  """The unbiased estimate of MMD^2 for the kernel (x.y / d + 1)^3 (1801.01401, eqs. 3 and 4). It may be negative."""
  x, y = x.astype(jnp.float64), y.astype(jnp.float64)
  m, d = x.shape

  def kernel(a, b):
    return (jnp.matmul(a, b.T, precision='highest') / d + 1) ** 3

  def among(a):
    k = kernel(a, a)
    return (k.sum() - jnp.trace(k)) / (m * (m - 1))

  return among(x) + among(y) - 2 * kernel(x, y).mean()


def kid(real, fake, subsets: int = 100, subset_size: int = 1000, blocks: int = 10, seed: int = 0) -> KID:
  """KID of features [N, D] and [M, D], in subsets of at most `subset_size` and at most half of the smaller set.

  The value is the mean over subsets, each drawn without replacement, as in section 4 of the paper. The width of the interval
  comes from at least `blocks` disjoint blocks, by Student's t, since overlapping subsets are correlated. Blocks smaller than
  the subsets make it conservative.
  """
  real, fake = np.asarray(real), np.asarray(fake)
  fewer = min(len(real), len(fake))
  size = min(subset_size, fewer // 2)
  random = np.random.default_rng(seed)
  pick = lambda x: x[random.choice(len(x), size, replace=False)]  # noqa: E731
  shuffled = [x[random.permutation(len(x))[:fewer]] for x in (fake, real)]
  each = min(size, fewer // blocks)
  starts = range(0, fewer - each + 1, each)
  with jax.enable_x64(True):
    values = [float(mmd2(pick(fake), pick(real))) for _ in range(subsets)]
    apart = [float(mmd2(*(x[start : start + each] for x in shuffled))) for start in starts]
  value = float(np.mean(values))
  half = stdtrit(len(apart) - 1, 0.975) * np.std(apart, ddof=1) / math.sqrt(len(apart))
  return KID(value, float(np.std(values)), float(value - half), float(value + half))
