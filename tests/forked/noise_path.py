"""A noise path: alpha = (1 - t)^2, sigma = t^2."""

import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Squared:
  end = 1.0
  ratio_min = 0.002
  timesteps = 'uniform'

  def alpha(self, t):
    return (1.0 - t) ** 2

  def sigma(self, t):
    return t**2

  def time(self, ratio):
    return 1 / (1 + 1 / jnp.sqrt(ratio))
