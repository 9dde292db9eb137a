"""A noise path: alpha = 1 - t^2, sigma = t."""

import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Squared:
  end = 1.0
  ratio_min = 0.002
  timesteps = 'uniform'

  def alpha(self, t):
    return 1.0 - t**2

  def sigma(self, t):
    return 1.0 * t

  def time(self, ratio):
    return 2 / (1 / ratio + jnp.sqrt(1 / ratio**2 + 4))
