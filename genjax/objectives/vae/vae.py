"""Variational autoencoder (Kingma & Welling, 1312.6114), with beta (Higgins et al. 2017) and conditions (Sohn et al. 2015)."""

import abc
import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from genjax import rng
from genjax.conditioners import Unconditional
from genjax.densities import log_normal
from genjax.errors import UsageError, unknown
from genjax.objectives.common import bits_per_dim
from genjax.objectives.likelihoods import Likelihood
from genjax.objectives.previews import Preview, latent_previews
from genjax.objectives.vae.priors import NormalPrior
from genjax.types import Aux, Batch, Cond, Conditioner, Context, Images, Keys, Player, Variables


class Posterior(NamedTuple):
  """Observed images, and q(z|x) = N(mean, exp(log_var)) of each."""

  x: Images
  mean: Float[Array, 'b z']
  log_var: Float[Array, 'b z']

  @property
  def kl(self) -> Float[Array, 'b z']:
    """KL(q(z_j|x) || N(0, 1)) of each image and latent, in nats."""
    return 0.5 * (self.mean**2 + jnp.exp(self.log_var) - 1 - self.log_var)

  def sample(self, keys: Keys) -> Float[Array, 'b z']:
    """z ~ q(z|x), reparameterized."""
    return self.mean + jnp.exp(0.5 * self.log_var) * rng.normal(keys, self.mean.shape[1:])


class ElboTerms(NamedTuple):
  """The terms of the ELBO of a batch."""

  posterior: Any  # with the observed images `x`, and `kl` [B, L] of each image and latent (or group of latents), in nats
  z: Float[Array, 'b z'] | None  # one sample of the posterior; None if the latents are not one vector
  out: Float[Array, 'b h w o']  # parameters of the likelihood
  log_prob: Float[Array, 'b']  # log p(x|z), in nats


@dataclasses.dataclass(frozen=True)
class VariationalAutoencoder(abc.ABC):
  """Abstract: one player, 'model', that minimizes a bound of -log p(x). A subclass defines z and the loss."""

  encoder: nn.Module
  decoder: nn.Module
  likelihood: Likelihood
  conditioner: Conditioner = Unconditional()  # noqa: RUF009 - frozen
  corruption: float = dataclasses.field(default=0.0, kw_only=True)  # std of noise on the encoder's input (1511.06406)

  nll_is_expensive = False

  def __post_init__(self):
    check_not_negative(self, 'corruption')

  @property
  def players(self) -> dict[str, Player]:
    return {'model': Player(self.loss)}

  @abc.abstractmethod
  def init(self, key: jax.Array, batch: Batch) -> Variables: ...

  @abc.abstractmethod
  def loss(self, params: dict, context: Context, batch: Batch, keys: Keys) -> tuple[Float[Array, ''], Aux]: ...

  @abc.abstractmethod
  def elbo_terms(self, params: dict, buffers: dict, batch: Batch, keys: Keys) -> ElboTerms: ...

  @abc.abstractmethod
  def log_importance_weight(self, params: dict, buffers: dict, batch: Batch, keys: Keys) -> Callable[[int], Float[Array, 'b']]:
    """The function i -> log p(x, z_i) / q(z_i|x) for the i-th sample z_i of the posterior; its mean is the ELBO."""

  def with_likelihood(self, params: dict, out: tuple[int, ...], image: tuple[int, ...]) -> Variables:
    """All variables. Raises UsageError unless decoder outputs of shape `out` fit the likelihood."""
    self.likelihood.check(out, image)
    learned, buffers = self.likelihood.params(), self.likelihood.buffers()
    params = params | ({'likelihood': learned} if learned else {})
    return Variables({'model': params}, {'likelihood': buffers} if buffers else {})

  def encoded(self, params: dict, batch: Batch, keys: Keys) -> tuple[Images, Any]:
    """The observed images, and the output of the encoder."""
    x = observed = self.likelihood.observe(batch.image, keys, batch.row)
    if self.corruption:
      observed = x + self.corruption * rng.normal(rng.fold_in(keys, 1), x.shape[1:])
    return x, self.encoder.apply({'params': params['model']['encoder']}, observed, self.conditioner.embed(batch.cond))

  def state(self, params: dict, buffers: dict) -> dict[str, Array]:
    """Learned parameters and running buffers of the likelihood."""
    return params['model'].get('likelihood', {}) | buffers.get('likelihood', {})

  def update_buffers(self, params: dict, buffers: dict, x: Images, out: Float[Array, 'b h w o']) -> dict[str, dict]:
    """The likelihood's buffers after this batch, if it has any."""
    changed = self.likelihood.updated(jax.lax.stop_gradient(out), x, self.state(params, buffers))
    return {'likelihood': changed} if changed else {}

  def nll(self, variables: Variables, batch: Batch, keys: Keys, estimator: str = 'elbo') -> Float[Array, 'b']:
    """An upper bound of -log p(x), in nats per image: -ELBO, or the tighter -log 1/k sum_i p(x, z_i) / q(z_i|x) of k samples
    (IWAE, 1509.00519, eq. 8). `estimators` describes them.

    Raises:
      UsageError: the estimator is unknown.
    """
    if estimator not in self.estimators:
      raise UsageError(unknown('estimator', estimator, self.estimators))
    params, buffers = variables
    if estimator == 'elbo':
      terms = self.elbo_terms(params, buffers, batch, keys)
      return terms.posterior.kl.sum(axis=1) - terms.log_prob
    k, log_weight = draws_of(estimator), self.log_importance_weight(params, buffers, batch, keys)
    return math.log(k) - jax.nn.logsumexp(jax.lax.map(log_weight, jnp.arange(k), batch_size=min(k, 10)), axis=0)

  @property
  def estimators(self) -> dict[str, str]:
    return Bounds(self.likelihood.measures)


