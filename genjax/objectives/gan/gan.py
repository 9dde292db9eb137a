"""Generative adversarial network (Goodfellow et al. 1406.2661): a game of two, put together from parts that know nothing of it.

The parts: two networks, what they play for (genjax/objectives/gan/losses.py), what keeps them steady
(genjax/objectives/gan/penalties.py), and what is done to the images that the discriminator sees
(genjax/objectives/gan/augment.py).
"""

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
from genjax.errors import UsageError
from genjax.objectives.common import check_no_dropout, check_scale, labels_or_random, one_hot
from genjax.objectives.gan.losses import Adversarial, NonSaturating
from genjax.objectives.gan.penalties import GeneratorPenalty, Penalty
from genjax.types import Aux, Batch, Context, Images, Keys, Labels, Player, Variables


class Answers(NamedTuple):
  """A discriminator's: logits [B], and of the classes [B, K] if it classifies, too."""

  logits: Float[Array, 'b']
  classes: Float[Array, 'b k'] | None


@dataclasses.dataclass(frozen=True)
class GAN:
  """The discriminator learns real from generated, then the generator learns to be taken for real.

  `generator(z, label, train) -> image`, `discriminator(x, label, train) -> logit` [B], or [B, 1 + K] of which the others
  classify (AC-GAN, 1610.09585). A generator whose field or attribute `noisy` is true takes keys [B] after these, one with a
  `mapping` and a `synthesis` has w in between. A discriminator that says `mixes_images` judges an image by the others of its
  batch. What networks keep beside parameters, such as batch statistics, are buffers under the same names. Labels, if any, are
  the real images' own (1411.1784).

  Penalties are named in the config and in the logs; see genjax/objectives/gan/penalties.py for what they are called with.
  """

  generator: nn.Module
  discriminator: nn.Module
  num_classes: int = 0  # 0: unconditional
  loss: Adversarial = NonSaturating()  # noqa: RUF009 - frozen
  penalties: Mapping[str, Penalty] = FrozenDict()  # on the discriminator
  generator_penalties: Mapping[str, GeneratorPenalty] = FrozenDict()
  augment: Callable | None = None
  critic_steps: int = 1  # of the discriminator, for each of the generator
  auxiliary: float = 1.0  # weight of the classes, if the discriminator tells them
  grows: ClassVar[bool] = False

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
        f"objective.auxiliary={self.auxiliary}: this discriminator tells no classes, set its conditioning='classifier'."
      )
    if getattr(self.discriminator, 'conditioning', '') == 'classifier' and not self.num_classes:
      raise UsageError("objective.discriminator.conditioning='classifier' needs classes: set objective.num_classes.")
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
    def lazy(penalties, every):
      due = lambda step, penalty: penalty.every > 1 and step // every % penalty.every == 0  # noqa: E731 - each time it plays
      return lambda step: tuple(name for name, penalty in penalties.items() if due(step, penalty))

    return {
      'discriminator': Player(self.discriminator_loss, terms=lazy(self.penalties, 1)),
      'generator': Player(self.generator_loss, self.critic_steps, lazy(self.generator_penalties, self.critic_steps)),
    }

  def init(self, key: jax.Array, batch: Batch) -> Variables:
    generator_key, discriminator_key = jax.random.split(key)
    label = one_hot(batch.label, self.num_classes)
    z = jnp.zeros((batch.image.shape[0], self.generator.z_dim))
    more = self.noise(rng.image_keys(key, batch.index))
    logits, discriminator = self.discriminator.init_with_output(discriminator_key, batch.image, label, True)
    images, generator = self.generator.init_with_output(generator_key, z, label, True, *more)
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
    wanted = [images[:1]] + ([(images[0], 1 + self.num_classes)] if self.num_classes else [])
    if logits not in wanted:
      name, read = type(self.discriminator).__name__, ' or '.join(f'{list(shape)}' for shape in wanted)
      raise UsageError(
        f'objective.discriminator: {name} answers {list(logits)} of {images[0]} images, a GAN reads {read}: '
        'a logit of each image, and of its classes if they are told.'
      )
    if made != images:
      name = type(self.generator).__name__
      raise UsageError(f'objective.generator: {name} makes images {list(made[1:])}, the data have {list(images[1:])}.')

  def discriminator_loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """The loss's L_D, and the penalties."""
    label = one_hot(batch.label, self.num_classes)
    fake, _ = self.generate(params, context.buffers, keys, label)
    real_keys, fake_keys, penalty_keys = (rng.fold_in(keys, i) for i in (1, 2, 3))
    seen = [self.augmented(k, x, context.buffers) for k, x in ((real_keys, batch.image), (fake_keys, fake))]
    if self.mixes_images(context.buffers):  # real and generated batches have their own statistics (1511.06434)
      real, buffers = self.judge(params, context.buffers, seen[0], label)
      generated, buffers = self.judge(params, context.buffers | buffers, seen[1], label)
    else:  # one pass over pairs: one gradient to reduce where devices are many
      pairs = jnp.stack(seen, axis=1).reshape(-1, *fake.shape[1:])  # [2 B, H, W, C]
      both = None if label is None else jnp.repeat(label, 2, axis=0)
      answers, buffers = self.judge(params, context.buffers, pairs, both)
      real, generated = (jax.tree.map(lambda x, i=i: x[i::2], answers) for i in (0, 1))
    logits = real.logits, generated.logits
    loss = self.loss.discriminator(*logits)
    metrics = {'d_real': real.logits.mean(), 'd_fake': generated.logits.mean()}
    if real.classes is not None:
      metrics['d_classes'] = class_error(real, label) + class_error(generated, label)
      loss += self.auxiliary * metrics['d_classes']

    def critic(images, keys):
      return self.judge(params, context.buffers, self.augmented(keys, images, context.buffers), label)[0].logits

    for i, (name, penalty) in enumerate(self.penalties.items()):
      if counts('discriminator', name, penalty, context):
        if 'batch_stats' in context.buffers.get('discriminator', {}):
          kind = type(self.discriminator).__name__
          raise UsageError(
            f'objective.penalties.{name} is of each image alone, but {kind} normalises over the batch: set its norm.'
          )
        metrics[f'discriminator/{name}'] = penalty(critic, batch.image, fake, rng.fold_in(penalty_keys, i))
        loss += penalty.every * metrics[f'discriminator/{name}']
    if 'augment' in context.buffers:
      buffers['augment'] = self.augment.update(context.buffers['augment'], self.loss.sureness(*logits), context.batch_size)
      metrics['augment_p'] = context.buffers['augment']['p']
    return loss, Aux(metrics, buffers)

  def generator_loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """The loss's L_G, and the penalties."""
    label = one_hot(batch.label, self.num_classes)
    fake, buffers = self.generate(params, context.buffers, keys, label)
    real_keys, fake_keys, penalty_keys = (rng.fold_in(keys, i) for i in (1, 2, 3))
    generated, _ = self.judge(params, context.buffers, self.augmented(fake_keys, fake, context.buffers), label)
    real = None
    if self.loss.paired:
      seen = self.augmented(real_keys, batch.image, context.buffers)
      real = self.judge(params, context.buffers, seen, label)[0].logits
    loss, metrics = self.loss.generator(real, generated.logits), {}
    if generated.classes is not None:
      loss += self.auxiliary * class_error(generated, label)
    memories = {}
    for i, (name, penalty) in enumerate(self.generator_penalties.items()):
      if counts('generator', name, penalty, context):
        stream, noise = (rng.fold_in(rng.fold_in(penalty_keys, i), j) for j in (0, 1))
        latents, generate = self.map_of(params, context.buffers, stream, noise, label, penalty.of_styles)
        value, memories[name] = penalty(generate, latents, rng.fold_in(stream, 1), context.buffers['penalties'][name])
        metrics[f'generator/{name}'] = value
        loss += penalty.every * value
    if memories:
      buffers['penalties'] = context.buffers['penalties'] | memories
    return loss, Aux(metrics, buffers)

  def sample(self, variables: Variables, keys: Keys, labels: Labels | None = None, *, truncation: float = 1.0) -> Images:
    """G(z), z ~ N(0, I), with running batch statistics. A conditional model without labels draws them.

    `truncation` below 1 gives up variety for quality: z is scaled by it (w around its mean where there is a mapping).
    Raises UsageError for a negative one, and for another than 1 where the generator normalises z.
    """
    labels = labels_or_random(labels, keys, self.num_classes)
    z, label = self.latents(keys), one_hot(labels, self.num_classes)
    return jnp.clip(self.from_latents(variables, z, label, keys, truncation), -1, 1)

  def latents(self, keys: Keys) -> Float[Array, 'b z']:
    """z as `sample` draws it."""
    return rng.normal(rng.fold_in(keys, 0), (self.generator.z_dim,))

  def from_latents(
    self, variables: Variables, z: Float[Array, 'b z'], label: Float[Array, 'b k'] | None, keys: Keys, truncation: float = 1.0
  ) -> Images:
    """The images of latents that the caller chose; `keys` for noise in the network, if it has any."""
    if not hasattr(self.generator, 'synthesis'):
      self.check_truncation(truncation)
      return self.generator.apply(collections(variables, 'generator'), truncation * z, label, False, *self.noise(keys))
    return self.from_styles(variables, self.styles(variables, z, label, truncation), keys)

  def styles(self, variables: Variables, z: Float[Array, 'b z'], label: Float[Array, 'b k'] | None, truncation: float = 1.0):
    """w [B, w_dim] of a generator with a mapping."""
    self.check_truncation(truncation)
    return self.generator.apply(collections(variables, 'generator'), z, label, truncation, method='mapping')

  def check_truncation(self, truncation: float) -> None:
    """Raises UsageError if latents cannot be `truncation` times as long; a traced one is believed."""
    check_scale('truncation', truncation)
    if getattr(self.generator, 'normalises', False) and isinstance(truncation, int | float) and truncation != 1:
      raise UsageError(f'truncation={truncation}: {type(self.generator).__name__} normalises z, there is no length to scale.')

  def from_styles(self, variables: Variables, w: Float[Array, 'b w'] | Float[Array, 'b l w'], keys: Keys) -> Images:
    """The images of w, or of one w for each layer."""
    return self.generator.apply(collections(variables, 'generator'), w, *self.noise(keys), method='synthesis')

  def map_of(self, params: dict, buffers: dict, keys: Keys, noise: Keys, label, of_styles: bool):
    """Latents of the batch, w if it is asked for and there is a mapping, and the map from them to images, image by image."""
    variables, z = Variables(params, buffers), rng.normal(keys, (self.generator.z_dim,))
    if not (of_styles and hasattr(self.generator, 'synthesis')):
      return z, lambda z: self.from_latents(variables, z, label, noise)
    return self.styles(variables, z, label), lambda w: self.from_styles(variables, w, noise)

  def noise(self, keys: Keys) -> tuple[Keys, ...]:
    """What the generator takes beside latent and label."""
    return (rng.fold_in(keys, 4),) if getattr(self.generator, 'noisy', False) else ()

  def mixes_images(self, buffers: dict) -> bool:
    """Whether the discriminator judges an image by the others of its batch."""
    return 'batch_stats' in buffers.get('discriminator', {}) or getattr(self.discriminator, 'mixes_images', False)

  def augmented(self, keys: Keys, images: Images, buffers: dict) -> Images:
    return images if self.augment is None else self.augment(keys, images, buffers.get('augment'))

  def generate(self, params: dict, buffers: dict, keys: Keys, label):
    """Images from fresh latents, in training mode, and the generator's new buffers."""
    z = rng.normal(keys, (self.generator.z_dim,))
    return self.apply('generator', params, buffers, z, label, True, *self.noise(keys))

  def judge(self, params: dict, buffers: dict, images: Images, label) -> tuple[Answers, dict]:
    """The discriminator's answers in training mode, and its new buffers."""
    out, buffers = self.apply('discriminator', params, buffers, images, label, True)
    return Answers(out, None) if out.ndim == 1 else Answers(out[:, 0], out[:, 1:]), buffers

  def apply(self, name: str, params: dict, buffers: dict, *inputs):
    """A player's network: its output, and its new buffers under its name."""
    mine = buffers.get(name, {})
    out, new = getattr(self, name).apply({'params': params[name], **mine}, *inputs, mutable=list(mine))
    return out, ({name: new} if mine else {})


def collections(variables: Variables, name: str) -> dict:
  """A player's variables as linen takes them."""
  return {'params': variables.params[name], **variables.buffers.get(name, {})}


def counts(player: str, name: str, penalty, context: Context) -> bool:
  """Whether a penalty counts at this step."""
  return penalty.every == 1 or f'{player}/{name}' in context.playing


def class_error(answers: Answers, label: Float[Array, 'b k']) -> Float[Array, '']:
  """Cross-entropy of the classes told, nats."""
  return optax.softmax_cross_entropy(answers.classes, label).mean()
