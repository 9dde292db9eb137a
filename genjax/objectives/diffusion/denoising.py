"""Sampling, guidance and likelihood of models with a denoiser x_0(x_t, t)."""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax import rng
from genjax.conditioners import complete
from genjax.degradations.measurement import Degradation, LinearMap
from genjax.degradations.operators import State
from genjax.errors import UsageError, unknown
from genjax.samplers.elbo import continuous, discrete
from genjax.samplers.guidance import guided, on_path
from genjax.samplers.likelihood import log_prob
from genjax.samplers.paths import DiscretePath, NoisePath
from genjax.samplers.posterior import METHODS
from genjax.samplers.sampler import Sampler
from genjax.samplers.solvers import Denoiser, Solution
from genjax.types import Batch, Cond, Conditioner, Images, Keys, Variables

EVALUATIONS = 128  # network evaluations per image for the variational bound


class Denoising(abc.ABC):
  """Abstract: sampling, guidance and likelihood with a denoiser x_0(x_t, t). A subclass is a frozen dataclass."""

  image_shape: tuple[int, int, int]
  conditioner: Conditioner
  cond_dropout: float  # probability that conditions are replaced by their null values in training
  sampler: Sampler  # the defaults of `sample`

  @abc.abstractmethod
  def noise_path(self, variables: Variables) -> NoisePath:
    """The path on which the model was trained."""

  @property
  @abc.abstractmethod
  def timesteps(self) -> str:
    """The default time steps of the path, a name in genjax/samplers/timesteps.py."""

  @abc.abstractmethod
  def denoiser(self, variables: Variables, cond: Cond) -> Denoiser:
    """The function (x_t, t) -> x_0, with one t for all images or one per image."""

  def unconditional_denoiser(self, variables: Variables, cond: Cond) -> Denoiser:
    """The denoiser without conditions. Raises UsageError if the model has none."""
    if not self.conditioner.fields:
      raise UsageError('guidance needs a conditional model, or a guide: run.guided_by(...), --guide.')
    if not self.cond_dropout:
      raise UsageError(
        'guidance: with cond_dropout=0 no unconditional model was trained. Train with cond_dropout, or use a guide: --guide.'
      )
    return self.denoiser(variables, self.conditioner.null(cond))

  def sample(self, variables: Variables, keys: Keys, cond: Cond, **options) -> Images:
    """Images from noise; `options` override those of `sampler`. Missing fields of `cond` are drawn."""
    return self.solve(variables, keys, cond, **options).x

  def solve(self, variables: Variables, keys: Keys, cond: Cond, **options) -> Solution:
    """Like `sample`, but returns the whole trajectory."""
    cond = complete(self.conditioner, cond, keys)
    return self.solve_with(dataclasses.replace(self.sampler, **options), variables, keys, cond)

  def solve_with(
    self,
    sampler: Sampler,
    variables: Variables,
    keys: Keys,
    cond: Cond,
    guide: Denoiser | None = None,
    to_posterior: Callable[[Denoiser, NoisePath], Denoiser] | None = None,
  ) -> Solution:
    """`solve` with this sampler and these conditions.

    Guidance extrapolates from `guide`, by default the unconditional model. `to_posterior` maps the guided denoiser to the one
    that is used. Raises UsageError if there is no unconditional model for guidance.
    """
    path, denoise = self.noise_path(variables), self.denoiser(variables, cond)
    if sampler.is_guided:
      guide = guide or self.unconditional_denoiser(variables, cond)
      denoise = guided(denoise, guide, sampler.guidance, path, sampler.guidance_interval)
    if to_posterior is not None:
      denoise = to_posterior(denoise, path)
    noise = rng.normal(rng.fold_in(keys, 0), self.image_shape)  # stream 1 draws conditions
    solution = sampler.solve(denoise, path, noise, rng.fold_in(keys, 2))
    return postprocess(solution, sampler)

  def restore(
    self,
    variables: Variables,
    keys: Keys,
    cond: Cond,
    degradation: Degradation,
    state: tuple[State, ...],
    measurement: Images,
    *,
    method: str = 'mmps',
    **options,
  ) -> Images:
    """Images from p(x_0 | measurement), whose measurement was made by a linear `degradation` with this state.

    Args:
      method: a name in genjax/samplers/posterior.py.
      **options: override those of `sampler`.

    Without noise, the images have the measurement: the last step is an orthogonal projection. Raises UsageError for an unknown
    method, or a degradation that is not linear.
    """
    if method not in METHODS:
      raise UsageError(unknown('method', method, METHODS))
    sampler = dataclasses.replace(self.sampler, **options)
    linear = LinearMap(degradation, state, measurement, self.image_shape)
    to_posterior = functools.partial(METHODS[method], linear=linear, noise=degradation.noise)
    images = self.solve_with(sampler, variables, keys, cond, to_posterior=to_posterior).x
    return images if degradation.noise else linear.project(images)

  estimators = {
    'ode': 'by the probability-flow ODE, of 8-bit images, dequantized uniformly',
    'ode_exact': 'by the probability-flow ODE with exact divergence, of 8-bit images, dequantized uniformly',
    'bound': 'a bound, the variational one, of 8-bit images',
  }
  nll_is_expensive = True

  def nll(self, variables: Variables, batch: Batch, keys: Keys, estimator: str = '') -> Float[Array, 'b']:
    """An estimate or an upper bound of -log p(x) of the 8-bit images, in nats; `estimators` describes them.

    The ODE, with Hutchinson's estimator or, for small images, the exact divergence (genjax/samplers/likelihood.py), takes
    hundreds of network evaluations per image, which is dequantized uniformly (1511.01844, section 3.1). The variational bound
    (genjax/samplers/elbo.py) takes EVALUATIONS. Raises UsageError for an unknown estimator, and for images too large for
    'ode_exact'.
    """
    estimator = estimator or next(iter(self.estimators))
    if estimator not in self.estimators:
      raise UsageError(unknown('estimator', estimator, self.estimators))
    if estimator == 'bound':
      return self.bound(variables, batch, keys)
    path, denoise = self.noise_path(variables), self.denoiser(variables, batch.cond)
    level, dimensions = 2 / 255, math.prod(self.image_shape)
    noise_keys, sign_keys = rng.split(keys, 2)
    x = batch.image + level * rng.uniform(noise_keys, self.image_shape, -0.5, 0.5)
    log_p, _ = log_prob(denoise, path, x, sign_keys, exact=estimator == 'ode_exact')
    return -(log_p + dimensions * math.log(level))

  def bound(self, variables: Variables, batch: Batch, keys: Keys) -> Float[Array, 'b']:
    """The bound of the steps of a discrete path, with the posterior's variance; else in continuous time."""
    path, denoise = self.noise_path(variables), self.denoiser(variables, batch.cond)
    if isinstance(path, DiscretePath):
      return discrete(lambda x, t: (denoise(x, t), None), path, batch.image, keys, EVALUATIONS)
    return continuous(denoise, path, batch.image, keys, EVALUATIONS)


