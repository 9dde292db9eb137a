"""Generative adversarial network (Goodfellow et al. 1406.2661), composed of independent parts.

The parts are two networks, their losses (genjax/objectives/gan/losses.py), penalties that stabilize the training
(genjax/objectives/gan/penalties.py), and augmentation of the images that the discriminator sees
(genjax/objectives/gan/augment.py).
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.core import FrozenDict
from jaxtyping import Array, Float

from genjax import rng
from genjax.conditioners import Unconditional, complete, num_classes
from genjax.errors import UsageError
from genjax.objectives.common import check_no_dropout, check_scale
from genjax.objectives.gan.losses import Adversarial, NonSaturating
from genjax.objectives.gan.penalties import Critic, GeneratorPenalty, Penalty
from genjax.types import Aux, Batch, Cond, Conditioner, Context, HasStyles, Images, Keys, Player, Variables


class DiscriminatorOutput(NamedTuple):
  """Logits [B], and logits of the classes [B, K] if the discriminator predicts them."""

  logits: Float[Array, 'b']
  classes: Float[Array, 'b k'] | None


class Plan(NamedTuple):
  """The parts of a player's loss that are used at a step."""

  penalties: tuple[str, ...] = ()  # lazy penalties that are due
  top: int | None = None  # the highest level that is computed, for networks that grow


