"""Adversarial autoencoder (Makhzani et al. 1511.05644): a discriminator, not a KL, leads the codes of images to the prior."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from genjax import rng
from genjax.errors import UsageError
from genjax.objectives.common import one_hot
from genjax.objectives.likelihoods import Likelihood, checksum
from genjax.objectives.previews import Picture, of_latents
from genjax.objectives.vae.priors import Latents
from genjax.objectives.vae.vae import Posterior
from genjax.types import Aux, Batch, Context, Images, Keys, Player, Variables


class Code(NamedTuple):
  """Of an image: the image as observed, its style z, and what it says of the class (logits; None if it is not asked)."""

  x: Images
  z: Float[Array, 'b z']
  classes: Float[Array, 'b k'] | None


@dataclasses.dataclass(frozen=True)
class AAE(Latents):
  """A game of two: 'discriminator' tells z ~ N(0, I) from codes z ~ q(z|x), 'model' reconstructs and makes codes pass for z.

  `encoder(x) -> mean, log-variance`, `decoder(z, label) -> the likelihood's numbers`, `discriminator(z) -> logit` [B]. With
  classes the decoder hears the label, and z keeps the style, what the label leaves open (section 4, the supervised form).
  Reconstruction and regularisation, two steps in the paper, are one of `model` here, the sum of both gradients. The form in
  which the discriminator hears the label, and each class has its part of the prior (section 2.3), is not here.
  """

  encoder: nn.Module
  decoder: nn.Module
  discriminator: nn.Module
  likelihood: Likelihood
  num_classes: int = 0  # 0: unconditional
  weight: float = 1.0  # of the codes, in nats beside those of the image

  def __post_init__(self):
    if self.weight < 0:
      raise UsageError(f'objective.weight={self.weight} must not be negative.')
    if self.likelihood.params() or self.likelihood.buffers():
      raise UsageError(
        f'{type(self.likelihood).__name__} learns, which AAE has no place for: take Gaussian or BinarisedBernoulli.'
      )

  @property
  def players(self) -> dict[str, Player]:
    return {'discriminator': Player(self.discriminator_loss), 'model': Player(self.loss)}

  @property
  def z_dim(self) -> int:
    """Of the style."""
    return self.encoder.z_dim

  def init(self, key: jax.Array, batch: Batch) -> Variables:
    keys, n = jax.random.split(key, 4), len(batch.image)
    z, label = jnp.zeros((n, self.z_dim)), one_hot(batch.label, self.num_classes)
    answer, decoder = self.decoder.init_with_output(keys[2], z, label)
    self.likelihood.check(answer.shape, batch.image.shape)
    params = {
      'discriminator': self.discriminator.init(keys[0], as_image(z))['params'],
      'model': {'encoder': self.encoder.init(keys[1], batch.image)['params'], 'decoder': decoder['params']},
    }
    return Variables(params, {})

  def discriminator_loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """-E log D(z) - E log(1 - D(q(z|x))), z ~ N(0, I) (eq. 1 of the paper, D = sigmoid(logit))."""
    prior = rng.normal(rng.fold_in(keys, 1), (self.z_dim,))
    return told_apart(*(self.judge(params, z) for z in (prior, self.encode(params, batch.image, keys).z))), Aux({})

  def loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """-log p(x|z), and -log D(z) `weight` times."""
    code = self.encode(params, batch.image, keys)
    nll = -self.likelihood.log_prob(self.decode(params, code.z, self.label(code, batch)), code.x, {}).mean()
    fooled = jax.nn.softplus(-self.judge(params, code.z)).mean()
    more, metrics = self.more(params, code, batch)
    metrics = {'reconstruction_nats': nll, 'd_codes': fooled} | metrics
    return nll + self.weight * fooled + more, Aux(metrics)

  def label(self, code: Code, batch: Batch) -> Float[Array, 'b k'] | None:
    """What the decoder hears of the class."""
    return one_hot(batch.label, self.num_classes)

  def more(self, params: dict, code: Code, batch: Batch) -> tuple[Float[Array, ''] | float, dict]:
    """What a variant adds to the loss of 'model', and to its logs."""
    return 0.0, {}

  def encode(self, params: dict, images: Images, keys: Keys) -> Code:
    z_keys, x_keys = rng.split(rng.fold_in(keys, 0), 2)
    x = self.likelihood.observe(images, x_keys)
    found = Posterior(x, *self.encoder.apply({'params': params['model']['encoder']}, x))
    return Code(x, found.draw(z_keys), None)

  def decode(self, params: dict, z: Float[Array, 'b z'], label: Float[Array, 'b k'] | None) -> Float[Array, 'b h w o']:
    return self.decoder.apply({'params': params['model']['decoder']}, z, label)

  def judge(self, params: dict, z: Float[Array, 'b z']) -> Float[Array, 'b']:
    return self.discriminator.apply({'params': params['discriminator']}, as_image(z))

  def pictures(self, variables: Variables, batch: Batch, keys: Keys) -> dict[str, Picture]:
    """Of codes that the encoder draws: see genjax/objectives/previews.py."""
    code = self.encode(variables.params, batch.image, keys)
    decode = lambda z, label: self.from_latents(variables, z, label, keys)  # noqa: E731
    return of_latents(decode, code.x, code.z, self.label(code, batch))


@dataclasses.dataclass(frozen=True)
class SemiSupervisedAAE(AAE):
  """A game of three: the encoder also says the class, soft, and 'class_discriminator' tells it from one-hot ones (section 5).

  Labels are shown of a part `labelled` of the images, always the same ones, whose cross-entropy counts. The last `num_classes`
  of the encoder's means are the logits. `unshown_accuracy` in the logs is of the training images whose labels are not shown;
  of others, see `classify`.
  """

  class_discriminator: nn.Module | None = None  # y -> logit [B]; one like `discriminator` unless given
  labelled: float = 0.05

  def __post_init__(self):
    super().__post_init__()
    if not 0 < self.labelled <= 1:
      raise UsageError(f'objective.labelled={self.labelled} must be above 0 and 1 at most.')
    if self.num_classes < 2 or self.encoder.z_dim <= self.num_classes:
      raise UsageError(
        f'objective.encoder.z_dim={self.encoder.z_dim}: of a style and {self.num_classes} classes, which must be two or more.'
      )

  @property
  def players(self) -> dict[str, Player]:
    mine = {'class_discriminator': Player(self.class_discriminator_loss)}
    return {'discriminator': Player(self.discriminator_loss)} | mine | {'model': Player(self.loss)}

  @property
  def z_dim(self) -> int:
    return self.encoder.z_dim - self.num_classes

  def init(self, key: jax.Array, batch: Batch) -> Variables:
    params, buffers = super().init(key, batch)
    y = as_image(jnp.zeros((len(batch.image), self.num_classes)))
    mine = {'class_discriminator': self.of_classes.init(jax.random.fold_in(key, 1), y)['params']}
    return Variables(params | mine, buffers)

  @property
  def of_classes(self) -> nn.Module:
    return self.class_discriminator or self.discriminator

  def class_discriminator_loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """-E log D(y) - E log(1 - D(q(y|x))), y uniform."""
    prior = one_hot(rng.labels(rng.fold_in(keys, 1), self.num_classes), self.num_classes)
    said = jax.nn.softmax(self.encode(params, batch.image, keys).classes)
    return told_apart(*(self.judge_class(params, y) for y in (prior, said))), Aux({})

  def judge_class(self, params: dict, y: Float[Array, 'b k']) -> Float[Array, 'b']:
    return self.of_classes.apply({'params': params['class_discriminator']}, as_image(y))

  def encode(self, params: dict, images: Images, keys: Keys) -> Code:
    z_keys, x_keys = rng.split(rng.fold_in(keys, 0), 2)
    x = self.likelihood.observe(images, x_keys)
    mean, log_var = self.encoder.apply({'params': params['model']['encoder']}, x)
    return Code(x, Posterior(x, mean[:, : self.z_dim], log_var[:, : self.z_dim]).draw(z_keys), mean[:, self.z_dim :])

  def label(self, code: Code, batch: Batch) -> Float[Array, 'b k']:
    return jax.nn.softmax(code.classes)

  def classify(self, variables: Variables, images: Images, keys: Keys) -> Float[Array, 'b k']:
    """Probabilities of the classes of images in [-1, 1]; `keys`, one for each, draw what is observed where that is a draw."""
    return jax.nn.softmax(self.encode(variables.params, images, keys).classes)

  def more(self, params: dict, code: Code, batch: Batch) -> tuple[Float[Array, ''], dict]:
    fooled = jax.nn.softplus(-self.judge_class(params, jax.nn.softmax(code.classes))).mean()
    shown, wrong = self.shown(batch.image), optax.softmax_cross_entropy_with_integer_labels(code.classes, batch.label)
    supervised = (wrong * shown).mean() / self.labelled  # a mean over images, however they are split
    right = ((code.classes.argmax(axis=1) == batch.label) & ~shown).sum() / jnp.maximum((~shown).sum(), 1)
    metrics = {'d_classes': fooled, 'class_nats': supervised, 'unshown_accuracy': right.astype(jnp.float32)}
    return self.weight * fooled + supervised, metrics

  def shown(self, images: Images) -> Bool[Array, 'b']:
    """Whose labels count: a function of the image itself, or of its mirror image."""
    both = checksum(images) + checksum(images[:, :, ::-1])  # of uint32, evenly spread again
    return both.astype(jnp.float32) / 2.0**32 < self.labelled


def as_image(z: Float[Array, 'b z']) -> Float[Array, 'b 1 1 z']:
  """What discriminators take."""
  return z[:, None, None]


def told_apart(real: Float[Array, 'b'], fake: Float[Array, 'b']) -> Float[Array, '']:
  """-E log D(real) - E log(1 - D(fake))."""
  return jax.nn.softplus(-real).mean() + jax.nn.softplus(fake).mean()
