"""Hierarchical VAE: p(z) = prod_i p(z_i | z_<i), and q(z|x) likewise (1602.02282; deep ones: VDVAE, 2011.10650)."""

import abc
import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Array, Float

from genjax import rng
from genjax.conditioners import complete
from genjax.errors import UsageError
from genjax.networks.vdvae import Descent
from genjax.objectives.common import check_scale
from genjax.objectives.previews import Preview, reconstructions
from genjax.objectives.vae.vae import (
  ElboTerms,
  VariationalAutoencoder,
  check_not_negative,
  elbo_metrics,
  warmup_weight,
  weighted_kl,
)
from genjax.types import Aux, Batch, Cond, Context, Images, Keys, Variables


class EncodedImages(NamedTuple):
  """Observed images, and the output of the decoder."""

  x: Images
  descent: Descent

  @property
  def kl(self) -> Float[Array, 'b l']:
    """KL of each image and block, in nats."""
    return self.descent.kl


@dataclasses.dataclass(frozen=True)
class LadderVAE(VariationalAutoencoder):
  """Abstract: a VAE with latents in many blocks, whose KL is weighted as in `VAE`.

  `encoder(x, cond)` returns the features for `decoder(keys, features, cond, temperature) -> Descent`. A subclass defines the
  parameters of the likelihood at x (`likelihood_params`), and the images that represent p(x|z) (`sample_pixels`).
  """

  beta: float = 1.0
  warmup: int = 0  # images over which beta rises from 0 (1602.02282, section 2.3)
  free_bits: float = 0.0  # free nats of each block, in the mean over the batch or a part of it (1606.04934, eq. 15)

  def __post_init__(self):
    super().__post_init__()
    check_not_negative(self, 'beta', 'warmup', 'free_bits')

  @abc.abstractmethod
  def likelihood_params(self, params: dict, descent: Descent, x: Images) -> Float[Array, 'b h w o']:
    """The parameters of the likelihood at x."""

  @abc.abstractmethod
  def sample_pixels(self, params: dict, descent: Descent, keys: Keys) -> Images:
    """The images that represent p(x|z): its mean, or samples."""

  def init(self, key: jax.Array, batch: Batch) -> Variables:
    for part in ('encoder', 'decoder'):
      if not hasattr(getattr(self, part), 'sides'):
        kind = type(getattr(self, part)).__name__
        raise UsageError(f'objective.{part}: {kind} has no levels: use networks.vdvae.VDVAE{part.capitalize()}.')
    if (sides := self.encoder.sides) != self.decoder.sides:
      raise UsageError(f'objective.encoder.sides={sides} and objective.decoder.sides={self.decoder.sides} must be the same.')
    encoder_key, decoder_key = jax.random.split(key)
    embedded, keys = self.conditioner.embed(batch.cond), rng.image_keys(key, batch.index)
    features, encoder = self.encoder.init_with_output(encoder_key, batch.image, embedded)
    params = {'encoder': encoder['params'], 'decoder': self.decoder.init(decoder_key, keys, features, embedded)['params']}
    descent = jax.eval_shape(self.descend, {'model': params}, keys, features, embedded)
    return self.with_likelihood(params, descent.out.shape, batch.image.shape)

  def loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """-ELBO, with `beta` times the KL."""
    encoded, _, out, log_prob = self.elbo_terms(params, context.buffers, batch, keys)
    value = weighted_kl(encoded.kl, self.beta * warmup_weight(self.warmup, context), self.free_bits)
    nll, metrics = elbo_metrics(encoded.kl, log_prob, batch.image)
    return nll + value, Aux(metrics, self.update_buffers(params, context.buffers, encoded.x, out))

  def descend(self, params: dict, keys: Keys, features: dict | None, embedded: Cond, temperature=1.0) -> Descent:
    return self.decoder.apply({'params': params['model']['decoder']}, keys, features, embedded, temperature)

  def elbo_terms(self, params: dict, buffers: dict, batch: Batch, keys: Keys) -> ElboTerms:
    z_keys, x_keys = rng.split(keys, 2)
    x, features = self.encoded(params, batch, x_keys)
    descent = self.descend(params, z_keys, features, self.conditioner.embed(batch.cond))
    out = self.likelihood_params(params, descent, x)
    return ElboTerms(EncodedImages(x, descent), None, out, self.likelihood.log_prob(out, x, self.state(params, buffers)))

  def log_importance_weight(self, params: dict, buffers: dict, batch: Batch, keys: Keys) -> Callable[[int], Float[Array, 'b']]:
    z_keys, x_keys = rng.split(keys, 2)
    x, features = self.encoded(params, batch, x_keys)

    def log_weight(i: int) -> Float[Array, 'b']:
      descent = self.descend(params, rng.fold_in(z_keys, i), features, self.conditioner.embed(batch.cond))
      out = self.likelihood_params(params, descent, x)
      return self.likelihood.log_prob(out, x, self.state(params, buffers)) - descent.log_ratio

    return log_weight

  def previews(self, variables: Variables, batch: Batch, keys: Keys) -> dict[str, Preview]:
    """Reconstructions from one sample of q(z|x)."""
    encoded = self.elbo_terms(*variables, batch, keys).posterior
    pixels = self.sample_pixels(variables.params, encoded.descent, rng.fold_in(keys, 2))
    return {'reconstructions': reconstructions(encoded.x, pixels)}

  def sample(self, variables: Variables, keys: Keys, cond: Cond, *, temperature: float = 1.0) -> Images:
    """`sample_pixels` for z from the prior, whose standard deviations are scaled by `temperature`."""
    check_scale('temperature', temperature)
    embedded = self.conditioner.embed(complete(self.conditioner, cond, keys))
    descent = self.descend(variables.params, rng.fold_in(keys, 0), None, embedded, temperature)
    return self.sample_pixels(variables.params, descent, rng.fold_in(keys, 1))


@dataclasses.dataclass(frozen=True)
class HierarchicalVAE(LadderVAE):
  """p(x|z) has independent pixels, and its mean is returned by `sample_pixels`."""

  def likelihood_params(self, params: dict, descent: Descent, x: Images) -> Float[Array, 'b h w o']:
    return descent.out

  def sample_pixels(self, params: dict, descent: Descent, keys: Keys) -> Images:
    return self.likelihood.mean(descent.out)