@dataclasses.dataclass(frozen=True)
class AdversarialGame(abc.ABC):
  """Abstract: the discriminator learns to classify real and generated images, and the generator to be classified as real.

  `generator(z, cond, train) -> image`, `discriminator(x, cond, train) -> logit` [B], or [B, 1 + K] with K logits of classes
  (AC-GAN, 1610.09585). A generator with `has_noise_input` takes keys [B] as another argument, and one that
  `HasStyles` has an intermediate latent w. The output of a discriminator with `uses_batch_statistics` for an image depends on
  the others of the batch. State of networks other than parameters, such as batch statistics, is in buffers with their names.
  Conditions, if any, are those of the real images (1411.1784).

  Penalties have names in the config and in the logs; genjax/objectives/gan/penalties.py describes their arguments.
  """

  generator: nn.Module
  discriminator: nn.Module
  conditioner: Conditioner = Unconditional()  # noqa: RUF009 - frozen
  loss: Adversarial = NonSaturating()  # noqa: RUF009 - frozen
  penalties: Mapping[str, Penalty] = FrozenDict()  # on the discriminator
  generator_penalties: Mapping[str, GeneratorPenalty] = FrozenDict()
  augment: Callable | None = None
  critic_steps: int = 1  # discriminator steps per generator step
  auxiliary: float = 1.0  # weight of the classification loss, if the discriminator predicts classes

  grows: ClassVar[bool]  # whether both networks grow

  def __post_init__(self):
    if self.critic_steps < 1:
      raise UsageError(f'objective.critic_steps={self.critic_steps} must be 1 or more.')
    if self.auxiliary < 0:
      raise UsageError(f'objective.auxiliary={self.auxiliary} must not be negative.')
    if not hasattr(self.generator, 'z_dim') or hasattr(self.discriminator, 'z_dim'):
      names = type(self.generator).__name__, type(self.discriminator).__name__
      raise UsageError(f'objective: {names[0]} must be a generator and {names[1]} a discriminator.')
    if isinstance(self.augment, (Penalty, Adversarial, nn.Module)):
      kind = type(self.augment).__name__
      raise UsageError(f'objective.augment: {kind} is not an augmentation, use DiffAugment or AdaptiveAugment.')
    if self.auxiliary != 1 and getattr(self.discriminator, 'conditioning', 'classifier') != 'classifier':
      raise UsageError(
        f"objective.auxiliary={self.auxiliary}: the discriminator predicts no classes, set its conditioning='classifier'."
      )
    if getattr(self.discriminator, 'conditioning', '') == 'classifier' and not num_classes(self.conditioner):
      raise UsageError(
        "objective.discriminator.conditioning='classifier' needs classes: set objective.conditioner to conditioners.ClassLabel."
      )
    for player in ('generator', 'discriminator'):
      check_no_dropout(getattr(self, player), player, 'GAN')
      if hasattr(getattr(self, player), 'top') != self.grows:
        kind = type(getattr(self, player)).__name__
        wrong = f'does not grow, use Progressive{player.title()}' if self.grows else 'grows, use objective ProgressiveGAN'
        raise UsageError(f'objective.{player}: {kind} {wrong}.')
    for field, player in (('penalties', 'discriminator'), ('generator_penalties', 'generator')):
      for name, penalty in getattr(self, field).items():
        if not isinstance(penalty, Penalty) or isinstance(penalty, GeneratorPenalty) != (player == 'generator'):
          raise UsageError(f'objective.{field}.{name} is {type(penalty).__name__}, but must be a penalty on the {player}.')
        if not name.isidentifier() or name in ('loss', 'grad_norm'):
          raise UsageError(
            f'objective.{field}: {name!r} cannot be the name of a penalty, which is logged as {player}/{name}: rename it.'
          )
      object.__setattr__(self, field, FrozenDict(getattr(self, field)))  # hashable

  @property
  def players(self) -> dict[str, Player]:
    return {
      'discriminator': Player(self.discriminator_loss, self.discriminator_plan),
      'generator': Player(self.generator_loss, self.generator_plan),
    }

  def discriminator_plan(self, step: int) -> Plan:
    return Plan(due(self.penalties, step), self.top(step))

  def generator_plan(self, step: int) -> Plan | None:
    """The generator is trained at every `critic_steps`-th step, with its penalties at every `every`-th of these."""
    if step % self.critic_steps:
      return None
    return Plan(due(self.generator_penalties, step // self.critic_steps), self.top(step))

  @abc.abstractmethod
  def top(self, step: int) -> int | None:
    """The highest level of the networks that is computed at `step`; None if they do not grow."""

  def init(self, key: jax.Array, batch: Batch) -> Variables:
    generator_key, discriminator_key = jax.random.split(key)
    embedded = self.conditioner.embed(batch.cond)
    z = jnp.zeros((batch.image.shape[0], self.generator.z_dim))
    noise = self.noise(rng.image_keys(key, batch.index))
    logits, discriminator = self.discriminator.init_with_output(discriminator_key, batch.image, embedded, True)
    images, generator = self.generator.init_with_output(generator_key, z, embedded, True, *noise)
    self.check_output_shapes(logits.shape, images.shape, batch.image.shape)
    variables = {'discriminator': discriminator, 'generator': generator}
    params = {name: v.pop('params') for name, v in variables.items()}
    buffers = {name: v for name, v in variables.items() if v}
    if hasattr(self.augment, 'init'):
      buffers['augment'] = self.augment.init()
    if self.generator_penalties:
      buffers['penalties'] = {name: penalty.init() for name, penalty in self.generator_penalties.items()}
    return Variables(params, buffers)

  def check_output_shapes(self, logits: tuple[int, ...], generated: tuple[int, ...], images: tuple[int, ...]) -> None:
    """Raises UsageError unless the shapes of logits, [B] or [B, 1 + K], and of generated images fit the data's `images`."""
    expected = [images[:1]] + ([(images[0], 1 + classes)] if (classes := num_classes(self.conditioner)) else [])
    if logits not in expected:
      name, shapes = type(self.discriminator).__name__, ' or '.join(f'{list(shape)}' for shape in expected)
      raise UsageError(
        f'objective.discriminator: {name} returns {list(logits)} for {images[0]} images, but must return {shapes}: '
        'a logit of each image, and logits of its classes if it predicts them.'
      )
    if generated != images:
      name = type(self.generator).__name__
      raise UsageError(
        f'objective.generator: {name} generates images {list(generated[1:])}, but the data have {list(images[1:])}.'
      )

  def discriminator_loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """L_D, and the penalties."""
    embedded = self.conditioner.embed(batch.cond)
    fake, _ = self.generate(params, context.buffers, keys, embedded)
    real_keys, fake_keys, penalty_keys = (rng.fold_in(keys, i) for i in (1, 2, 3))
    seen = [self.augmented(k, x, context.buffers) for k, x in ((real_keys, batch.image), (fake_keys, fake))]
    if self.uses_batch_statistics(context.buffers):  # real and generated batches have their own statistics (1511.06434)
      real, buffers = self.discriminate(params, context.buffers, seen[0], embedded)
      generated, buffers = self.discriminate(params, context.buffers | buffers, seen[1], embedded)
    else:  # one pass over pairs, so that several devices reduce one gradient
      pairs = jnp.stack(seen, axis=1).reshape(-1, *fake.shape[1:])  # [2 B, H, W, C]
      both = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), embedded)
      output, buffers = self.discriminate(params, context.buffers, pairs, both)
      real, generated = (jax.tree.map(lambda x, i=i: x[i::2], output) for i in (0, 1))
    logits = real.logits, generated.logits
    loss = self.loss.discriminator(*logits)
    metrics = {'d_real': real.logits.mean(), 'd_fake': generated.logits.mean()}
    if real.classes is not None:
      metrics['d_classes'] = class_error(real, embedded) + class_error(generated, embedded)
      loss += self.auxiliary * metrics['d_classes']

    def critic(images, keys):
      return self.discriminate(params, context.buffers, self.augmented(keys, images, context.buffers), embedded)[0].logits

    if self.penalties and 'batch_stats' in context.buffers.get('discriminator', {}):
      kind, name = type(self.discriminator).__name__, next(iter(self.penalties))
      raise UsageError(
        f'objective.penalties.{name} needs independent images, but {kind} normalizes over the batch: set its norm.'
      )
    loss, values = penalized(loss, self.penalties, context, critic, batch.image, fake, penalty_keys)
    metrics |= values
    if 'augment' in context.buffers:
      buffers['augment'] = self.augment.update(context.buffers['augment'], self.loss.ada_signal(*logits), context.batch_size)
      metrics['augment_p'] = context.buffers['augment']['p']
    return loss, Aux(metrics, buffers)

  def generator_loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """L_G, and the penalties."""
    embedded = self.conditioner.embed(batch.cond)
    fake, buffers = self.generate(params, context.buffers, keys, embedded)
    real_keys, fake_keys, penalty_keys = (rng.fold_in(keys, i) for i in (1, 2, 3))
    generated, _ = self.discriminate(params, context.buffers, self.augmented(fake_keys, fake, context.buffers), embedded)
    real = None
    if self.loss.paired:
      seen = self.augmented(real_keys, batch.image, context.buffers)
      real = self.discriminate(params, context.buffers, seen, embedded)[0].logits
    loss, metrics = self.loss.generator(real, generated.logits), {}
    if generated.classes is not None:
      loss += self.auxiliary * class_error(generated, embedded)
    memories = {}
    for i, (name, penalty) in enumerate(self.generator_penalties.items()):
      if is_due(name, penalty, context):
        stream, noise = (rng.fold_in(rng.fold_in(penalty_keys, i), j) for j in (0, 1))
        latents, generate = self.map_of(params, context.buffers, stream, noise, embedded, penalty.wrt_w)
        value, memories[name] = penalty(generate, latents, rng.fold_in(stream, 1), context.buffers['penalties'][name])
        metrics[f'generator/{name}'] = value
        loss += penalty.every * value
    if memories:
      buffers['penalties'] = context.buffers['penalties'] | memories
    return loss, Aux(metrics, buffers)

  def sample(self, variables: Variables, keys: Keys, cond: Cond, *, truncation: float = 1.0) -> Images:
    """G(z), z ~ N(0, I), with running batch statistics. Missing fields of `cond` are drawn.

    `truncation` below 1 trades variety for quality: it scales z, or the deviation of w from its mean if there is a mapping.
    Raises UsageError if it is negative, or if it is not 1 and the generator normalizes z.
    """
    embedded = self.conditioner.embed(complete(self.conditioner, cond, keys))
    return jnp.clip(self.from_latents(variables, self.latents(keys), embedded, keys, truncation), -1, 1)

  def latents(self, keys: Keys) -> Float[Array, 'b z']:
    """z as `sample` draws it."""
    return rng.normal(rng.fold_in(keys, 0), (self.generator.z_dim,))

  def from_latents(
    self, variables: Variables, z: Float[Array, 'b z'], embedded: Cond, keys: Keys, truncation: float = 1.0
  ) -> Images:
    """The images of latents z; `keys` are for noise in the network, if it has any."""
    if not isinstance(self.generator, HasStyles):
      self.check_truncation(truncation)
      return self.generator.apply(collections(variables, 'generator'), truncation * z, embedded, False, *self.noise(keys))
    return self.from_styles(variables, self.styles(variables, z, embedded, truncation), keys)

  def styles(self, variables: Variables, z: Float[Array, 'b z'], embedded: Cond, truncation: float = 1.0):
    """w [B, w_dim] of a generator with a mapping."""
    self.check_truncation(truncation)
    return self.generator.apply(collections(variables, 'generator'), z, embedded, truncation, method='mapping')

  def check_truncation(self, truncation: float) -> None:
    """Raises UsageError if latents cannot be scaled by `truncation`; traced values are not checked."""
    check_scale('truncation', truncation)
    if getattr(self.generator, 'normalizes', False) and isinstance(truncation, int | float) and truncation != 1:
      raise UsageError(
        f'truncation={truncation} has no effect with {type(self.generator).__name__}, which normalizes z: use 1.'
      )

  def from_styles(self, variables: Variables, w: Float[Array, 'b w'] | Float[Array, 'b l w'], keys: Keys) -> Images:
    """The images of w, which may have one w per layer."""
    return self.generator.apply(collections(variables, 'generator'), w, *self.noise(keys), method='synthesis')

  def map_of(self, params: dict, buffers: dict, keys: Keys, noise: Keys, embedded: Cond, wrt_w: bool):
    """Latents of the batch (w if `wrt_w` and there is a mapping, else z), and the map from them to images."""
    variables, z = Variables(params, buffers), rng.normal(keys, (self.generator.z_dim,))
    if not (wrt_w and isinstance(self.generator, HasStyles)):
      return z, lambda z: self.from_latents(variables, z, embedded, noise)
    return self.styles(variables, z, embedded), lambda w: self.from_styles(variables, w, noise)

  def noise(self, keys: Keys) -> tuple[Keys, ...]:
    """Additional arguments of the generator: keys if it has a noise input, else nothing."""
    return (rng.fold_in(keys, 4),) if getattr(self.generator, 'has_noise_input', False) else ()

  def uses_batch_statistics(self, buffers: dict) -> bool:
    """Whether the discriminator's output for an image depends on the others of its batch."""
    return 'batch_stats' in buffers.get('discriminator', {}) or getattr(self.discriminator, 'uses_batch_statistics', False)

  def augmented(self, keys: Keys, images: Images, buffers: dict) -> Images:
    return images if self.augment is None else self.augment(keys, images, buffers.get('augment'))

  def generate(self, params: dict, buffers: dict, keys: Keys, embedded: Cond):
    """Images from fresh latents, in training mode, and the generator's new buffers."""
    z = rng.normal(keys, (self.generator.z_dim,))
    return self.apply('generator', params, buffers, z, embedded, True, *self.noise(keys))

  def discriminate(self, params: dict, buffers: dict, images: Images, embedded: Cond) -> tuple[DiscriminatorOutput, dict]:
    """The discriminator's output in training mode, and its new buffers."""
    out, buffers = self.apply('discriminator', params, buffers, images, embedded, True)
    return DiscriminatorOutput(out, None) if out.ndim == 1 else DiscriminatorOutput(out[:, 0], out[:, 1:]), buffers

  def apply(self, name: str, params: dict, buffers: dict, *inputs):
    """Applies a player's network; returns its output, and its new buffers under its name."""
    mine = buffers.get(name, {})
    out, new = getattr(self, name).apply({'params': params[name], **mine}, *inputs, mutable=list(mine))
    return out, ({name: new} if mine else {})


