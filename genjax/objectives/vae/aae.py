"""Adversarial autoencoder (Makhzani et al. 1511.05644): a discriminator instead of a KL matches the codes to the prior."""

import abc
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from genjax import rng
from genjax.conditioners import Unconditional, num_classes
from genjax.errors import UsageError
from genjax.objectives.gan.losses import NonSaturating
from genjax.objectives.likelihoods import Likelihood
from genjax.objectives.previews import Preview, latent_previews
from genjax.objectives.vae.priors import NormalPrior
from genjax.objectives.vae.vae import Posterior
from genjax.types import Aux, Batch, Cond, Conditioner, Context, Images, Keys, Player, Variables

ADVERSARIAL = NonSaturating()  # eq. 1 of the paper, D = sigmoid(logit)


class Code(NamedTuple):
  """The observed image, its style z, and logits of its class (None if the encoder does not predict it)."""

  x: Images
  z: Float[Array, 'b z']
  classes: Float[Array, 'b k'] | None


@dataclasses.dataclass(frozen=True)
class AdversarialAutoencoder(NormalPrior):
  """Abstract: 'discriminator' separates z ~ N(0, I) from codes z ~ q(z|x); 'model' reconstructs and fools the discriminator.

  `encoder(x) -> mean, log-variance`, `decoder(z, cond)` -> parameters of the likelihood, `discriminator(z) -> logit` [B].
  Reconstruction and regularization, two steps in the paper, are one step of `model` with the sum of both gradients. The variant
  with a discriminator conditioned on the label, where each class has a part of the prior (section 2.3), is not implemented.
  """

  encoder: nn.Module
  decoder: nn.Module
  discriminator: nn.Module
  likelihood: Likelihood
  conditioner: Conditioner = Unconditional()  # noqa: RUF009 - frozen
  weight: float = 1.0  # weight of the adversarial loss of the codes, relative to the nats of the image

  def __post_init__(self):
    if self.weight < 0:
      raise UsageError(f'objective.weight={self.weight} must not be negative.')
    if self.likelihood.params() or self.likelihood.buffers():
      raise UsageError(
        f'{type(self.likelihood).__name__} has learned parameters, which {type(self).__name__} does not train: '
        'use Gaussian or BinarizedBernoulli.'
      )

  @abc.abstractmethod
  def encode(self, params: dict, batch: Batch, keys: Keys) -> Code: ...

  @abc.abstractmethod
  def code_condition(self, code: Code, batch: Batch) -> Cond:
    """The conditions of the decoder."""

  @abc.abstractmethod
  def extra_loss(self, params: dict, code: Code, batch: Batch) -> tuple[Float[Array, ''] | float, dict]:
    """Additional terms of the loss of 'model', and metrics to log."""

  def init(self, key: jax.Array, batch: Batch) -> Variables:
    keys, n = jax.random.split(key, 4), len(batch.image)
    z = jnp.zeros((n, self.z_dim))
    out, decoder = self.decoder.init_with_output(keys[2], z, self.conditioner.embed(batch.cond))
    self.likelihood.check(out.shape, batch.image.shape)
    params = {
      'discriminator': self.discriminator.init(keys[0], as_image(z))['params'],
      'model': {'encoder': self.encoder.init(keys[1], batch.image)['params'], 'decoder': decoder['params']},
    }
    return Variables(params, {})

  def discriminator_loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """-E log D(z) - E log(1 - D(q(z|x))), z ~ N(0, I) (eq. 1 of the paper)."""
    prior = rng.normal(rng.fold_in(keys, 1), (self.z_dim,))
    logits = (self.logit(params, z) for z in (prior, self.encode(params, batch, keys).z))
    return ADVERSARIAL.discriminator(*logits), Aux({})

  def loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """-log p(x|z) - weight log D(z)."""
    code = self.encode(params, batch, keys)
    nll = -self.likelihood.log_prob(self.decode(params, code.z, self.code_condition(code, batch)), code.x, {}).mean()
    fooled = ADVERSARIAL.generator(None, self.logit(params, code.z))
    extra, extra_metrics = self.extra_loss(params, code, batch)
    metrics = {'reconstruction_nats': nll, 'd_codes': fooled} | extra_metrics
    return nll + self.weight * fooled + extra, Aux(metrics)

  def decode(self, params: dict, z: Float[Array, 'b z'], embedded: Cond) -> Float[Array, 'b h w o']:
    return self.decoder.apply({'params': params['model']['decoder']}, z, embedded)

  def logit(self, params: dict, z: Float[Array, 'b z']) -> Float[Array, 'b']:
    return self.discriminator.apply({'params': params['discriminator']}, as_image(z))

  def previews(self, variables: Variables, batch: Batch, keys: Keys) -> dict[str, Preview]:
    """Previews of codes sampled by the encoder: see genjax/objectives/previews.py."""
    code = self.encode(variables.params, batch, keys)
    decode = lambda z, embedded: self.from_latents(variables, z, embedded, keys)  # noqa: E731
    return latent_previews(decode, code.x, code.z, self.code_condition(code, batch))


