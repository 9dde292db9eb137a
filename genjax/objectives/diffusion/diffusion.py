"""Diffusion and flow matching: a network, a path from data to noise, a parameterization, and a distribution of times.

The four are independent: DDPM (Ho et al. 2006.11239), score SDEs (Song et al. 2011.13456), EDM (Karras et al. 2206.00364) and
rectified flow (Liu et al. 2209.03003; Lipman et al. 2210.02747) are configs of this objective.
"""

import abc
import dataclasses
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from genjax import rng
from genjax.conditioners import Unconditional, only
from genjax.errors import UsageError, UsageWarning
from genjax.objectives.common import check_num_outputs, dropout_keys
from genjax.objectives.diffusion.augment import AUGMENTATIONS, augment
from genjax.objectives.diffusion.denoising import Denoising
from genjax.objectives.diffusion.parameterizations import Eps, Parameterization
from genjax.samplers.paths import DiscreteLinear, NoisePath
from genjax.samplers.sampler import Sampler
from genjax.samplers.solvers import Denoiser
from genjax.types import Aux, Batch, Cond, Conditioner, Context, Images, Keys, Player, Variables

LARGEST_SIGNAL = 0.05  # alpha / sigma at the end of a path above which there is a warning; DDPM has 0.006, VE 0.02
LARGEST_FACTOR = 500  # sigma / alpha at the end above which there is a warning: it amplifies errors of eps; DDPM has 157


