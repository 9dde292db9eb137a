"""Paths x_t = alpha(t) x_0 + sigma(t) eps from data (t = 0: alpha 1, sigma 0) to noise (t = end).

A path also has the inverse of sigma / alpha. Time steps and samplers like those of EDM need only this, since the
probability-flow ODE in the variables x / alpha and sigma / alpha is the same for every path.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from genjax.errors import UsageError

Time = Float[Array, '*b']
MAX_T = 1_000_000  # noise levels of a discrete path


@runtime_checkable
class NoisePath(Protocol):
  """A path from data to noise, a frozen dataclass."""

  end: float  # the time of noise
  ratio_min: float  # the smallest sigma / alpha, at the last time step before 0
  timesteps: str  # the default time steps (genjax/samplers/timesteps.py)

  def alpha(self, t: Time) -> Time: ...

  def sigma(self, t: Time) -> Time: ...

  def time(self, ratio: Time) -> Time:
    """The t with sigma / alpha = ratio, from 0 (data) to the ratio at `end`."""
    ...


@dataclasses.dataclass(frozen=True)
class RectifiedFlow:
  """The straight path: alpha = 1 - t, sigma = t (Liu et al. 2209.03003; Lipman et al. 2210.02747 with sigma_min = 0)."""

  end = 1.0
  ratio_min = 0.002
  timesteps = 'uniform'

  def alpha(self, t: Time) -> Time:
    return 1.0 - t

  def sigma(self, t: Time) -> Time:
    return 1.0 * t

  def time(self, ratio: Time) -> Time:
    return 1 / (1 + 1 / ratio)  # 1 if the ratio is infinite


@dataclasses.dataclass(frozen=True)
class EDM:
  """alpha = 1, sigma = t, from 0 to `sigma_max` (Karras et al. 2206.00364, table 1)."""

  sigma_max: float = 80.0
  sigma_min: float = 0.002
  timesteps = 'karras'

  def __post_init__(self):
    _check_sigmas(self)

  @property
  def end(self) -> float:
    return self.sigma_max

  @property
  def ratio_min(self) -> float:
    return self.sigma_min

  def alpha(self, t: Time) -> Time:
    return jnp.ones_like(t)

  def sigma(self, t: Time) -> Time:
    return 1.0 * t

  def time(self, ratio: Time) -> Time:
    return 1.0 * ratio


@dataclasses.dataclass(frozen=True)
class VE:
  """Variance exploding: alpha = 1, sigma geometric in t (Song et al. 2011.13456, eq. 31); t = 0 itself is data."""

  sigma_min: float = 0.01
  sigma_max: float = 50.0
  end = 1.0
  timesteps = 'uniform'

  def __post_init__(self):
    _check_sigmas(self)

  @property
  def ratio_min(self) -> float:
    return self.sigma_min

  def alpha(self, t: Time) -> Time:
    return jnp.ones_like(t)

  def sigma(self, t: Time) -> Time:
    return jnp.where(t > 0, self.sigma_min * jnp.exp(t * self.log_range), 0.0)

  def time(self, ratio: Time) -> Time:
    above = jnp.log(jnp.maximum(ratio / self.sigma_min, 1.0)) / self.log_range
    return jnp.where(ratio > 0, jnp.maximum(above, 1e-6), 0.0)  # sigma_min itself is just above t = 0

  @property
  def log_range(self) -> float:
    return math.log(self.sigma_max / self.sigma_min)


def _check_sigmas(path) -> None:
  if not 0 < path.sigma_min < path.sigma_max:
    raise UsageError(f'sigma_min={path.sigma_min} must be positive and below sigma_max={path.sigma_max}.')


class VariancePreserving:
  """alpha^2 + sigma^2 = 1: a path defines log_alpha(t) and its inverse, time_of_log_alpha."""

  end = 1.0
  ratio_min = 0.002
  timesteps = 'uniform'

  def alpha(self, t: Time) -> Time:
    return jnp.exp(self.log_alpha(t))

  def sigma(self, t: Time) -> Time:
    return jnp.sqrt(-jnp.expm1(2 * self.log_alpha(t)))  # exact where alpha is almost 1

  def time(self, ratio: Time) -> Time:
    return self.time_of_log_alpha(-0.5 * jnp.log1p(ratio**2))


@dataclasses.dataclass(frozen=True)
class VPLinear(VariancePreserving):
  """Continuous time, beta(t) linear: log alpha = -t^2 (beta_max - beta_min) / 4 - t beta_min / 2 (2011.13456, eq. 33)."""

  beta_min: float = 0.1
  beta_max: float = 20.0

  def __post_init__(self):
    if not 0 < self.beta_min < self.beta_max:
      raise UsageError(f'beta_min={self.beta_min} must be positive and below beta_max={self.beta_max}.')

  def log_alpha(self, t: Time) -> Time:
    return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

  def time_of_log_alpha(self, log_alpha: Time) -> Time:
    b = 0.5 * self.beta_min
    return -2 * log_alpha / (b + jnp.sqrt(b**2 - (self.beta_max - self.beta_min) * log_alpha))


@dataclasses.dataclass(frozen=True)
class VPCosine(VariancePreserving):
  """Continuous time, alpha = cos(pi u / 2), sigma = sin(pi u / 2) (Salimans & Ho 2202.00512, section 4).

  u increases linearly from 0 until log(alpha^2 / sigma^2) is `log_snr_min` (2301.11093), so that it does not end in pure noise.
  """

  log_snr_min: float = -15.0

  @property
  def angle(self) -> float:
    return math.atan(math.exp(-0.5 * self.log_snr_min))

  def alpha(self, t: Time) -> Time:
    return jnp.cos(self.angle * t)

  def sigma(self, t: Time) -> Time:
    return jnp.sin(self.angle * t)

  def time(self, ratio: Time) -> Time:
    return jnp.arctan(ratio) / self.angle


@dataclasses.dataclass(frozen=True, eq=False)
class VPLearned(VariancePreserving):
  """gamma(t) = -log SNR increases from gamma_0 to gamma_1 (2107.00630, section 3.1). VDM creates it from its parameters."""

  gamma: Callable[[Time], Time]
  gamma_0: Float[Array, '']
  gamma_1: Float[Array, '']

  @property
  def ratio_min(self) -> Float[Array, '']:
    return jnp.exp(0.5 * self.gamma_0)

  def log_alpha(self, t: Time) -> Time:
    return jnp.where(t > 0, -0.5 * jax.nn.softplus(self.gamma(t)), 0.0)  # t = 0 itself is data

  def time(self, ratio: Time) -> Time:
    table = jnp.linspace(0.0, 1.0, 1025)
    t = jnp.interp(2 * jnp.log(ratio), self.gamma(table), table)
    return jnp.where(ratio > 0, jnp.maximum(t, 1e-6), 0.0)  # gamma_0 itself is just above t = 0


class DiscretePath(VariancePreserving):
  """`T` noise levels at t = 1/T, ..., 1, with the betas [T] that `betas()` returns; log alpha is linear between them."""

  T: int

  @property
  def ratio_min(self) -> float:
    return float(np.sqrt(np.expm1(-2 * _log_alphas(self)[1])))  # of the first step, the smallest that is trained

  def log_alpha(self, t: Time) -> Time:
    return jnp.interp(t * self.T, jnp.arange(self.T + 1.0), jnp.asarray(_log_alphas(self), jnp.float32))

  def time_of_log_alpha(self, log_alpha: Time) -> Time:
    return jnp.interp(-log_alpha, jnp.asarray(-_log_alphas(self), jnp.float32), jnp.arange(self.T + 1.0)) / self.T


@functools.cache
def _log_alphas(path: DiscretePath) -> np.ndarray:
  """log alpha at 0, 1/T, ..., 1, float64."""
  return np.append(0.0, 0.5 * np.cumsum(np.log1p(-path.betas())))


@dataclasses.dataclass(frozen=True)
class DiscreteLinear(DiscretePath):
  """DDPM's betas, linear from beta_1 to beta_T (Ho et al. 2006.11239, section 4)."""

  T: int = 1000
  beta_1: float = 1e-4
  beta_T: float = 0.02

  def __post_init__(self):
    if not (1 < self.T <= MAX_T and 0 < self.beta_1 <= self.beta_T < 1):
      raise UsageError(f'T={self.T} must be from 2 to {MAX_T:,}, and 0 < beta_1={self.beta_1} <= beta_T={self.beta_T} < 1.')

  def betas(self) -> np.ndarray:
    return np.linspace(self.beta_1, self.beta_T, self.T)


@dataclasses.dataclass(frozen=True)
class DiscreteCosine(DiscretePath):
  """The betas of alpha_bar = cos^2((t + s) / (1 + s) pi / 2), at most beta_max (Nichol & Dhariwal 2102.09672, eq. 17)."""

  T: int = 1000
  s: float = 0.008
  beta_max: float = 0.999

  def __post_init__(self):
    if not (1 < self.T <= MAX_T and self.s >= 0 and 0 < self.beta_max < 1):
      raise UsageError(
        f'T={self.T} must be from 2 to {MAX_T:,}, s={self.s} not negative, beta_max={self.beta_max} between 0 and 1.'
      )

  def betas(self) -> np.ndarray:
    f = np.cos((np.arange(self.T + 1) / self.T + self.s) / (1 + self.s) * np.pi / 2) ** 2
    return np.minimum(1 - f[1:] / f[:-1], self.beta_max)
