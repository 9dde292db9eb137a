"""Rectified flow / flow matching (Liu et al. 2209.03003; Lipman et al. 2210.02747)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from genjax import rng
from genjax.errors import UsageError, did_you_mean
from genjax.objectives.common import labels_or_random, one_hot
from genjax.samplers.guidance import classifier_free
from genjax.samplers.paths import RectifiedFlow as Path
from genjax.samplers.solvers import SOLVERS, uniform_times
from genjax.types import Aux, Batch, Context, Images, Keys, Labels, Player, Variables


@dataclasses.dataclass(frozen=True)
class RectifiedFlow:
  """A game of one player, 'model': regress the velocity eps - x_0 of x_t = (1 - t) x_0 + t eps.

  `network(x_t, t, label) -> velocity`. Times are logit-normal (2403.03206, section 3.1) with location 0 and `time_scale`;
  labels are dropped with probability `label_dropout` for classifier-free guidance (2207.12598).
  """

  network: nn.Module
  image_shape: tuple[int, int, int]
  num_classes: int = 0  # 0: unconditional
  label_dropout: float = 0.1
  time_scale: float = 1.0

  def __post_init__(self):
    if not 0 <= self.label_dropout <= 1:
      raise UsageError(f'label_dropout={self.label_dropout} is a probability: from 0 to 1.')
    if self.time_scale <= 0:
      raise UsageError(f'time_scale={self.time_scale} must be positive.')

  @property
  def players(self) -> dict[str, Player]:
    return {'model': Player(self.loss)}

  def init(self, key: jax.Array, batch: Batch) -> Variables:
    label = one_hot(batch.label, self.num_classes)
    t = jnp.zeros(batch.image.shape[0])
    return Variables({'model': self.network.init(key, batch.image, t, label)['params']}, {})

  def loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """E |F(x_t, t) - (eps - x_0)|^2, a mean over pixels and images (2209.03003, eq. 1)."""
    t_keys, eps_keys, label_keys = rng.split(keys, 3)
    t = jax.nn.sigmoid(self.time_scale * rng.normal(t_keys, ()))
    eps = rng.normal(eps_keys, batch.image.shape[1:])
    drop = rng.bernoulli(label_keys, self.label_dropout)
    label = one_hot(jnp.where(drop, self.num_classes, batch.label), self.num_classes)
    t_image = t[:, None, None, None]
    x_t = Path().alpha(t_image) * batch.image + Path().sigma(t_image) * eps
    velocity = self.network.apply({'params': params['model']}, x_t, t, label)
    return jnp.mean((velocity - (eps - batch.image)) ** 2), Aux({})

  def denoiser(self, variables: Variables, labels: Labels | None):
    """x_0 from x_t and a scalar t: x_t - t F(x_t, t). `labels` None or `num_classes` for the unconditional model."""
    label = one_hot(labels, self.num_classes)

    def denoise(x, t):
      times = jnp.broadcast_to(t, x.shape[:1])
      return x - t * self.network.apply({'params': variables.params['model']}, x, times, label)

    return denoise

  def sample(
    self,
    variables: Variables,
    keys: Keys,
    labels: Labels | None = None,
    *,
    solver: str = 'heun',
    steps: int = 25,
    guidance: float = 1.0,
  ) -> Images:
    """Images from the ODE from t = 1 to 0. A conditional model without labels draws them uniformly.

    `guidance`: 1 none, above 1 towards the label, 0 the unconditional model; anything but 1 doubles the evaluations.
    Raises UsageError for an unknown solver, `steps` below 1, or guidance of an unconditional model.
    """
    if solver not in SOLVERS:
      raise UsageError(f'solver={solver!r} is not there.' + did_you_mean(solver, SOLVERS, 'There are'))
    if steps < 1:
      raise UsageError(f'steps={steps}: a solver takes at least 1.')
    if guidance != 1 and not self.num_classes:
      raise UsageError(f'guidance={guidance} needs a class-conditional model; this one has no labels.')
    labels = labels_or_random(labels, keys, self.num_classes)
    denoise = self.denoiser(variables, labels)
    if guidance != 1:
      unconditional = self.denoiser(variables, jnp.full(keys.shape, self.num_classes))
      denoise = classifier_free(denoise, unconditional, guidance)
    x = rng.normal(rng.fold_in(keys, 0), self.image_shape)
    return jnp.clip(SOLVERS[solver](denoise, Path(), x, uniform_times(steps)), -1, 1)
