"""Solvers of the probability-flow ODE: compiled loops over a falling time grid, for any `denoise(x_t, t) -> x_0`.

`t` is a scalar for the whole batch. Each solver is a free function (denoise, path, x, times) -> x at times[-1].
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax.samplers.paths import eps_from_x0, velocity

Denoiser = Callable[[Float[Array, 'b h w c'], Float[Array, '']], Float[Array, 'b h w c']]


def uniform_times(steps: int) -> Float[Array, 's']:
  """steps + 1 times from 1 to 0 in equal parts."""
  return jnp.linspace(1.0, 0.0, steps + 1)


def euler(denoise: Denoiser, path, x: Float[Array, 'b h w c'], times: Float[Array, 's']) -> Float[Array, 'b h w c']:
  """DDIM's step (2010.02502, eq. 12 with eta = 0): keep the predicted x_0 and eps, change their proportions.

  Euler's method in the variables x / alpha, sigma / alpha; for the straight path Euler's in x and t too.
  """

  def step(x, interval):
    t, s = interval
    x_0 = denoise(x, t)
    return path.alpha(s) * x_0 + path.sigma(s) * eps_from_x0(path, x, x_0, t), None

  return jax.lax.scan(step, x, (times[:-1], times[1:]))[0]


def heun(denoise: Denoiser, path, x: Float[Array, 'b h w c'], times: Float[Array, 's']) -> Float[Array, 'b h w c']:
  """Heun's second-order method on dx/dt (as in EDM, 2206.00364, algorithm 1 without churn); the last step is Euler's.

  2 (len(times) - 1) - 1 evaluations of `denoise`.
  """

  def slope(x, t):
    x_0 = denoise(x, t)
    return velocity(path, x_0, eps_from_x0(path, x, x_0, t), t)

  def step(x, interval):
    t, s = interval
    d = slope(x, t)
    d_next = slope(x + (s - t) * d, s)
    return x + (s - t) * (d + d_next) / 2, None

  x = jax.lax.scan(step, x, (times[:-2], times[1:-1]))[0]
  return euler(denoise, path, x, times[-2:])


SOLVERS = {'euler': euler, 'heun': heun}
