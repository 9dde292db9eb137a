"""Variational autoencoder (Kingma & Welling, 1312.6114), with beta (Higgins et al. 2017) and labels (Sohn et al. 2015)."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from genjax import rng
from genjax.errors import UsageError, did_you_mean
from genjax.objectives.common import bits_per_dim, one_hot
from genjax.objectives.likelihoods import Likelihood
from genjax.objectives.previews import Picture, of_latents
from genjax.objectives.vae.priors import Latents
from genjax.types import Aux, Batch, Context, Images, Keys, Player, Variables


class Posterior(NamedTuple):
  """Images as they were observed, and q(z|x) = N(mean, exp(log_var)) of each."""

  x: Images
  mean: Float[Array, 'b z']
  log_var: Float[Array, 'b z']

  @property
  def kl(self) -> Float[Array, 'b z']:
    """KL(q(z_j|x) || N(0, 1)) of each image and latent, in nats."""
    return 0.5 * (self.mean**2 + jnp.exp(self.log_var) - 1 - self.log_var)

  def draw(self, keys: Keys) -> Float[Array, 'b z']:
    """z ~ q(z|x), reparameterised."""
    return self.mean + jnp.exp(0.5 * self.log_var) * rng.normal(keys, self.mean.shape[1:])


@dataclasses.dataclass(frozen=True)
class VAE(Latents):
  """A game of one player, 'model': minimise E_q[-log p(x|z)] + beta KL(q(z|x) || N(0, I)), in nats per image.

  `encoder(x, label) -> mean, log-variance`, `decoder(z, label) -> the likelihood's numbers`. Variants replace `regulariser`.
  """

  encoder: nn.Module
  decoder: nn.Module
  likelihood: Likelihood
  beta: float = 1.0
  num_classes: int = 0  # 0: unconditional
  warmup: int = 0  # images over which beta rises from 0 (1602.02282, section 2.3)
  free_bits: float = 0.0  # nats of each latent that cost nothing, in the mean of the batch or of a part (1606.04934, eq. 15)
  corruption: float = 0.0  # deviation of the noise on the images that the encoder sees (1511.06406)

  def __post_init__(self):
    for name in ('beta', 'warmup', 'free_bits', 'corruption'):
      if getattr(self, name) < 0:
        raise UsageError(f'{name}={getattr(self, name)} must not be negative.')

  @property
  def z_dim(self) -> int:
    return self.encoder.z_dim

  @property
  def players(self) -> dict[str, Player]:
    return {'model': Player(self.loss)}

  def init(self, key: jax.Array, batch: Batch) -> Variables:
    encoder_key, decoder_key = jax.random.split(key)
    label = one_hot(batch.label, self.num_classes)
    if not hasattr(self.encoder, 'z_dim'):
      kind = type(self.encoder).__name__
      raise UsageError(
        f'objective.encoder: {kind} answers no mean and variance of one z: take one with a z_dim, as MLPEncoder.'
      )
    z = jnp.zeros((batch.image.shape[0], self.encoder.z_dim))
    params = {
      'encoder': self.encoder.init(encoder_key, batch.image, label)['params'],
      'decoder': self.decoder.init(decoder_key, z, label)['params'],
    }
    given = jax.eval_shape(self.decode, {'model': params}, z, label).shape
    return self.with_likelihood(params, given, batch.image.shape)

  def with_likelihood(self, params: dict, given: tuple[int, ...], image: tuple[int, ...]) -> Variables:
    """All variables. Raises UsageError unless the likelihood reads what the decoder answers, of shape `given`."""
    self.likelihood.check(given, image)
    own, buffers = self.likelihood.params(), self.likelihood.buffers()
    return Variables({'model': params | ({'likelihood': own} if own else {})}, {'likelihood': buffers} if buffers else {})

  def loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """-ELBO (1312.6114, eq. 3 with one sample of the reparameterised z), its KL as `regulariser` has it."""
    found, z, out, log_prob = self.terms(params, context.buffers, batch, keys)
    nll, kl = -log_prob.mean(), found.kl.sum(axis=1).mean()
    metrics = {'reconstruction_nats': nll, 'kl_nats': kl, 'elbo_nats': -(nll + kl)}
    metrics |= {'bits_per_dim': bits_per_dim(nll + kl, batch.image)}
    value, more = self.regulariser(found, z, context)
    return nll + value, Aux(metrics | more, self.followed(params, context.buffers, found.x, out))

  def regulariser(self, found: Posterior, z: Float[Array, 'b z'], context: Context) -> tuple[Float[Array, ''], dict]:
    """What the loss has in the place of the KL, here beta times it, and what else to log."""
    kl = jnp.maximum(found.kl.mean(axis=0), self.free_bits).sum()
    return self.beta * risen(self.warmup, context) * kl, {}

  def terms(self, params: dict, buffers: dict, batch: Batch, keys: Keys):
    """The posterior of each image; one z drawn of it; the decoder's answer; log p(x|z) [B] in nats."""
    z_keys, x_keys = rng.split(keys, 2)
    found, label = self.encode(params, batch, x_keys), one_hot(batch.label, self.num_classes)
    z = found.draw(z_keys)
    out = self.decode(params, z, label)
    return found, z, out, self.likelihood.log_prob(out, found.x, self.own(params, buffers))

  def encode(self, params: dict, batch: Batch, keys: Keys) -> Posterior:
    return Posterior(*self.encoded(params, batch, keys))

  def encoded(self, params: dict, batch: Batch, keys: Keys) -> tuple:
    """The images as they were observed, and what the encoder answers."""
    x = seen = self.likelihood.observe(batch.image, keys)
    if self.corruption:
      seen = x + self.corruption * rng.normal(rng.fold_in(keys, 1), x.shape[1:])
    label = one_hot(batch.label, self.num_classes)
    answer = self.encoder.apply({'params': params['model']['encoder']}, seen, label)
    return (x, *answer) if isinstance(answer, tuple | list) else (x, answer)

  def decode(self, params: dict, z: Float[Array, 'b z'], label: Float[Array, 'b k'] | None) -> Float[Array, 'b h w o']:
    return self.decoder.apply({'params': params['model']['decoder']}, z, label)

  def own(self, params: dict, buffers: dict) -> dict[str, Array]:
    """The likelihood's own numbers."""
    return params['model'].get('likelihood', {}) | buffers.get('likelihood', {})

  def followed(self, params: dict, buffers: dict, x: Images, out: Float[Array, 'b h w o']) -> dict[str, dict]:
    """The likelihood's buffers after this batch, if it has any."""
    changed = self.likelihood.updated(jax.lax.stop_gradient(out), x, self.own(params, buffers))
    return {'likelihood': changed} if changed else {}

  def log_weights(self, params: dict, buffers: dict, found: Posterior, z: Float[Array, 'b z'], label) -> Float[Array, 'b']:
    """log p(x, z) / q(z|x), whose mean over z ~ q(z|x) is the ELBO."""
    log_prob = self.likelihood.log_prob(self.decode(params, z, label), found.x, self.own(params, buffers))
    log_prior = -0.5 * (z**2 + math.log(2 * math.pi)).sum(axis=1)
    return log_prob + log_prior - log_normal(z, found.mean, found.log_var)

  def nll(self, variables: Variables, batch: Batch, keys: Keys, estimator: str = 'elbo') -> Float[Array, 'b']:
    """An upper bound of -log p(x), in nats per image; `estimators` says of what. -ELBO, or with k draws the tighter
    -log 1/k sum_i p(x, z_i) / q(z_i|x) (IWAE, 1509.00519, eq. 8).

    Raises:
      UsageError: another estimator.
    """
    if estimator not in self.estimators:
      raise UsageError(f'estimator={estimator!r} is not there.' + did_you_mean(estimator, self.estimators, 'There are'))
    params, buffers = variables
    if estimator == 'elbo':
      found, _, _, log_prob = self.terms(params, buffers, batch, keys)
      return found.kl.sum(axis=1) - log_prob
    k, weigh = draws_of(estimator), self.weigher(params, buffers, batch, keys)
    return math.log(k) - jax.nn.logsumexp(jax.lax.map(weigh, jnp.arange(k), batch_size=min(k, 10)), axis=0)

  def weigher(self, params: dict, buffers: dict, batch: Batch, keys: Keys) -> Callable[[int], Float[Array, 'b']]:
    """log p(x, z_i) / q(z_i|x) of the i-th draw."""
    z_keys, x_keys = rng.split(keys, 2)
    found, label = self.encode(params, batch, x_keys), one_hot(batch.label, self.num_classes)
    return lambda i: self.log_weights(params, buffers, found, found.draw(rng.fold_in(z_keys, i)), label)

  @property
  def estimators(self) -> dict[str, str]:
    return Bounds(self.likelihood.measures)

  def pictures(self, variables: Variables, batch: Batch, keys: Keys) -> dict[str, Picture]:
    """Of z = the mean of q(z|x): see genjax/objectives/previews.py."""
    found = self.encode(variables.params, batch, keys)
    decode = lambda z, label: self.from_latents(variables, z, label, keys)  # noqa: E731
    return of_latents(decode, found.x, found.mean, one_hot(batch.label, self.num_classes))