@dataclasses.dataclass(frozen=True)
class AAE(AdversarialAutoencoder):
  """With conditions, the decoder is conditioned on them, and z represents the style (section 4, supervised)."""

  @property
  def players(self) -> dict[str, Player]:
    return {'discriminator': Player(self.discriminator_loss), 'model': Player(self.loss)}

  @property
  def z_dim(self) -> int:
    return self.encoder.z_dim

  def encode(self, params: dict, batch: Batch, keys: Keys) -> Code:
    z_keys, x_keys = rng.split(rng.fold_in(keys, 0), 2)
    x = self.likelihood.observe(batch.image, x_keys, batch.row)
    posterior = Posterior(x, *self.encoder.apply({'params': params['model']['encoder']}, x))
    return Code(x, posterior.sample(z_keys), None)

  def code_condition(self, code: Code, batch: Batch) -> Cond:
    return self.conditioner.embed(batch.cond)

  def extra_loss(self, params: dict, code: Code, batch: Batch) -> tuple[float, dict]:
    return 0.0, {}


@dataclasses.dataclass(frozen=True)
class SemiSupervisedAAE(AdversarialAutoencoder):
  """The encoder also predicts the class, and 'class_discriminator' separates predictions from one-hot vectors (section 5).

  The cross-entropy is computed for a fixed fraction `labeled` of the images. The last dimensions of the encoder's mean, one for
  each class, are the logits. `unshown_accuracy` in the logs is the accuracy on the training images without labels; for other
  images use `classify`.
  """

  class_discriminator: nn.Module | None = None  # y -> logit [B]; one like `discriminator` unless set
  labeled: float = 0.05

  def __post_init__(self):
    super().__post_init__()
    if not 0 < self.labeled <= 1:
      raise UsageError(f'objective.labeled={self.labeled} must be above 0 and at most 1.')
    if self.classes < 2 or self.encoder.z_dim <= self.classes:
      raise UsageError(
        f'objective.encoder.z_dim={self.encoder.z_dim} must exceed the number of classes, {self.classes}, which must be two or '
        "more: set objective.conditioner.cls='conditioners.ClassLabel'."
      )

  @property
  def classes(self) -> int:
    return num_classes(self.conditioner)

  @property
  def players(self) -> dict[str, Player]:
    return {
      'discriminator': Player(self.discriminator_loss),
      'class_discriminator': Player(self.class_discriminator_loss),
      'model': Player(self.loss),
    }

  @property
  def z_dim(self) -> int:
    return self.encoder.z_dim - self.classes

  def init(self, key: jax.Array, batch: Batch) -> Variables:
    params, buffers = super().init(key, batch)
    y = as_image(jnp.zeros((len(batch.image), self.classes)))
    discriminator = {'class_discriminator': self.of_classes.init(jax.random.fold_in(key, 1), y)['params']}
    return Variables(params | discriminator, buffers)

  @property
  def of_classes(self) -> nn.Module:
    return self.class_discriminator or self.discriminator

  def class_discriminator_loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """-E log D(y) - E log(1 - D(q(y|x))), y uniform."""
    prior = jax.nn.one_hot(rng.labels(rng.fold_in(keys, 1), self.classes), self.classes)
    predicted = jax.nn.softmax(self.encode(params, batch, keys).classes)
    return ADVERSARIAL.discriminator(*(self.class_logit(params, y) for y in (prior, predicted))), Aux({})

  def class_logit(self, params: dict, y: Float[Array, 'b k']) -> Float[Array, 'b']:
    return self.of_classes.apply({'params': params['class_discriminator']}, as_image(y))

  def encode(self, params: dict, batch: Batch, keys: Keys) -> Code:
    z_keys, x_keys = rng.split(rng.fold_in(keys, 0), 2)
    x = self.likelihood.observe(batch.image, x_keys, batch.row)
    mean, log_var = self.encoder.apply({'params': params['model']['encoder']}, x)
    posterior = Posterior(x, mean[:, : self.z_dim], log_var[:, : self.z_dim])
    return Code(x, posterior.sample(z_keys), mean[:, self.z_dim :])

  def code_condition(self, code: Code, batch: Batch) -> Cond:
    return {'label': jax.nn.softmax(code.classes)}

  def classify(self, variables: Variables, batch: Batch, keys: Keys) -> Float[Array, 'b k']:
    """Class probabilities of images in [-1, 1]; `keys` are for likelihoods whose `observe` is random."""
    return jax.nn.softmax(self.encode(variables.params, batch, keys).classes)

  def extra_loss(self, params: dict, code: Code, batch: Batch) -> tuple[Float[Array, ''], dict]:
    fooled = ADVERSARIAL.generator(None, self.class_logit(params, jax.nn.softmax(code.classes)))
    label, shown = batch.cond['label'], self.shown(batch.row)
    wrong = optax.softmax_cross_entropy_with_integer_labels(code.classes, label)
    supervised = (wrong * shown).mean() / self.labeled  # a mean over images, independent of how a batch is split
    right = ((code.classes.argmax(axis=1) == label) & ~shown).sum() / jnp.maximum((~shown).sum(), 1)
    metrics = {'d_classes': fooled, 'class_nats': supervised, 'unshown_accuracy': right.astype(jnp.float32)}
    return self.weight * fooled + supervised, metrics

  def shown(self, row: Int[Array, 'b']) -> Bool[Array, 'b']:
    """Which images have labels: a function of the index in the data set."""
    return rng.uniform(rng.image_keys(rng.key(0), row)) < self.labeled


def as_image(z: Float[Array, 'b z']) -> Float[Array, 'b 1 1 z']:
  """z as images of one pixel, the input of discriminators."""
  return z[:, None, None]
