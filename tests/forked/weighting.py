"""A weighting of the diffusion loss."""

import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Constant:
  """The same weight at all times."""

  value: float = 2.0

  def __call__(self, path, t):
    return self.value * jnp.ones_like(t)
