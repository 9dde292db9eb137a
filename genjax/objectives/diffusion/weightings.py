"""Weights of the squared error of eps at times t [B, 1, 1, 1] of a path."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax.errors import UsageError
from genjax.samplers.paths import NoisePath
from genjax.samplers.process import log_snr

PerImage = Float[Array, 'b 1 1 1']


@dataclasses.dataclass(frozen=True)
class Simple:
  """1: L_simple (2006.11239, eq. 14)."""

  def __call__(self, path: NoisePath, t: PerImage) -> PerImage:
    return jnp.ones_like(t)


@dataclasses.dataclass(frozen=True)
class MinSNR:
  """min(SNR, gamma) on the error of x_0 (2303.09556, eq. 10), so min(1, gamma / SNR) on that of eps."""

  gamma: float = 5.0

  def __post_init__(self):
    if self.gamma <= 0:
      raise UsageError(f'gamma={self.gamma} must be positive.')

  def __call__(self, path: NoisePath, t: PerImage) -> PerImage:
    return jnp.minimum(1.0, self.gamma * jnp.exp(-log_snr(path, t)))


@dataclasses.dataclass(frozen=True)
class Sigmoid:
  """-lambda'(t) sigmoid(bias - lambda), lambda = log SNR, for uniform times (2303.00848, section 4; 2410.19324, section 3)."""

  bias: float = 0.0

  of_uniform_times = True

  def __call__(self, path: NoisePath, t: PerImage) -> PerImage:
    value, slope = jax.jvp(lambda t: log_snr(path, t), (t,), (jnp.ones_like(t),))
    return -slope * jax.nn.sigmoid(self.bias - value)
