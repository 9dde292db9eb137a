"""beta-VAE with a KL of controlled, increasing capacity (Burgess et al. 1804.03599)."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax.objectives.vae.vae import Posterior, RegularizedVAE, check_not_negative, warmup_weight
from genjax.types import Context


@dataclasses.dataclass(frozen=True)
class CapacityVAE(RegularizedVAE):
  """-E_q[log p(x|z)] + gamma |KL - C| (1804.03599, eq. 8); C rises from 0 to `capacity` nats over the first `warmup` images."""

  gamma: float = 100.0
  capacity: float = 25.0

  def __post_init__(self):
    super().__post_init__()
    check_not_negative(self, 'gamma', 'capacity')

  def regularizer(self, posterior: Posterior, z: Float[Array, 'b z'], context: Context) -> tuple[Float[Array, ''], dict]:
    capacity = self.capacity * warmup_weight(self.warmup, context)
    return self.gamma * jnp.abs(posterior.kl.sum(axis=1) - capacity).mean(), {'capacity_nats': capacity}
