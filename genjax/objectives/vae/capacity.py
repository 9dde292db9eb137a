"""beta-VAE whose KL is led to a capacity that grows (Burgess et al. 1804.03599)."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax.errors import UsageError
from genjax.objectives.vae.vae import VAE, Posterior, risen
from genjax.types import Context


@dataclasses.dataclass(frozen=True)
class CapacityVAE(VAE):
  """-E_q[log p(x|z)] + gamma |KL - C| (1804.03599, eq. 8); C rises from 0 to `capacity` nats over the first `warmup` images."""

  gamma: float = 100.0
  capacity: float = 25.0

  def __post_init__(self):
    super().__post_init__()
    if self.gamma < 0 or self.capacity < 0:
      raise UsageError(f'gamma={self.gamma} and capacity={self.capacity} must not be negative.')
    if (self.beta, self.free_bits) != (1, 0):
      raise UsageError('CapacityVAE weighs its KL by gamma, and takes no beta or free_bits.')

  def regulariser(self, found: Posterior, z: Float[Array, 'b z'], context: Context) -> tuple[Float[Array, ''], dict]:
    capacity = self.capacity * risen(self.warmup, context)
    return self.gamma * jnp.abs(found.kl.sum(axis=1) - capacity).mean(), {'capacity_nats': capacity}