@dataclasses.dataclass(frozen=True)
class DiffusionModel(Denoising):
  """Abstract: one player, 'model', that minimizes E w(t) |F(x_t, t) - target|^2, x_t = alpha(t) x_0 + sigma(t) eps.

  `network(x, c_noise, cond) -> F`; `parameterization` defines F and the network's inputs for x_t and t. A network whose field
  `dropout` is not 0 gets the images' keys as a fourth argument in training.
  """

  network: nn.Module
  path: NoisePath
  parameterization: Parameterization
  times: Callable[[NoisePath, Keys], Float[Array, 'b']]  # training times: genjax/objectives/diffusion/times.py
  image_shape: tuple[int, int, int]
  weighting: Callable[[NoisePath, Array], Array] | None = None  # of the error of eps (weightings.py); None: 1 for that of F
  conditioner: Conditioner = Unconditional()  # noqa: RUF009 - frozen
  cond_dropout: float = 0.1  # probability of dropping conditions in training, for classifier-free guidance
  augment: float = 0.0  # probability of each transformation of genjax/objectives/diffusion/augment.py
  sampler: Sampler = Sampler()  # noqa: RUF009 - frozen: the defaults of `sample`

  num_outputs = 1  # images in the network's output

  def __post_init__(self):
    for name in ('cond_dropout', 'augment'):
      if not 0 <= getattr(self, name) <= 1:
        raise UsageError(f'{name}={getattr(self, name)} must be a probability, from 0 to 1.')
    if self.augment and 'augmentation' not in getattr(self.network, 'fields', ()):
      raise UsageError(
        f'augment={self.augment}: {type(self.network).__name__} does not read "augmentation", so augmented images '
        'would be samples too: add it to the fields of the network, or set augment=0.'
      )
    self.check_end()
    check_num_outputs(self.network, self.num_outputs)
    if getattr(self.weighting, 'of_uniform_times', False) and not getattr(self.times, 'uniform', False):
      raise UsageError(f'{self.weighting} needs uniform times instead of {self.times}: use objectives.diffusion.times.Uniform.')
    steps = getattr(self.path, 'T', None), getattr(self.times, 'T', None)
    if steps[1] is not None and steps[0] is None:
      raise UsageError(f'{self.times} needs discrete steps, but {self.path} has none: use objectives.diffusion.times.Uniform.')
    if None not in steps and steps[0] != steps[1]:
      raise UsageError(f'path.T={steps[0]} and times.T={steps[1]} must be the same.')

  def check_end(self) -> None:
    """Checks the end of the path, where sampling starts from pure noise.

    Raises UsageError if the prediction does not determine x_0 there. Warns if it is ill-conditioned, or the noise is too weak.
    """
    with jax.ensure_compile_time_eval():
      end = jnp.asarray(self.path.end)
      alpha, sigma = float(self.path.alpha(end)), float(self.path.sigma(end))
      one = jnp.ones((1, 1, 1, 1))
      determined = bool(jnp.isfinite(self.parameterization.x0(self.path, end * one, one, one)).all())
    if alpha > LARGEST_SIGNAL * sigma:
      remedy = 'use a path that ends in more noise'
      if isinstance(self.path, DiscreteLinear):
        first, last = (min(1000 / self.path.T * beta, 0.999) for beta in (1e-4, 0.02))
        remedy = f'scale the betas of 1,000 steps by 1000 / T: path.beta_1={first:.3g}, path.beta_T={last:.3g}'
      warnings.warn(
        f'{self.path} ends with alpha={alpha:.2g} and sigma={sigma:.2g}: samples start from pure noise, but in training the '
        f'images are still visible there. To fix it, {remedy}.',
        UsageWarning,
        stacklevel=3,
      )
    if not determined:
      name = type(self.parameterization).__name__
      raise UsageError(f'{self.path} ends in pure noise, where {name} does not determine x_0: predict V or X0.')
    if isinstance(self.parameterization, Eps) and sigma > LARGEST_FACTOR * alpha and not self.sampler.clip_denoised:
      warnings.warn(
        f'Eps on {self.path}: at its end an error of 0.01 in eps becomes {0.01 * sigma / alpha:.2g} in x_0. Set '
        'objective.sampler.clip_denoised=True, or predict V.',
        UsageWarning,
        stacklevel=3,
      )

  @property
  def players(self) -> dict[str, Player]:
    return {'model': Player(self.loss)}

  def noise_path(self, variables: Variables) -> NoisePath:
    return self.path

  @property
  def timesteps(self) -> str:
    return self.path.timesteps

  def init(self, key: jax.Array, batch: Batch) -> Variables:
    c_noise, cond = jnp.zeros(batch.image.shape[0]), self.network_cond(batch.cond, size=len(batch.image))
    return Variables({'model': self.network.init(key, batch.image, c_noise, cond)['params']}, {})

  @abc.abstractmethod
  def loss(self, params: dict, context: Context, batch: Batch, keys: Keys) -> tuple[Float[Array, ''], Aux]: ...

  def training_point(self, batch: Batch, keys: Keys) -> 'TrainingPoint':
    """Samples times, noise and conditions for a training step."""
    t_keys, eps_keys, cond_keys, network_keys = rng.split(keys, 4)
    x_0, eps = batch.image, rng.normal(eps_keys, batch.image.shape[1:])
    t = self.times(self.path, t_keys)[:, None, None, None]
    cond = self.conditioner.drop(cond_keys, only(self.conditioner, batch.cond), self.cond_dropout)
    augmentation = None
    if self.augment:
      x_0, augmentation = augment(rng.fold_in(keys, 4), x_0, self.augment)
    x_t = self.path.alpha(t) * x_0 + self.path.sigma(t) * eps
    return TrainingPoint(x_0, eps, t, x_t, self.network_cond(cond, augmentation), dropout_keys(self.network, network_keys))

  def error(self, f: Images, point: 'TrainingPoint') -> Float[Array, '']:
    """The weighted squared error, a mean over pixels and images."""
    squared = (f - self.parameterization.target(self.path, point.t, point.x_0, point.eps)) ** 2
    if self.weighting is not None:
      squared *= self.weighting(self.path, point.t) * self.parameterization.eps_error(self.path, point.t) ** 2
    return jnp.mean(squared)

  def network_cond(self, cond: Cond, augmentation: Float[Array, 'b n'] | None = None, size: int = 1) -> Cond:
    """The conditions of the network: embedded conditions, and augmentation parameters (None: none, for `size` images)."""
    embedded = self.conditioner.embed(cond)
    if not self.augment:
      return embedded
    if augmentation is None:
      augmentation = jnp.zeros((size, AUGMENTATIONS))
    return {**embedded, 'augmentation': augmentation}

  def apply_network(self, params: dict, x_t: Images, t: Float[Array, 'b 1 1 1'], cond: Cond, *dropout_keys: Keys) -> Images:
    """The network's output for x_t at times t; in training with keys, if the network has dropout."""
    x, c_noise = self.parameterization.c_in(self.path, t) * x_t, self.parameterization.c_noise(self.path, t)
    return self.network.apply({'params': params['model']}, x, c_noise[:, 0, 0, 0], cond, *dropout_keys)

  @abc.abstractmethod
  def output(self, params: dict, x_t: Images, t: Float[Array, 'b 1 1 1'], cond: Cond, *dropout_keys: Keys) -> Images:
    """F for x_t at times t; the arguments are those of `apply_network`."""

  def denoiser(self, variables: Variables, cond: Cond) -> Denoiser:
    def denoise(x, t):
      t = jnp.broadcast_to(t, x.shape[:1])[:, None, None, None]
      f = self.output(variables.params, x, t, self.network_cond(cond, size=x.shape[0]))
      return self.parameterization.x0(self.path, t, x, f)

    return denoise


class TrainingPoint(NamedTuple):
  """The inputs of a training step: x_t = alpha(t) x_0 + sigma(t) eps, and the conditions of the network."""

  x_0: Images
  eps: Images
  t: Float[Array, 'b 1 1 1']
  x_t: Images
  cond: Cond
  dropout_keys: tuple[Keys, ...]


@dataclasses.dataclass(frozen=True)
class Diffusion(DiffusionModel):
  """Diffusion model whose network has one output, F."""

  def loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """The weighted squared error, a mean over pixels and images."""
    point = self.training_point(batch, keys)
    return self.error(self.output(params, point.x_t, point.t, point.cond, *point.dropout_keys), point), Aux({})

  def output(self, params: dict, x_t: Images, t: Float[Array, 'b 1 1 1'], cond: Cond, *dropout_keys: Keys) -> Images:
    return self.apply_network(params, x_t, t, cond, *dropout_keys)