def postprocess(solution: Solution, sampler: Sampler) -> Solution:
  """Clips the images to [-1, 1], and counts both networks of guidance."""
  networks = 2 if sampler.is_guided else 1
  return solution._replace(x=jnp.clip(solution.x, -1, 1), evaluations=networks * solution.evaluations)


@dataclasses.dataclass(frozen=True)
class Autoguided:
  """Autoguidance (2406.02507): samples of a model guided by a weaker model instead of the unconditional one.

  The variables of both are under 'main' and 'weak'. Their paths may differ: the weak model is evaluated at equal noise.
  """

  main: Denoising
  weak: Denoising

  no_nll = 'the density of guided samples is unknown: evaluate the model without --guide'

  @property
  def image_shape(self) -> tuple[int, int, int]:
    return self.main.image_shape

  @property
  def conditioner(self) -> Conditioner:
    return self.main.conditioner

  @property
  def sampler(self) -> Sampler:
    return self.main.sampler

  @property
  def timesteps(self) -> str:
    return self.main.timesteps

  def sample(self, variables: Variables, keys: Keys, cond: Cond, **options) -> Images:
    """Like the main model. Raises UsageError if guidance is 1, with which the guide has no effect."""
    return self.solve(variables, keys, cond, **options).x

  def solve(self, variables: Variables, keys: Keys, cond: Cond, **options) -> Solution:
    cond, sampler = complete(self.conditioner, cond, keys), dataclasses.replace(self.sampler, **options)
    if not sampler.is_guided:
      raise UsageError('guidance=1 ignores the guide: use more, such as guidance=2.')
    main, weak = (Variables(variables.params[name], variables.buffers[name]) for name in ('main', 'weak'))
    guide = on_path(self.weak.denoiser(weak, cond), self.weak.noise_path(weak), self.main.noise_path(main))
    return self.main.solve_with(sampler, main, keys, cond, guide)
