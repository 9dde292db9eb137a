"""One optax chain per player, and the average of parameters that is sampled from.

Any optimizer or schedule of optax can stand in a config by its name, `spec('optax.lion', learning_rate=1e-4)`; `chain` adds
clipping and skipping to one. A schedule counts the player's own updates: a player that plays at each fifth step makes a fifth
as many as the run has steps.
"""

import dataclasses
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from genjax.errors import UsageError
from genjax.types import Tree


def adam(
  learning_rate: float | optax.Schedule,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  weight_decay: float = 0.0,  # decoupled, as in AdamW (1711.05101)
  clip: float = 0.0,  # global norm of the gradient, 0: off
  skip: float = 0.0,  # global norm above which nothing is updated, 0: off
) -> optax.GradientTransformation:
  """Adam (1412.6980) with decoupled weight decay, clipping of the gradient's global norm, and gradients that are skipped
  (2011.10650, section 3.2). Negative rates are refused."""
  if weight_decay < 0 or (isinstance(learning_rate, float) and learning_rate < 0):
    raise UsageError(f'optim.adam: learning_rate={learning_rate} and weight_decay={weight_decay} must not be negative.')
  if not (0 <= b1 < 1 and 0 <= b2 < 1 and eps > 0):
    raise UsageError(f'optim.adam: b1={b1} and b2={b2} must be in [0, 1), eps={eps} positive.')
  return chain(optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay), clip, skip)


def chain(
  optimizer: optax.GradientTransformation,
  clip: float = 0.0,  # global norm of the gradient, 0: off
  skip: float = 0.0,  # global norm above which nothing is updated, 0: off
) -> optax.GradientTransformation:
  """An optimizer after clipping of the gradient's global norm, with the skipping of `skip_large_updates`.

  Raises UsageError for negative norms.
  """
  for name, norm in (('clip', clip), ('skip', skip)):
    if norm < 0:
      raise UsageError(f'optim: {name}={norm} must not be negative.')
  clipped = optax.chain(*([optax.clip_by_global_norm(clip)] if clip else []), optimizer)
  return skip_large_updates(clipped, skip) if skip else clipped


class Skipping(NamedTuple):
  skipped: Int[Array, '']  # updates so far
  inner: optax.OptState


def skip_large_updates(inner: optax.GradientTransformation, max_norm: float) -> optax.GradientTransformation:
  """Skips the whole update when the global gradient norm exceeds `max_norm`: neither parameters nor moments move."""

  def init(params):
    return Skipping(jnp.zeros((), jnp.int32), inner.init(params))

  def update(grads, state, params=None):
    fine = optax.tree.norm(grads) <= max_norm
    keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(fine, a, b), new, old)  # noqa: E731
    updates, after = inner.update(grads, state.inner, params)
    return keep(updates, optax.tree.zeros_like(updates)), Skipping(state.skipped + ~fine, keep(after, state.inner))

  return optax.GradientTransformation(init, update)


def rmsprop(
  learning_rate: float | optax.Schedule,
  decay: float = 0.9,
  eps: float = 1e-8,
  clip_weights: float = 0.0,  # largest absolute value of a parameter, 0: no bound
) -> optax.GradientTransformation:
  """RMSProp, for WGAN's critic with its weights clipped (1701.07875, algorithm 1). Negative rates are refused."""
  if clip_weights < 0 or (isinstance(learning_rate, float) and learning_rate < 0):
    raise UsageError(f'optim.rmsprop: learning_rate and clip_weights={clip_weights} must not be negative.')
  if not (0 <= decay < 1 and eps > 0):
    raise UsageError(f'optim.rmsprop: decay={decay} must be in [0, 1), eps={eps} positive.')
  step = optax.rmsprop(learning_rate, decay=decay, eps=eps)

  def clip(updates, params):
    return jax.tree.map(lambda u, p: jnp.clip(p + u, -clip_weights, clip_weights) - p, updates, params)

  return optax.chain(step, optax.stateless(clip)) if clip_weights else step


def constant(value: float, warmup: int = 0) -> optax.Schedule:
  """`value` after a linear rise from 0 over `warmup` updates."""
  check_schedule(value, warmup)
  return optax.linear_schedule(0.0, value, warmup) if warmup else optax.constant_schedule(value)


