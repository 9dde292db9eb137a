"""Likelihood by the probability-flow ODE (Song et al. 2011.13456, section 4.3 and appendix D.2)."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from genjax import rng
from genjax.errors import UsageError
from genjax.samplers.ode import integrate
from genjax.samplers.paths import NoisePath, ode_time
from genjax.samplers.solvers import Denoiser, flow
from genjax.types import Images, Keys

EXACT = 256  # pixels times channels up to which the divergence is summed over all of them


def log_prob(
  denoise: Denoiser,
  path: NoisePath,
  x_0: Images,
  keys: Keys,
  exact: bool = False,
  rtol: float = 1e-4,
  atol: float = 1e-4,
) -> tuple[Float[Array, 'b'], Int[Array, 'b']]:
  """log p(x_0), the density in nats of each image, and how often each was evaluated (each time with a derivative beside it).

  From where sigma / alpha is path.ratio_min, with x_0 there in the place of x_t, to the path's end, whose x_t is taken for
  N(0, sigma^2). Each image has steps of its own (genjax/samplers/ode.py).

  Args:
    keys: of Hutchinson's estimator (appendix D.2): one vector of random signs an image, the same along its way.
    exact: sum the divergence over all pixels instead, at that many times the cost.

  Raises:
    UsageError: `exact` with images of more than EXACT numbers.
  """
  shape, d = x_0.shape, math.prod(x_0.shape[1:])
  if exact and d > EXACT:
    raise UsageError(f'ode_exact costs {d} derivatives a step for images of {d} numbers: up to {EXACT}, else take ode.')
  signs = jnp.where(rng.bernoulli(keys, 0.5, (d,)), 1.0, -1.0)

  def slope(s, state):  # [B], [B, D + 1]: x_t and the integral of the divergence
    velocity = lambda flat: flow(denoise, path, flat.reshape(shape), s).reshape(flat.shape)  # noqa: E731
    if exact:
      value, along = jax.linearize(velocity, state[:, :-1])
      entry = lambda i: along(jnp.zeros_like(signs).at[:, i].set(1))[:, i]  # noqa: E731
      divergence = jax.lax.map(entry, jnp.arange(d), batch_size=min(d, 16)).sum(axis=0)
    else:
      value, column = jax.jvp(velocity, (state[:, :-1],), (signs,))
      divergence = (signs * column).sum(axis=1)
    return jnp.concatenate([value, divergence[:, None]], axis=1)

  start = path.time(jnp.asarray(path.ratio_min))
  state = jnp.concatenate([path.alpha(start) * x_0.reshape(shape[0], d), jnp.zeros((shape[0], 1))], axis=1)
  end = jnp.asarray(path.end)
  state, evaluations, _ = integrate(slope, state, ode_time(path, start), ode_time(path, end), rtol, atol)
  sigma = path.sigma(end)
  log_normal = -0.5 * (state[:, :-1] ** 2).sum(axis=1) / sigma**2 - d * (jnp.log(sigma) + 0.5 * math.log(2 * math.pi))
  return log_normal + state[:, -1] + d * jnp.log(path.alpha(start)), evaluations
