"""Likelihood by the probability-flow ODE (Song et al. 2011.13456, section 4.3 and appendix D.2)."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from genjax import rng
from genjax.densities import log_normal
from genjax.errors import UsageError
from genjax.samplers.ode import integrate
from genjax.samplers.paths import NoisePath
from genjax.samplers.process import ode_time
from genjax.samplers.solvers import Denoiser, flow
from genjax.types import Images, Keys

EXACT = 256  # maximum number of dimensions (pixels times channels) for the exact divergence


def log_prob(
  denoise: Denoiser,
  path: NoisePath,
  x_0: Images,
  keys: Keys,
  exact: bool = False,
  rtol: float = 1e-4,
  atol: float = 1e-4,
) -> tuple[Float[Array, 'b'], Int[Array, 'b']]:
  """log p(x_0), the density in nats of each image, and the number of evaluations of each (each with a derivative).

  Integrates from sigma / alpha = path.ratio_min, where x_t is approximated by x_0, to the end of the path, where x_t is
  approximated by N(0, sigma^2). The steps are chosen for each image (genjax/samplers/ode.py).

  Args:
    keys: keys of Hutchinson's estimator (appendix D.2), which uses one vector of random signs per image for all steps.
    exact: compute the exact divergence instead, which multiplies the cost by the number of dimensions.

  Raises:
    UsageError: `exact` for images with more than EXACT dimensions.
  """
  shape, d = x_0.shape, math.prod(x_0.shape[1:])
  if exact and d > EXACT:
    raise UsageError(f'ode_exact is limited to images of {EXACT} dimensions, and these have {d}: use ode.')
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
  log_prior = log_normal(state[:, :-1], 0.0, 2 * jnp.log(path.sigma(end))).sum(axis=1)
  return log_prior + state[:, -1] + d * jnp.log(path.alpha(start)), evaluations
