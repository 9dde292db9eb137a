"""Variational autoencoder (Kingma & Welling, 1312.6114), with beta (Higgins et al. 2017) and labels (Sohn et al. 2015)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from genjax import rng
from genjax.errors import UsageError
from genjax.objectives.common import bits_per_dim, labels_or_random, one_hot
from genjax.objectives.likelihoods import Bernoulli, Gaussian
from genjax.types import Aux, Batch, Context, Images, Keys, Labels, Player, Variables


@dataclasses.dataclass(frozen=True)
class VAE:
  """A game of one player, 'model': minimise E_q[-log p(x|z)] + beta KL(q(z|x) || N(0, I)), in nats per image.

  `encoder(x, label) -> mean, log-variance`, `decoder(z, label) -> parameters of the likelihood`.
  """

  encoder: nn.Module
  decoder: nn.Module
  likelihood: Bernoulli | Gaussian
  beta: float = 1.0
  num_classes: int = 0  # 0: unconditional

  def __post_init__(self):
    if self.beta < 0:
      raise UsageError(f'beta={self.beta} must not be negative.')

  @property
  def players(self) -> dict[str, Player]:
    return {'model': Player(self.loss)}

  def init(self, key: jax.Array, batch: Batch) -> Variables:
    encoder_key, decoder_key = jax.random.split(key)
    label = one_hot(batch.label, self.num_classes)
    z = jnp.zeros((batch.image.shape[0], self.encoder.z_dim))
    params = {
      'encoder': self.encoder.init(encoder_key, batch.image, label)['params'],
      'decoder': self.decoder.init(decoder_key, z, label)['params'],
    }
    return Variables({'model': params}, {})

  def loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """-ELBO (1312.6114, eq. 3 with one sample of the reparameterised z), beta times its KL (eq. 10)."""
    nll, kl = (terms.mean() for terms in self.terms(params, batch, keys))
    metrics = {'nll_nats': nll, 'kl_nats': kl, 'elbo_nats': -(nll + kl), 'bits_per_dim': bits_per_dim(nll + kl, batch.image)}
    return nll + self.beta * kl, Aux(metrics)

  def terms(self, params: dict, batch: Batch, keys: Keys) -> tuple[Float[Array, 'b'], Float[Array, 'b']]:
    """-log p(x|z) for one z ~ q(z|x), and KL(q(z|x) || N(0, I)), of each image, in nats."""
    z_keys, x_keys = rng.split(keys, 2)
    label = one_hot(batch.label, self.num_classes)
    mean, log_var = self.encoder.apply({'params': params['model']['encoder']}, batch.image, label)
    z = mean + jnp.exp(0.5 * log_var) * rng.normal(z_keys, mean.shape[1:])
    out = self.decoder.apply({'params': params['model']['decoder']}, z, label)
    kl = 0.5 * (mean**2 + jnp.exp(log_var) - 1 - log_var).sum(axis=-1)
    return -self.likelihood.log_prob(out, batch.image, x_keys), kl

  def nll(self, variables: Variables, batch: Batch, keys: Keys, estimator: str = 'elbo') -> Float[Array, 'b']:
    """An upper bound of -log p(x), -ELBO in nats per image; `estimators` says of what."""
    return sum(self.terms(variables.params, batch, keys))

  @property
  def estimators(self) -> dict[str, str]:
    return {'elbo': f'a bound, of {self.likelihood.measures}'}

  def sample(self, variables: Variables, keys: Keys, labels: Labels | None = None, *, temperature: float = 1.0) -> Images:
    """The mean of p(x|z) for z ~ N(0, temperature^2 I). Without labels a conditional model draws them uniformly."""
    labels = labels_or_random(labels, keys, self.num_classes)
    z = temperature * rng.normal(rng.fold_in(keys, 0), (self.encoder.z_dim,))
    out = self.decoder.apply({'params': variables.params['model']['decoder']}, z, one_hot(labels, self.num_classes))
    return self.likelihood.mean(out)
