"""Log densities that objectives and samplers share."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float


def log_normal(
  z: Float[Array, '*b z'], mean: Float[Array, '*b z'] | float, log_var: Float[Array, '*b z'] | float
) -> Float[Array, '*b']:
  """log N(z; mean, diag(exp(log_var))) in nats, summed over the last axis."""
  return -0.5 * ((z - mean) ** 2 * jnp.exp(-log_var) + log_var + math.log(2 * math.pi)).sum(axis=-1)