@dataclasses.dataclass(frozen=True)
class GaussianVAE(VariationalAutoencoder, NormalPrior):
  """Abstract: a VAE with one normal latent vector for each image.

  `encoder(x, cond) -> mean, log-variance`, `decoder(z, cond)` -> parameters of the likelihood.
  """

  @property
  def z_dim(self) -> int:
    return self.encoder.z_dim

  def init(self, key: jax.Array, batch: Batch) -> Variables:
    encoder_key, decoder_key = jax.random.split(key)
    embedded = self.conditioner.embed(batch.cond)
    if not hasattr(self.encoder, 'z_dim'):
      kind = type(self.encoder).__name__
      raise UsageError(
        f'objective.encoder: {kind} does not return the mean and variance of one z: use one with a z_dim, such as MLPEncoder.'
      )
    z = jnp.zeros((batch.image.shape[0], self.encoder.z_dim))
    params = {
      'encoder': self.encoder.init(encoder_key, batch.image, embedded)['params'],
      'decoder': self.decoder.init(decoder_key, z, embedded)['params'],
    }
    out = jax.eval_shape(self.decode, {'model': params}, z, embedded).shape
    return self.with_likelihood(params, out, batch.image.shape)

  def elbo_terms(self, params: dict, buffers: dict, batch: Batch, keys: Keys) -> ElboTerms:
    z_keys, x_keys = rng.split(keys, 2)
    posterior = self.encode(params, batch, x_keys)
    z = posterior.sample(z_keys)
    out = self.decode(params, z, self.conditioner.embed(batch.cond))
    return ElboTerms(posterior, z, out, self.likelihood.log_prob(out, posterior.x, self.state(params, buffers)))

  def encode(self, params: dict, batch: Batch, keys: Keys) -> Posterior:
    x, (mean, log_var) = self.encoded(params, batch, keys)
    return Posterior(x, mean, log_var)

  def decode(self, params: dict, z: Float[Array, 'b z'], embedded: Cond) -> Float[Array, 'b h w o']:
    return self.decoder.apply({'params': params['model']['decoder']}, z, embedded)

  def log_weights(
    self, params: dict, buffers: dict, posterior: Posterior, z: Float[Array, 'b z'], embedded: Cond
  ) -> Float[Array, 'b']:
    """log p(x, z) / q(z|x), whose mean over z ~ q(z|x) is the ELBO."""
    log_prob = self.likelihood.log_prob(self.decode(params, z, embedded), posterior.x, self.state(params, buffers))
    return log_prob + (log_normal(z, 0.0, 0.0) - log_normal(z, posterior.mean, posterior.log_var)).sum(axis=1)

  def log_importance_weight(self, params: dict, buffers: dict, batch: Batch, keys: Keys) -> Callable[[int], Float[Array, 'b']]:
    z_keys, x_keys = rng.split(keys, 2)
    posterior, embedded = self.encode(params, batch, x_keys), self.conditioner.embed(batch.cond)
    return lambda i: self.log_weights(params, buffers, posterior, posterior.sample(rng.fold_in(z_keys, i)), embedded)

  def previews(self, variables: Variables, batch: Batch, keys: Keys) -> dict[str, Preview]:
    """Previews of the mean of q(z|x): see genjax/objectives/previews.py."""
    posterior = self.encode(variables.params, batch, keys)
    decode = lambda z, embedded: self.from_latents(variables, z, embedded, keys)  # noqa: E731
    return latent_previews(decode, posterior.x, posterior.mean, self.conditioner.embed(batch.cond))


