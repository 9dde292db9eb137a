"""Paths x_t = alpha(t) x_0 + sigma(t) eps between data (t = 0) and noise (t = 1)."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class RectifiedFlow:
  """The straight path: alpha = 1 - t, sigma = t (Liu et al. 2209.03003; Lipman et al. 2210.02747 with sigma_min = 0)."""

  def alpha(self, t: Float[Array, '*b']) -> Float[Array, '*b']:
    return 1.0 - t

  def sigma(self, t: Float[Array, '*b']) -> Float[Array, '*b']:
    return 1.0 * t


def eps_from_x0(path, x_t: Float[Array, 'b h w c'], x_0: Float[Array, 'b h w c'], t: Float[Array, '']):
  """The noise that, with x_0, makes up x_t. Where sigma is 0 the answer is not defined and not finite."""
  return (x_t - path.alpha(t) * x_0) / path.sigma(t)


def velocity(path, x_0: Float[Array, 'b h w c'], eps: Float[Array, 'b h w c'], t: Float[Array, '']):
  """d x_t / dt along the path, alpha'(t) x_0 + sigma'(t) eps."""
  one = jnp.ones_like(t)
  _, d_alpha = jax.jvp(path.alpha, (t,), (one,))
  _, d_sigma = jax.jvp(path.sigma, (t,), (one,))
  return d_alpha * x_0 + d_sigma * eps
