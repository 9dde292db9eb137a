"""The log density that likelihoods, latents and the ODE likelihood share."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float


def log_normal(
  x: Float[Array, '...'], mean: Float[Array, '...'] | float, log_var: Float[Array, '...'] | float
) -> Float[Array, '...']:
  """log N(x; mean, exp(log_var)) in nats, entry by entry."""
  return -0.5 * ((x - mean) * jnp.exp(-0.5 * log_var)) ** 2 - 0.5 * log_var - 0.5 * math.log(2 * math.pi)