@dataclasses.dataclass(frozen=True)
class RegularizedVAE(GaussianVAE):
  """Abstract: minimizes E_q[-log p(x|z)] plus a `regularizer`, in nats per image."""

  warmup: int = dataclasses.field(default=0, kw_only=True)  # images over which the regularizer gains weight (1602.02282, 2.3)

  def __post_init__(self):
    super().__post_init__()
    check_not_negative(self, 'warmup')

  @abc.abstractmethod
  def regularizer(
    self, posterior: Posterior, z: Float[Array, 'b z'], context: Context
  ) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
    """The term of the loss that replaces the KL, and metrics to log."""

  def loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """-ELBO (1312.6114, eq. 3 with one sample of the reparameterized z), with `regularizer` instead of the KL."""
    posterior, z, out, log_prob = self.elbo_terms(params, context.buffers, batch, keys)
    value, extra_metrics = self.regularizer(posterior, z, context)
    nll, metrics = elbo_metrics(posterior.kl, log_prob, batch.image)
    return nll + value, Aux(metrics | extra_metrics, self.update_buffers(params, context.buffers, posterior.x, out))


@dataclasses.dataclass(frozen=True)
class VAE(RegularizedVAE):
  """Minimizes E_q[-log p(x|z)] + beta KL(q(z|x) || N(0, I)), in nats per image."""

  beta: float = 1.0
  free_bits: float = 0.0  # free nats of each latent, in the mean over the batch or a part of it (1606.04934, eq. 15)

  def __post_init__(self):
    super().__post_init__()
    check_not_negative(self, 'beta', 'free_bits')

  def regularizer(self, posterior: Posterior, z: Float[Array, 'b z'], context: Context) -> tuple[Float[Array, ''], dict]:
    """beta times the KL."""
    return weighted_kl(posterior.kl, self.beta * warmup_weight(self.warmup, context), self.free_bits), {}


def check_not_negative(objective, *names: str) -> None:
  """Raises UsageError for a field that is negative."""
  for name in names:
    if getattr(objective, name) < 0:
      raise UsageError(f'{name}={getattr(objective, name)} must not be negative.')


def elbo_metrics(kl: Float[Array, 'b l'], log_prob: Float[Array, 'b'], image: Images) -> tuple[Float[Array, ''], dict]:
  """E -log p(x|z), and metrics of the ELBO to log, in nats per image."""
  nll, kl = -log_prob.mean(), kl.sum(axis=1).mean()
  metrics = {'reconstruction_nats': nll, 'kl_nats': kl, 'elbo_nats': -(nll + kl)}
  return nll, metrics | {'bits_per_dim': bits_per_dim(nll + kl, image)}


def weighted_kl(kl: Float[Array, 'b l'], weight: Float[Array, ''], free_bits: float) -> Float[Array, '']:
  """`weight` times the KL, which is at least `free_bits` nats for each latent (or group of latents)."""
  return weight * jnp.maximum(kl.mean(axis=0), free_bits).sum()


class Bounds(dict):
  """Estimators of a VAE and their descriptions: 'elbo', and 'iwae_k' with k samples, up to 999,999 (1509.00519 uses 5000)."""

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
  match = re.fullmatch(r'iwae_([1-9]\d{0,5})', estimator)
  return int(match[1]) if match else None


def warmup_weight(images: int, context: Context) -> Float[Array, '']:
  """Increases linearly from 0 to 1 over the first `images` of a training."""
  images_seen = context.step.astype(jnp.float32) * context.batch_size
  return jnp.minimum(images_seen / images, 1.0) if images else jnp.float32(1.0)
