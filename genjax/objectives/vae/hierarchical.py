"""Hierarchical VAE: p(z) = prod_i p(z_i | z_<i), and q(z|x) likewise (1602.02282; deep ones: VDVAE, 2011.10650)."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Array, Float

from genjax import rng
from genjax.errors import UsageError
from genjax.networks.vdvae import Descent
from genjax.objectives.common import check_scale, labels_or_random, one_hot
from genjax.objectives.previews import Picture, reconstructions
from genjax.objectives.vae.vae import VAE
from genjax.types import Batch, Images, Keys, Labels, Variables


class Found(NamedTuple):
  """Images as they were observed, and what the decoder made of them."""

  x: Images
  descent: Descent

  @property
  def kl(self) -> Float[Array, 'b l']:
    """KL of each image and block, in nats."""
    return self.descent.kl


@dataclasses.dataclass(frozen=True)
class HierarchicalVAE(VAE):
  """A VAE whose `encoder(x, label)` answers all that its `decoder(keys, seen, label, temperature) -> Descent` looks at.

  `free_bits` are nats of each block.
  """

  z_dim = latents = from_latents = None  # there is no one z

  def init(self, key: jax.Array, batch: Batch) -> Variables:
    for part in ('encoder', 'decoder'):
      if not hasattr(getattr(self, part), 'sides'):
        kind = type(getattr(self, part)).__name__
        raise UsageError(f'objective.{part}: {kind} has no levels: take networks.vdvae.VDVAE{part.capitalize()}.')
    if (sides := self.encoder.sides) != self.decoder.sides:
      raise UsageError(f'objective.encoder.sides={sides} and objective.decoder.sides={self.decoder.sides} must be the same.')
    encoder_key, decoder_key = jax.random.split(key)
    label, keys = one_hot(batch.label, self.num_classes), rng.image_keys(key, batch.index)
    seen, encoder = self.encoder.init_with_output(encoder_key, batch.image, label)
    params = {'encoder': encoder['params'], 'decoder': self.decoder.init(decoder_key, keys, seen, label)['params']}
    descent = jax.eval_shape(self.descend, {'model': params}, keys, seen, label)
    return self.with_likelihood(params, descent.out.shape, batch.image.shape)

  def descend(self, params: dict, keys: Keys, seen: dict | None, label: Float[Array, 'b k'] | None, temperature=1.0) -> Descent:
    return self.decoder.apply({'params': params['model']['decoder']}, keys, seen, label, temperature)

  def answer(self, params: dict, descent: Descent, x: Images) -> Float[Array, 'b h w o']:
    """The likelihood's numbers at x."""
    return descent.out

  def shown(self, params: dict, descent: Descent, keys: Keys) -> Images:
    """The images that stand for p(x|z): its mean."""
    return self.likelihood.mean(descent.out)

  def terms(self, params: dict, buffers: dict, batch: Batch, keys: Keys):
    """As VAE's, without z."""
    z_keys, x_keys = rng.split(keys, 2)
    x, seen = self.encoded(params, batch, x_keys)
    descent = self.descend(params, z_keys, seen, one_hot(batch.label, self.num_classes))
    out = self.answer(params, descent, x)
    return Found(x, descent), None, out, self.likelihood.log_prob(out, x, self.own(params, buffers))

  def weigher(self, params: dict, buffers: dict, batch: Batch, keys: Keys) -> Callable[[int], Float[Array, 'b']]:
    z_keys, x_keys = rng.split(keys, 2)
    x, seen = self.encoded(params, batch, x_keys)

    def weigh(i: int) -> Float[Array, 'b']:
      descent = self.descend(params, rng.fold_in(z_keys, i), seen, one_hot(batch.label, self.num_classes))
      out = self.answer(params, descent, x)
      return self.likelihood.log_prob(out, x, self.own(params, buffers)) - descent.log_ratio

    return weigh

  def pictures(self, variables: Variables, batch: Batch, keys: Keys) -> dict[str, Picture]:
    """Reconstructions, of one draw of q(z|x)."""
    found = self.terms(*variables, batch, keys)[0]
    return {'reconstructions': reconstructions(found.x, self.shown(variables.params, found.descent, rng.fold_in(keys, 2)))}

  def sample(self, variables: Variables, keys: Keys, labels: Labels | None = None, *, temperature: float = 1.0) -> Images:
    """`shown` for z of the prior, whose deviations are `temperature` times as large."""
    check_scale('temperature', temperature)
    label = one_hot(labels_or_random(labels, keys, self.num_classes), self.num_classes)
    descent = self.descend(variables.params, rng.fold_in(keys, 0), None, label, temperature)
    return self.shown(variables.params, descent, rng.fold_in(keys, 1))