class Bounds(dict):
  """Estimators of a VAE and what they are: 'elbo', and 'iwae_k' of any number k of draws (1509.00519 reports 50 and 5000)."""

  def __init__(self, measures: str):
    self.measures = measures
    super().__init__({'elbo': f'a bound, of {measures}'} | {name: self[name] for name in ('iwae_50', 'iwae_5000')})

  def __contains__(self, name):
    return super().__contains__(name) or draws_of(name) is not None

  def __missing__(self, name):
    if (k := draws_of(name)) is None:
      raise KeyError(name)
    return f'a bound by {k} draws (IWAE), of {self.measures}'


def draws_of(estimator: str) -> int | None:
  """k of 'iwae_k'."""
  found = re.fullmatch(r'iwae_([1-9]\d*)', estimator)
  return int(found[1]) if found else None


def log_normal(z: Float[Array, '*b z'], mean: Float[Array, '*b z'], log_var: Float[Array, '*b z']) -> Float[Array, '*b']:
  """log N(z; mean, exp(log_var)), in nats."""
  return -0.5 * ((z - mean) ** 2 * jnp.exp(-log_var) + log_var + math.log(2 * math.pi)).sum(axis=-1)


def risen(images: int, context: Context) -> Float[Array, '']:
  """0 to 1, linearly over the first `images` of a training."""
  seen = context.step.astype(jnp.float32) * context.batch_size
  return jnp.minimum(seen / images, 1.0) if images else jnp.float32(1.0)
