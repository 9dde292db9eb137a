"""The noising process along any path: signal-to-noise ratios, the posterior q(x_s | x_t, x_0), the probability-flow ODE."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax.samplers.paths import DiscretePath, NoisePath, Time


def ratio(path: NoisePath, t: Time) -> Time:
  """sigma / alpha, the noise-to-signal ratio; infinite where alpha is 0."""
  return path.sigma(t) / path.alpha(t)


def deviation(path: NoisePath, t: Time) -> Time:
  """The standard deviation of x_t if the pixels of x_0 have standard deviation 1."""
  return jnp.sqrt(path.alpha(t) ** 2 + path.sigma(t) ** 2)


def log_snr(path: NoisePath, t: Time) -> Time:
  """log(alpha^2 / sigma^2), the lambda of 2107.00630; DPM-Solver's lambda is half of it."""
  return 2 * (jnp.log(path.alpha(t)) - jnp.log(path.sigma(t)))


class StepPosterior(NamedTuple):
  """q(x_s | x_t, x_0) = N(keep x_t + gain x_0, variance) for s < t (2006.11239, eq. 7), and the variance of q(x_t | x_s)."""

  keep: Time
  gain: Time
  variance: Time
  forward: Time


def posterior(path: NoisePath, t: Time, s: Time) -> StepPosterior:
  """The posterior of any path; s = 0 is data."""
  shrink = path.alpha(t) / path.alpha(s)
  forward = path.sigma(t) ** 2 - (shrink * path.sigma(s)) ** 2
  part = (path.sigma(s) / path.sigma(t)) ** 2
  return StepPosterior(shrink * part, path.alpha(s) * forward / path.sigma(t) ** 2, part * forward, forward)


def derivatives(path: NoisePath, t: Time) -> tuple[Time, Time]:
  """alpha'(t), sigma'(t)."""
  one = jnp.ones_like(t)
  return jax.jvp(path.alpha, (t,), (one,))[1], jax.jvp(path.sigma, (t,), (one,))[1]


def eps_from_x0(path: NoisePath, x_t: Float[Array, 'b h w c'], x_0: Float[Array, 'b h w c'], t: Time):
  """The noise eps with x_t = alpha x_0 + sigma eps. Not finite where sigma is 0."""
  return (x_t - path.alpha(t) * x_0) / path.sigma(t)


def velocity(path: NoisePath, x_t: Float[Array, 'b h w c'], x_0: Float[Array, 'b h w c'], t: Time):
  """d x_t / ds for the path from x_0 through x_t, where s = ode_time(path, t)."""
  d_alpha, d_sigma = (-path.sigma(t), path.alpha(t)) if isinstance(path, DiscretePath) else derivatives(path, t)
  return d_alpha * x_0 + d_sigma * eps_from_x0(path, x_t, x_0, t)


def ode_time(path: NoisePath, t: Time) -> Time:
  """The variable s over which the probability-flow ODE is solved: t itself, or the angle arctan(sigma / alpha).

  The derivatives of a `Discrete` path are discontinuous at its steps, which reduces the order of a solver. As a function of the
  angle, x_t = cos(s) x_0 + sin(s) eps is smooth, and unlike sigma / alpha, s is finite where alpha is 0.
  """
  return jnp.arctan2(path.sigma(t), path.alpha(t)) if isinstance(path, DiscretePath) else t


def time_of_ode_time(path: NoisePath, s: Time) -> Time:
  """The inverse of `ode_time`."""
  return path.time(jnp.tan(s)) if isinstance(path, DiscretePath) else s