def cosine(peak: float, steps: int, warmup: int = 0, end: float = 0.0) -> optax.Schedule:
  """A linear rise to `peak` over `warmup` updates, then half a cosine down to `end` at update `steps` (1608.03983)."""
  check_schedule(peak, warmup)
  warmup = min(warmup, steps - 1)
  return optax.warmup_cosine_decay_schedule(0.0 if warmup else peak, peak, warmup, steps, end)


def check_schedule(rate: float, warmup: int) -> None:
  """Raises UsageError for a negative rate or warm-up."""
  if rate < 0 or warmup < 0:
    raise UsageError(f'a schedule with rate {rate} and warmup={warmup}: neither may be negative.')


class Average(Protocol):
  """An average of parameters over the training steps, used for sampling. A frozen dataclass."""

  def init(self, params: Tree) -> Tree:
    """The average before the first step, for a player's parameters."""
    ...

  def update(self, average: Tree, params: Tree, step: Int[Array, ''], batch_size: int) -> Tree:
    """The average after step `step` (from 0) of `batch_size` images, which resulted in `params`."""
    ...

  def select(self, average: Tree) -> Tree:
    """The averaged parameters."""
    ...


@dataclasses.dataclass(frozen=True)
class EMA:
  """Exponential moving average whose half-life is counted in images. Early it is held to 5 % of the images seen (as in EDM,
  2206.00364)."""

  halflife: float = 10_000.0  # images

  def __post_init__(self):
    if not 0 < self.halflife < float('inf'):
      raise UsageError(f'optim.EMA: halflife={self.halflife} must be positive; it is in images.')

  def decay(self, step: Int[Array, ''], batch_size: int) -> Float[Array, '']:
    """The decay of one step."""
    images_seen = (step + 1).astype(jnp.float32) * batch_size
    return 0.5 ** (batch_size / jnp.minimum(self.halflife, 0.05 * images_seen))

  def init(self, params: Tree) -> Tree:
    return params

  def update(self, average: Tree, params: Tree, step: Int[Array, ''], batch_size: int) -> Tree:
    decay = self.decay(step, batch_size)
    return jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), average, params)

  def select(self, average: Tree) -> Tree:
    return average


AVERAGE = EMA()  # by default
MAX_STD = 0.288  # of the profiles of power-function averages: gamma = 0 has 1 / sqrt(12)


class PowerAverages(NamedTuple):
  main: Tree  # of the inner average
  power: tuple[Tree, ...]  # one per standard deviation


@dataclasses.dataclass(frozen=True)
class PostHoc:
  """Another average, and power-function averages from which others can be reconstructed (2312.02696, section 3.1).

  The power-function average of step t weights the parameters of step s by a multiple of s^gamma. Its width is given by the
  standard deviation of this profile relative to t. See genjax/posthoc.py.
  """

  inner: Average = AVERAGE
  stds: tuple[float, ...] = (0.05, 0.1)  # relative standard deviations

  def init(self, params: Tree) -> PowerAverages:
    return PowerAverages(self.inner.init(params), tuple(params for _ in self.stds))

  def update(self, average: PowerAverages, params: Tree, step: Int[Array, ''], batch_size: int) -> PowerAverages:
    t = (step + 1).astype(jnp.float32)

    def updated(old, std):
      decay = (1 - 1 / t) ** (gamma_of_std(std) + 1)  # equation 3; 0 at the first step
      return jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), old, params)

    power = tuple(updated(old, std) for old, std in zip(average.power, self.stds, strict=True))
    return PowerAverages(self.inner.update(average.main, params, step, batch_size), power)

  def select(self, average: PowerAverages) -> Tree:
    return self.inner.select(average.main)


def gamma_of_std(std: float) -> float:
  """The exponent gamma of the profile s^gamma on [0, t] whose standard deviation is `std` t (2312.02696, section 3.1).

  The variance is (gamma + 1) / ((gamma + 2)^2 (gamma + 3)): gamma is the largest root of a cubic. Raises UsageError for a `std`
  that is not between 0 and that of the uniform profile, 0.288.
  """
  if not isinstance(std, float) or not 0 < std < MAX_STD:
    raise UsageError(f'ema={std!r}, the relative standard deviation of an average, must be above 0 and below {MAX_STD}.')
  return float(np.roots([1, 7, 16 - std**-2, 12 - std**-2]).real.max())
