"""A solver with an option of its own: Euler's steps, each `fraction` of the way to the next noise level."""

import dataclasses

import jax
import jax.numpy as jnp

from genjax.errors import UsageError
from genjax.samplers.process import eps_from_x0
from genjax.samplers.solvers import Solution


@dataclasses.dataclass(frozen=True)
class Damped:
  fraction: float = 1.0

  def __post_init__(self):
    if not 0 < self.fraction <= 1:
      raise UsageError(f'fraction={self.fraction} must be above 0 and 1 at most.')

  def __call__(self, denoise, path, x, times, keys):
    def step(x, turn):
      now, then = turn
      x_0 = denoise(x, now)
      eps = self.fraction * eps_from_x0(path, x, x_0, now)
      return path.alpha(then) * x_0 + path.sigma(then) * eps, (x, x_0)

    x, trajectory = jax.lax.scan(step, x, (times[:-1], times[1:]))
    return Solution(x, jnp.full(len(x), len(times) - 1), *trajectory)
