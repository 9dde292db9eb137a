"""Generative adversarial network with the non-saturating loss (Goodfellow et al. 1406.2661, section 3)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from genjax import rng
from genjax.objectives.common import labels_or_random, one_hot
from genjax.types import Aux, Batch, Context, Images, Keys, Labels, Player, Variables


@dataclasses.dataclass(frozen=True)
class GAN:
  """A game of two: the discriminator learns real from generated, then the generator learns to be taken for real.

  `generator(z, label, train) -> image`, `discriminator(x, label, train) -> logit`. Their batch statistics, if they have
  any, are buffers under the same names. Labels, if any, are the real images' own (1411.1784).
  """

  generator: nn.Module
  discriminator: nn.Module
  num_classes: int = 0  # 0: unconditional

  @property
  def players(self) -> dict[str, Player]:
    return {'discriminator': Player(self.discriminator_loss), 'generator': Player(self.generator_loss)}

  def init(self, key: jax.Array, batch: Batch) -> Variables:
    generator_key, discriminator_key = jax.random.split(key)
    label = one_hot(batch.label, self.num_classes)
    z = jnp.zeros((batch.image.shape[0], self.generator.z_dim))
    variables = {
      'discriminator': self.discriminator.init(discriminator_key, batch.image, label),
      'generator': self.generator.init(generator_key, z, label),
    }
    params = {name: v.pop('params') for name, v in variables.items()}
    return Variables(params, {name: v for name, v in variables.items() if v})

  def discriminator_loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """L_D = E softplus(-D(x)) + E softplus(D(G(z))), the cross-entropy of 1406.2661, eq. 1, in logits."""
    label = one_hot(batch.label, self.num_classes)
    fake, _ = self.generate(params, context.buffers, keys, label)
    if 'discriminator' in context.buffers:  # real and generated batches have statistics of their own (1511.06434)
      real_logits, buffers = self.apply('discriminator', params, context.buffers, batch.image, label)
      fake_logits, buffers = self.apply('discriminator', params, context.buffers | buffers, fake, label)
    else:  # one pass over pairs: one gradient to reduce where devices are many
      pairs = jnp.stack([batch.image, fake], axis=1).reshape(-1, *fake.shape[1:])  # [2 B, H, W, C]
      both = None if label is None else jnp.repeat(label, 2, axis=0)
      logits, buffers = self.apply('discriminator', params, context.buffers, pairs, both)
      real_logits, fake_logits = logits.reshape(-1, 2).T
    loss = jax.nn.softplus(-real_logits).mean() + jax.nn.softplus(fake_logits).mean()
    return loss, Aux({'d_real': real_logits.mean(), 'd_fake': fake_logits.mean()}, buffers)

  def generator_loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """L_G = E softplus(-D(G(z))) = -E log D(G(z)), the non-saturating form."""
    label = one_hot(batch.label, self.num_classes)
    fake, buffers = self.generate(params, context.buffers, keys, label)
    logits, _ = self.apply('discriminator', params, context.buffers, fake, label)
    return jax.nn.softplus(-logits).mean(), Aux({}, buffers)

  def sample(self, variables: Variables, keys: Keys, labels: Labels | None = None, *, truncation: float = 1.0) -> Images:
    """G(z) for z ~ N(0, truncation^2 I), with running batch statistics. A conditional model without labels draws them."""
    labels = labels_or_random(labels, keys, self.num_classes)
    z = truncation * rng.normal(rng.fold_in(keys, 0), (self.generator.z_dim,))
    collections = {'params': variables.params['generator'], **variables.buffers.get('generator', {})}
    return self.generator.apply(collections, z, one_hot(labels, self.num_classes), train=False)

  def generate(self, params: dict, buffers: dict, keys: Keys, label):
    """Images from fresh latents, in training mode, and the generator's new buffers."""
    return self.apply('generator', params, buffers, rng.normal(keys, (self.generator.z_dim,)), label)

  def apply(self, name: str, params: dict, buffers: dict, x, label):
    """A player's network in training mode: its output, and its new buffers under its name."""
    mine = buffers.get(name, {})
    out, new = getattr(self, name).apply({'params': params[name], **mine}, x, label, train=True, mutable=list(mine))
    return out, ({name: new} if mine else {})
