"""Generative adversarial network (Goodfellow et al. 1406.2661): a game of two, put together from parts that know nothing of it.

The parts: two networks, what they play for (genjax/objectives/gan/losses.py), what keeps them steady
(genjax/objectives/gan/penalties.py), and what is done to the images that the discriminator sees
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
from genjax.objectives.gan.penalties import GeneratorPenalty, Penalty
from genjax.types import Aux, Batch, Cond, Conditioner, Context, Images, Keys, Player, Variables


class DiscriminatorOutput(NamedTuple):
  """Logits [B], and of the classes [B, K] if the discriminator classifies, too."""

  logits: Float[Array, 'b']
  classes: Float[Array, 'b k'] | None


class Plan(NamedTuple):
  """What of a player's loss counts at a step."""

  penalties: tuple[str, ...] = ()  # those due, of the lazy ones
  top: int | None = None  # of networks that grow, the highest level that is computed


@dataclasses.dataclass(frozen=True)
class AdversarialGame(abc.ABC):
  """Abstract: the discriminator learns real from generated, then the generator learns to be taken for real.

  `generator(z, cond, train) -> image`, `discriminator(x, cond, train) -> logit` [B], or [B, 1 + K] of which the others
  classify (AC-GAN, 1610.09585). A generator with `has_noise_input` takes keys [B] after these, one with a `mapping` and a
  `synthesis` has w in between. A discriminator with `uses_batch_statistics` judges an image by the others of its batch. What
  networks keep beside parameters, such as batch statistics, are buffers under the same names. Conditions, if any, are the real
  images' own (1411.1784).

  Penalties are named in the config and in the logs; see genjax/objectives/gan/penalties.py for what they are called with.
  """

  generator: nn.Module
  discriminator: nn.Module
  conditioner: Conditioner = Unconditional()  # noqa: RUF009 - frozen
  loss: Adversarial = NonSaturating()  # noqa: RUF009 - frozen
  penalties: Mapping[str, Penalty] = FrozenDict()  # on the discriminator
  generator_penalties: Mapping[str, GeneratorPenalty] = FrozenDict()
  augment: Callable | None = None
  critic_steps: int = 1  # of the discriminator, for each of the generator
  auxiliary: float = 1.0  # weight of the classes, if the discriminator predicts them

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
      raise UsageError(f'objective.augment: {kind} does not augment, take DiffAugment or AdaptiveAugment.')
    if self.auxiliary != 1 and getattr(self.discriminator, 'conditioning', 'classifier') != 'classifier':
      raise UsageError(
        f"objective.auxiliary={self.auxiliary}: this discriminator predicts no classes, set its conditioning='classifier'."
      )
    if getattr(self.discriminator, 'conditioning', '') == 'classifier' and not num_classes(self.conditioner):
      raise UsageError(
        "objective.discriminator.conditioning='classifier' needs classes: set objective.conditioner to conditioners.ClassLabel."
      )
    for player in ('generator', 'discriminator'):
      check_no_dropout(getattr(self, player), player, 'GAN')
      if hasattr(getattr(self, player), 'top') != self.grows:
        kind = type(getattr(self, player)).__name__
        wrong = f'does not grow, take Progressive{player.title()}' if self.grows else 'grows, take objective ProgressiveGAN'
        raise UsageError(f'objective.{player}: {kind} {wrong}.')
    for field, player in (('penalties', 'discriminator'), ('generator_penalties', 'generator')):
      for name, penalty in getattr(self, field).items():
        if not isinstance(penalty, Penalty) or isinstance(penalty, GeneratorPenalty) != (player == 'generator'):
          raise UsageError(f'objective.{field}.{name} is {type(penalty).__name__}, no penalty on the {player}.')
        if not name.isidentifier() or name in ('loss', 'grad_norm'):
          raise UsageError(f'objective.{field}: {name!r} is no name for a penalty, which is logged as {player}/{name}.')
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
    """The generator plays at each `critic_steps`-th step, and its penalties count at each `every`-th of these."""
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
    self.check_answers(logits.shape, images.shape, batch.image.shape)
    variables = {'discriminator': discriminator, 'generator': generator}
    params = {name: v.pop('params') for name, v in variables.items()}
    buffers = {name: v for name, v in variables.items() if v}
    if hasattr(self.augment, 'init'):
      buffers['augment'] = self.augment.init()
    if self.generator_penalties:
      buffers['penalties'] = {name: penalty.init() for name, penalty in self.generator_penalties.items()}
    return Variables(params, buffers)

  def check_answers(self, logits: tuple[int, ...], made: tuple[int, ...], images: tuple[int, ...]) -> None:
    """Raises UsageError unless `logits` [B] or [B, 1 + K] and images `made` [B, H, W, C], shapes, fit the data's `images`."""
    wanted = [images[:1]] + ([(images[0], 1 + classes)] if (classes := num_classes(self.conditioner)) else [])
    if logits not in wanted:
      name, read = type(self.discriminator).__name__, ' or '.join(f'{list(shape)}' for shape in wanted)
      raise UsageError(
        f'objective.discriminator: {name} answers {list(logits)} of {images[0]} images, a GAN reads {read}: '
        'a logit of each image, and of its classes if it classifies.'
      )
    if made != images:
      name = type(self.generator).__name__
      raise UsageError(f'objective.generator: {name} makes images {list(made[1:])}, the data have {list(images[1:])}.')

  def discriminator_loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """The loss's L_D, and the penalties."""
    embedded = self.conditioner.embed(batch.cond)
    fake, _ = self.generate(params, context.buffers, keys, embedded)
    real_keys, fake_keys, penalty_keys = (rng.fold_in(keys, i) for i in (1, 2, 3))
    seen = [self.augmented(k, x, context.buffers) for k, x in ((real_keys, batch.image), (fake_keys, fake))]
    if self.uses_batch_statistics(context.buffers):  # real and generated batches have their own statistics (1511.06434)
      real, buffers = self.judge(params, context.buffers, seen[0], embedded)
      generated, buffers = self.judge(params, context.buffers | buffers, seen[1], embedded)
    else:  # one pass over pairs: one gradient to reduce where devices are many
      pairs = jnp.stack(seen, axis=1).reshape(-1, *fake.shape[1:])  # [2 B, H, W, C]
      both = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), embedded)
      output, buffers = self.judge(params, context.buffers, pairs, both)
      real, generated = (jax.tree.map(lambda x, i=i: x[i::2], output) for i in (0, 1))
    logits = real.logits, generated.logits
    loss = self.loss.discriminator(*logits)
    metrics = {'d_real': real.logits.mean(), 'd_fake': generated.logits.mean()}
    if real.classes is not None:
      metrics['d_classes'] = class_error(real, embedded) + class_error(generated, embedded)
      loss += self.auxiliary * metrics['d_classes']

    def critic(images, keys):
      return self.judge(params, context.buffers, self.augmented(keys, images, context.buffers), embedded)[0].logits

    for i, (name, penalty) in enumerate(self.penalties.items()):
      if is_due(name, penalty, context):
        if 'batch_stats' in context.buffers.get('discriminator', {}):
          kind = type(self.discriminator).__name__
          raise UsageError(
            f'objective.penalties.{name} is of each image alone, but {kind} normalizes over the batch: set its norm.'
          )
        metrics[f'discriminator/{name}'] = penalty(critic, batch.image, fake, rng.fold_in(penalty_keys, i))
        loss += penalty.every * metrics[f'discriminator/{name}']
    if 'augment' in context.buffers:
      buffers['augment'] = self.augment.update(context.buffers['augment'], self.loss.ada_signal(*logits), context.batch_size)
      metrics['augment_p'] = context.buffers['augment']['p']
    return loss, Aux(metrics, buffers)

  def generator_loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """The loss's L_G, and the penalties."""
    embedded = self.conditioner.embed(batch.cond)
    fake, buffers = self.generate(params, context.buffers, keys, embedded)
    real_keys, fake_keys, penalty_keys = (rng.fold_in(keys, i) for i in (1, 2, 3))
    generated, _ = self.judge(params, context.buffers, self.augmented(fake_keys, fake, context.buffers), embedded)
    real = None
    if self.loss.paired:
      seen = self.augmented(real_keys, batch.image, context.buffers)
      real = self.judge(params, context.buffers, seen, embedded)[0].logits
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
    """G(z), z ~ N(0, I), with running batch statistics. Fields that `cond` lacks are drawn.

    `truncation` below 1 gives up variety for quality: z is scaled by it (w around its mean where there is a mapping).
    Raises UsageError for a negative one, and for another than 1 where the generator normalizes z.
    """
    embedded = self.conditioner.embed(complete(self.conditioner, cond, keys))
    return jnp.clip(self.from_latents(variables, self.latents(keys), embedded, keys, truncation), -1, 1)

  def latents(self, keys: Keys) -> Float[Array, 'b z']:
    """z as `sample` draws it."""
    return rng.normal(rng.fold_in(keys, 0), (self.generator.z_dim,))

  def from_latents(
    self, variables: Variables, z: Float[Array, 'b z'], embedded: Cond, keys: Keys, truncation: float = 1.0
  ) -> Images:
    """The images of given latents; `keys` for noise in the network, if it has any."""
    if not hasattr(self.generator, 'synthesis'):
      self.check_truncation(truncation)
      return self.generator.apply(collections(variables, 'generator'), truncation * z, embedded, False, *self.noise(keys))
    return self.from_styles(variables, self.styles(variables, z, embedded, truncation), keys)

  def styles(self, variables: Variables, z: Float[Array, 'b z'], embedded: Cond, truncation: float = 1.0):
    """w [B, w_dim] of a generator with a mapping."""
    self.check_truncation(truncation)
    return self.generator.apply(collections(variables, 'generator'), z, embedded, truncation, method='mapping')

  def check_truncation(self, truncation: float) -> None:
    """Raises UsageError if latents cannot be `truncation` times as long; a traced one is believed."""
    check_scale('truncation', truncation)
    if getattr(self.generator, 'normalizes', False) and isinstance(truncation, int | float) and truncation != 1:
      raise UsageError(f'truncation={truncation}: {type(self.generator).__name__} normalizes z, there is no length to scale.')

  def from_styles(self, variables: Variables, w: Float[Array, 'b w'] | Float[Array, 'b l w'], keys: Keys) -> Images:
    """The images of w, or of one w for each layer."""
    return self.generator.apply(collections(variables, 'generator'), w, *self.noise(keys), method='synthesis')

  def map_of(self, params: dict, buffers: dict, keys: Keys, noise: Keys, embedded: Cond, wrt_w: bool):
    """Latents of the batch, w if it is asked for and there is a mapping, and the map from them to images, image by image."""
    variables, z = Variables(params, buffers), rng.normal(keys, (self.generator.z_dim,))
    if not (wrt_w and hasattr(self.generator, 'synthesis')):
      return z, lambda z: self.from_latents(variables, z, embedded, noise)
    return self.styles(variables, z, embedded), lambda w: self.from_styles(variables, w, noise)

  def noise(self, keys: Keys) -> tuple[Keys, ...]:
    """What the generator takes beside latents and conditions."""
    return (rng.fold_in(keys, 4),) if getattr(self.generator, 'has_noise_input', False) else ()

  def uses_batch_statistics(self, buffers: dict) -> bool:
    """Whether the discriminator judges an image by the others of its batch."""
    return 'batch_stats' in buffers.get('discriminator', {}) or getattr(self.discriminator, 'uses_batch_statistics', False)

  def augmented(self, keys: Keys, images: Images, buffers: dict) -> Images:
    return images if self.augment is None else self.augment(keys, images, buffers.get('augment'))

  def generate(self, params: dict, buffers: dict, keys: Keys, embedded: Cond):
    """Images from fresh latents, in training mode, and the generator's new buffers."""
    z = rng.normal(keys, (self.generator.z_dim,))
    return self.apply('generator', params, buffers, z, embedded, True, *self.noise(keys))

  def judge(self, params: dict, buffers: dict, images: Images, embedded: Cond) -> tuple[DiscriminatorOutput, dict]:
    """The discriminator's output in training mode, and its new buffers."""
    out, buffers = self.apply('discriminator', params, buffers, images, embedded, True)
    return DiscriminatorOutput(out, None) if out.ndim == 1 else DiscriminatorOutput(out[:, 0], out[:, 1:]), buffers

  def apply(self, name: str, params: dict, buffers: dict, *inputs):
    """A player's network: its output, and its new buffers under its name."""
    mine = buffers.get(name, {})
    out, new = getattr(self, name).apply({'params': params[name], **mine}, *inputs, mutable=list(mine))
    return out, ({name: new} if mine else {})


def collections(variables: Variables, name: str) -> dict:
  """A player's variables as linen takes them."""
  return {'params': variables.params[name], **variables.buffers.get(name, {})}


def due(penalties: Mapping[str, Penalty], time: int) -> tuple[str, ...]:
  """The lazy penalties that count at the `time`-th time that a player plays, from 0."""
  return tuple(name for name, penalty in penalties.items() if penalty.every > 1 and time % penalty.every == 0)


def is_due(name: str, penalty: Penalty, context: Context) -> bool:
  """Whether a penalty counts at this step."""
  return penalty.every == 1 or name in context.plan.penalties


def class_error(output: DiscriminatorOutput, embedded: Cond) -> Float[Array, '']:
  """Cross-entropy of the predicted classes, nats."""
  return optax.softmax_cross_entropy(output.classes, embedded['label']).mean()


@dataclasses.dataclass(frozen=True)
class GAN(AdversarialGame):
  """A game between two networks of fixed size."""

  grows: ClassVar[bool] = False

  def top(self, step: int) -> None:
    return None
