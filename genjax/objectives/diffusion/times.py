"""Distributions of training times: one time per image, from its key, in (0, path.end]."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax import rng
from genjax.errors import UsageError
from genjax.samplers.paths import NoisePath
from genjax.types import Keys


@dataclasses.dataclass(frozen=True)
class Uniform:
  """t uniform between `first` (a fraction of the end) and the end (2011.13456, appendix C: 1e-5)."""

  first: float = 1e-5

  uniform = True

  def __post_init__(self):
    if not 0 < self.first < 1:
      raise UsageError(f'first={self.first} must be between 0 and 1.')

  def __call__(self, path: NoisePath, keys: Keys) -> Float[Array, 'b']:
    return path.end * rng.uniform(keys, (), self.first, 1.0)


@dataclasses.dataclass(frozen=True)
class DiscreteTimes:
  """One of `T` steps, t = 1/T, ..., 1 (2006.11239, algorithm 1). T must be the path's."""

  T: int = 1000

  uniform = True

  def __post_init__(self):
    if self.T < 1:
      raise UsageError(f'T={self.T} must be 1 or more.')

  def __call__(self, path: NoisePath, keys: Keys) -> Float[Array, 'b']:
    return path.end * (1 + rng.labels(keys, self.T)) / self.T


@dataclasses.dataclass(frozen=True)
class LogitNormal:
  """logit(t) ~ N(mean, std^2), which concentrates on the middle (2403.03206, section 3.1)."""

  mean: float = 0.0
  std: float = 1.0

  def __post_init__(self):
    if self.std <= 0:
      raise UsageError(f'std={self.std} must be positive.')

  def __call__(self, path: NoisePath, keys: Keys) -> Float[Array, 'b']:
    return path.end * jax.nn.sigmoid(self.mean + self.std * rng.normal(keys, ()))


@dataclasses.dataclass(frozen=True)
class LogNormal:
  """log(sigma / alpha) ~ N(P_mean, P_std^2) (2206.00364, table 1), clipped to the end of the path."""

  P_mean: float = -1.2
  P_std: float = 1.2

  def __post_init__(self):
    if self.P_std <= 0:
      raise UsageError(f'P_std={self.P_std} must be positive.')

  def __call__(self, path: NoisePath, keys: Keys) -> Float[Array, 'b']:
    return jnp.minimum(path.time(jnp.exp(self.P_mean + self.P_std * rng.normal(keys, ()))), path.end)
