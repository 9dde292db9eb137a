"""A GAN that grows during training (Karras et al. 1710.10196, section 2)."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax.errors import UsageError
from genjax.networks.progressive import blended
from genjax.objectives.gan.gan import AdversarialGame
from genjax.types import Batch, Context


@dataclasses.dataclass(frozen=True)
class ProgressiveGAN(AdversarialGame):
  """A GAN of a ProgressiveGenerator and a ProgressiveDiscriminator (genjax/networks/progressive.py).

  Each level is held for `hold_steps`, then the next fades in over `fade_steps`. The step is compiled once per level, and
  computes only levels that have started. The state has the parameters of all levels from the start.
  """

  hold_steps: int = 1000
  fade_steps: int = 1000
  grows: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    if min(self.hold_steps, self.fade_steps) < 1:
      raise UsageError(f'objective.hold_steps={self.hold_steps}, fade_steps={self.fade_steps}: both must be 1 or more.')

  @property
  def grown_at(self) -> int:
    """The first step at which all levels are used."""
    return self.generator.levels * (self.hold_steps + self.fade_steps)

  def growth(self, step) -> Float[Array, '']:
    """The level at `step`, an integer while a level is held."""
    stage = self.hold_steps + self.fade_steps
    whole = jnp.floor_divide(step, stage)
    fading = jnp.maximum(step - whole * stage - self.hold_steps, 0) / self.fade_steps
    return jnp.minimum((whole + fading).astype(jnp.float32), float(self.generator.levels))

  def top(self, step: int) -> int:
    """The highest level that has started at `step`."""
    stage = self.hold_steps + self.fade_steps
    return min(step // stage + (step % stage > self.hold_steps), self.generator.levels)

  def discriminator_loss(self, params: dict, context: Context, batch: Batch, keys):
    return AdversarialGame.discriminator_loss(*self.grown(params, context, batch), keys)

  def generator_loss(self, params: dict, context: Context, batch: Batch, keys):
    return AdversarialGame.generator_loss(*self.grown(params, context, batch), keys)

  def grown(self, params: dict, context: Context, batch: Batch) -> tuple['ProgressiveGAN', dict, Context, Batch]:
    """The arguments at this step: networks up to the current level, `growth` in their buffers, and blended real images."""
    growth = self.growth(context.step)
    parts = {name: getattr(self, name).clone(top=context.plan.top) for name in ('generator', 'discriminator')}
    buffers = {name: context.buffers[name] | {'growth': {'level': growth}} for name in parts}
    batch = batch._replace(image=blended(batch.image, growth, self.generator.levels))
    return dataclasses.replace(self, **parts), params, context._replace(buffers=context.buffers | buffers), batch