def collections(variables: Variables, name: str) -> dict:
  """A player's variables as collections of linen."""
  return {'params': variables.params[name], **variables.buffers.get(name, {})}


def due(penalties: Mapping[str, Penalty], time: int) -> tuple[str, ...]:
  """The lazy penalties that are due at the `time`-th step of a player, from 0."""
  return tuple(name for name, penalty in penalties.items() if penalty.every > 1 and time % penalty.every == 0)


def penalized(
  loss: Float[Array, ''],
  penalties: Mapping[str, Penalty],
  context: Context,
  critic: Critic,
  real: Images,
  fake: Images,
  keys: Keys,
  stream: int = 0,
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """A discriminator's loss with the penalties that count at this step, and their values, to log.

  Those of the i-th penalty are drawn from stream `stream` + i of the images' keys.
  """
  values = {}
  for i, (name, penalty) in enumerate(penalties.items(), start=stream):
    if is_due(name, penalty, context):
      values[f'discriminator/{name}'] = penalty(critic, real, fake, rng.fold_in(keys, i))
      loss += penalty.every * values[f'discriminator/{name}']
  return loss, values


def is_due(name: str, penalty: Penalty, context: Context) -> bool:
  """Whether a penalty is used at this step."""
  return penalty.every == 1 or name in context.plan.penalties


def class_error(output: DiscriminatorOutput, embedded: Cond) -> Float[Array, '']:
  """Cross-entropy of the predicted classes, nats."""
  return optax.softmax_cross_entropy(output.classes, embedded['label']).mean()


@dataclasses.dataclass(frozen=True)
class GAN(AdversarialGame):
  """A GAN of two networks of fixed size."""

  grows: ClassVar[bool] = False

  def top(self, step: int) -> None:
    return None
