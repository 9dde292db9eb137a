"""A monotone function of time, for learned noise schedules (Kingma et al. 2107.00630, appendix H)."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


class Monotone(nn.Module):
  """t [B] in [0, 1] -> [B], increasing from 0 to 1: a linear function plus sigmoids of it, all with positive weights."""

  width: int = 1024

  @nn.compact
  def __call__(self, t: Float[Array, 'b']) -> Float[Array, 'b']:
    normal = nn.initializers.normal(1.0)
    slope = jax.nn.softplus(self.param('slope', nn.initializers.ones, ()))
    inner = jax.nn.softplus(self.param('inner', normal, (self.width,)))
    bias = self.param('bias', normal, (self.width,))
    outer = jax.nn.softplus(self.param('outer', normal, (self.width,)))
    raw = lambda t: slope * t + jax.nn.sigmoid(slope * jnp.outer(t, inner) + bias[None]) @ outer / self.width  # noqa: E731
    low, high = raw(0 * t), raw(0 * t + 1)
    return (raw(t) - low) / (high - low)
