"""A GAN loss: logits are pulled to 1 and -1."""

import dataclasses

import jax.numpy as jnp

from genjax.objectives.gan.losses import Adversarial


@dataclasses.dataclass(frozen=True)
class Symmetric(Adversarial):
  def discriminator(self, real, fake):
    return jnp.square(real - 1).mean() + jnp.square(fake + 1).mean()

  def generator(self, real, fake):
    return jnp.square(fake - 1).mean()
