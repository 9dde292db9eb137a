"""Diffusion and flow matching: a network, a path from data to noise, what the network predicts, and where it is trained.

The four are chosen separately: DDPM (Ho et al. 2006.11239), score SDEs (Song et al. 2011.13456), EDM (Karras et al.
2206.00364), rectified flow (Liu et al. 2209.03003; Lipman et al. 2210.02747) are configs of this one objective.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from genjax import rng
from genjax.errors import UsageError
from genjax.objectives.common import drop_labels, labels_or_random, one_hot
from genjax.objectives.predictions import Eps, Prediction
from genjax.samplers.guidance import guided
from genjax.samplers.likelihood import log_prob
from genjax.samplers.paths import Path
from genjax.samplers.sampler import Sampler
from genjax.samplers.solvers import Denoiser, Solution
from genjax.types import Aux, Batch, Context, Images, Keys, Labels, Player, Variables


@dataclasses.dataclass(frozen=True)
class Diffusion:
  """A game of one player, 'model': minimise E w(t) |F(x_t, t) - target|^2 over x_t = alpha(t) x_0 + sigma(t) eps.

  `network(x, condition, label) -> F`; `prediction` says what F is and what the network sees of x_t and t. A network whose
  field `dropout` is not 0 gets the images' keys as a fourth argument in training.
  """

  network: nn.Module
  path: Path
  prediction: Prediction
  times: Callable[[Path, Keys], Float[Array, 'b']]  # which are trained: genjax/objectives/times.py
  image_shape: tuple[int, int, int]
  weighting: Callable[[Path, Array], Array] | None = None  # of the error of eps (weightings.py); None: 1 on that of F
  num_classes: int = 0  # 0: unconditional
  label_dropout: float = 0.1  # how often the label is hidden in training, for classifier-free guidance
  sampler: Sampler = Sampler()  # noqa: RUF009 - frozen: what `sample` does unless told otherwise

  def __post_init__(self):
    if not 0 <= self.label_dropout <= 1:
      raise UsageError(f'label_dropout={self.label_dropout} is a probability: from 0 to 1.')
    if isinstance(self.prediction, Eps) and self.path.alpha(jnp.asarray(self.path.end)) == 0:
      raise UsageError(f'{self.path} ends in pure noise, where Eps says nothing of x_0: predict V, X0 or Velocity.')
    steps = getattr(self.path, 'T', None), getattr(self.times, 'T', None)
    if None not in steps and steps[0] != steps[1]:
      raise UsageError(f'path.T={steps[0]} and times.T={steps[1]} must be the same.')

  @property
  def players(self) -> dict[str, Player]:
    return {'model': Player(self.loss)}

  def init(self, key: jax.Array, batch: Batch) -> Variables:
    label = one_hot(batch.label, self.num_classes)
    t = jnp.zeros(batch.image.shape[0])
    return Variables({'model': self.network.init(key, batch.image, t, label)['params']}, {})

  def loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """The weighted squared error, a mean over pixels and images."""
    t_keys, eps_keys, label_keys, dropout_keys = rng.split(keys, 4)
    x_0, eps = batch.image, rng.normal(eps_keys, batch.image.shape[1:])
    t = self.times(self.path, t_keys)[:, None, None, None]
    label = drop_labels(label_keys, batch.label, self.label_dropout, self.num_classes)
    x_t = self.path.alpha(t) * x_0 + self.path.sigma(t) * eps
    inside = dropout_keys if getattr(self.network, 'dropout', 0) else None
    error = self.answer(params, x_t, t, label, inside) - self.prediction.target(self.path, t, x_0, eps)
    squared = error**2
    if self.weighting is not None:
      squared *= self.weighting(self.path, t) * self.prediction.eps_error(self.path, t) ** 2
    return jnp.mean(squared), Aux({})

  def answer(self, params: dict, x_t: Images, t, label: Labels | None, keys: Keys | None = None) -> Images:
    """F for x_t at times t [B, 1, 1, 1]; with `keys` as in training, where the network has dropout."""
    x, condition = self.prediction.scale(self.path, t) * x_t, self.prediction.condition(self.path, t)
    label, more = one_hot(label, self.num_classes), () if keys is None else (keys,)
    return self.network.apply({'params': params['model']}, x, condition[:, 0, 0, 0], label, *more)

  def denoiser(self, variables: Variables, labels: Labels | None) -> Denoiser:
    """x_0 from x_t and t, one for all images or one for each. `labels` None or `num_classes`: the unconditional model."""

    def denoise(x, t):
      t = jnp.broadcast_to(t, x.shape[:1])[:, None, None, None]
      return self.prediction.x0(self.path, t, x, self.answer(variables.params, x, t, labels))

    return denoise

  def worse(self, variables: Variables, labels: Labels | None) -> Denoiser:
    """What guidance leads away from: the unconditional model. Raises UsageError where there is no other."""
    if not self.num_classes:
      raise UsageError('guidance needs a class-conditional model, or a weaker one: run.guided_by(...), --guide.')
    return self.denoiser(variables, jnp.full_like(labels, self.num_classes))

  nll_of = 'by the probability-flow ODE, of 8-bit images'
  nll_is_dear = True

  def nll(self, variables: Variables, batch: Batch, keys: Keys) -> Float[Array, 'b']:
    """-log p(x) of the 8-bit images, in nats, up to an expectation: they are dequantised uniformly (1511.01844, section 3.1).

    By the probability-flow ODE with Hutchinson's estimator (genjax/samplers/likelihood.py), hundreds of evaluations an image.
    """
    level, dimensions = 2 / 255, math.prod(self.image_shape)
    noise_keys, sign_keys = rng.split(keys, 2)
    x = batch.image + level * rng.uniform(noise_keys, self.image_shape, -0.5, 0.5)
    label = batch.label if self.num_classes else None
    found, _ = log_prob(self.denoiser(variables, label), self.path, x, sign_keys)
    return -(found + dimensions * math.log(level))

  def sample(self, variables: Variables, keys: Keys, labels: Labels | None = None, **options) -> Images:
    """Images from noise; `options` are those of `sampler`. A conditional model without labels draws them uniformly."""
    labels = labels_or_random(labels, keys, self.num_classes)
    return self.solve(variables, keys, labels, dataclasses.replace(self.sampler, **options)).x

  def solve(self, variables: Variables, keys: Keys, labels: Labels | None, sampler: Sampler) -> Solution:
    """As `sample`, with the way to the images. Raises UsageError for guidance without anything to lead away from."""
    denoise = self.denoiser(variables, labels)
    if sampler.guidance != 1:
      denoise = guided(denoise, self.worse(variables, labels), sampler.guidance, self.path, sampler.guidance_interval)
    noise = rng.normal(rng.fold_in(keys, 0), self.image_shape)  # stream 1 draws labels
    solution = sampler.solve(denoise, self.path, noise, rng.fold_in(keys, 2))
    return solution._replace(x=jnp.clip(solution.x, -1, 1))


@dataclasses.dataclass(frozen=True)
class Autoguided(Diffusion):
  """A model guided by a weaker one of itself (2406.02507), whose parameters are those of the name 'weak'."""

  weak: Diffusion | None = None

  def worse(self, variables: Variables, labels: Labels | None) -> Denoiser:
    return self.weak.denoiser(Variables({'model': variables.params['weak']}, {}), labels)
