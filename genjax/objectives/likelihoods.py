"""Observation models p(x|z) of VAEs. Images x are in [-1, 1]; log-likelihoods are nats per image, [B]."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax import rng
from genjax.errors import UsageError
from genjax.types import Images, Keys


@dataclasses.dataclass(frozen=True)
class Bernoulli:
  """Binary pixels, of which the grey value (x + 1) / 2 is the probability; `params` are logits.

  Grey images enter through the expectation over their dynamic binarisation, E_b log p(b|z), computed exactly: the nats
  are those of binarised images, not of grey ones.
  """

  measures = 'binarised images'

  def log_prob(self, params: Float[Array, 'b h w c'], x: Images, keys: Keys) -> Float[Array, 'b']:
    p = (x + 1) / 2
    log_prob = p * jax.nn.log_sigmoid(params) + (1 - p) * jax.nn.log_sigmoid(-params)
    return log_prob.sum(axis=(1, 2, 3))

  def mean(self, params: Float[Array, 'b h w c']) -> Images:
    return 2 * jax.nn.sigmoid(params) - 1


@dataclasses.dataclass(frozen=True)
class Gaussian:
  """Independent normal pixels with mean `params` and a fixed deviation `sigma`, in the units of x.

  The 256 levels are dequantised uniformly (1511.01844, section 3.1), noise from each image's key, and the density is per
  level, so that the negative log-likelihood bounds that of the 8-bit image.
  """

  sigma: float = 0.1
  measures = '8-bit images'

  def __post_init__(self):
    if self.sigma <= 0:
      raise UsageError(f'sigma={self.sigma} must be positive.')

  def log_prob(self, params: Float[Array, 'b h w c'], x: Images, keys: Keys) -> Float[Array, 'b']:
    level = 2 / 255
    x = x + level * rng.uniform(keys, x.shape[1:], -0.5, 0.5)
    log_density = -0.5 * ((x - params) / self.sigma) ** 2 - math.log(self.sigma * math.sqrt(2 * math.pi))
    return (log_density + math.log(level)).sum(axis=(1, 2, 3))

  def mean(self, params: Float[Array, 'b h w c']) -> Images:
    return jnp.clip(params, -1, 1)
