"""Diffusion and flow matching: a network, a path from data to noise, what the network predicts, and where it is trained.

The four are chosen separately: DDPM (Ho et al. 2006.11239), score SDEs (Song et al. 2011.13456), EDM (Karras et al.
2206.00364), rectified flow (Liu et al. 2209.03003; Lipman et al. 2210.02747) are configs of this one objective.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from genjax import rng
from genjax.errors import UsageError, UsageWarning, did_you_mean
from genjax.objectives.common import check_outputs, drop_labels, dropout_keys, labels_or_null, labels_or_random, one_hot
from genjax.objectives.diffusion.augment import AUGMENTATIONS, augment
from genjax.objectives.diffusion.parameterizations import Eps, Prediction
from genjax.samplers.elbo import continuous, discrete
from genjax.samplers.guidance import guided, on_path
from genjax.samplers.likelihood import log_prob
from genjax.samplers.paths import Discrete, DiscreteLinear, Path
from genjax.samplers.sampler import Sampler
from genjax.samplers.solvers import Denoiser, Solution
from genjax.types import Aux, Batch, Context, Images, Keys, Labels, Player, Variables

EVALUATIONS = 128  # of an image, for its variational bound
LARGEST_SIGNAL = 0.05  # alpha / sigma at the end of a path, above which a warning is given; DDPM has 0.006, VE 0.02
LARGEST_FACTOR = 500  # sigma / alpha at the end, above which a warning is given: it amplifies errors of eps; DDPM has 157


class Denoising:
  """What follows from a denoiser x_0(x_t, t): samples, guidance, likelihood.

  A subclass is a frozen dataclass with `image_shape`, `num_classes`, `label_dropout`, `sampler`; `path_of(variables) -> Path`;
  and `denoiser(variables, labels) -> (x_t, t) -> x_0`, t one for all images or one for each, `labels` None or `num_classes` for
  the unconditional model.
  """

  def worse(self, variables: Variables, labels: Labels | None) -> Denoiser:
    """The unconditional model. Raises UsageError where there is no other."""
    if not self.num_classes:
      raise UsageError('guidance needs a class-conditional model, or a weaker one: run.guided_by(...), --guide.')
    if not self.label_dropout:
      raise UsageError(
        'guidance: with label_dropout=0 no unconditional model was trained. Train with some, or give a weaker model: --guide.'
      )
    return self.denoiser(variables, jnp.full_like(labels, self.num_classes))

  def sample(self, variables: Variables, keys: Keys, labels: Labels | None = None, **options) -> Images:
    """Images from noise; `options` are those of `sampler`. A conditional model without labels draws them uniformly."""
    return self.solve(variables, keys, labels, **options).x

  def solve(self, variables: Variables, keys: Keys, labels: Labels | None = None, **options) -> Solution:
    """As `sample`, with the way to the images."""
    labels = labels_or_random(labels, keys, self.num_classes)
    return self.by(dataclasses.replace(self.sampler, **options), variables, keys, labels)

  def by(
    self, sampler: Sampler, variables: Variables, keys: Keys, labels: Labels | None, worse: Denoiser | None = None
  ) -> Solution:
    """`solve` by this sampler, with these labels.

    Guidance leads away from `worse`; None: the unconditional model. Raises UsageError where there is neither.
    """
    path, denoise = self.path_of(variables), self.denoiser(variables, labels)
    if sampler.guidance != 1:
      worse = worse or self.worse(variables, labels)
      denoise = guided(denoise, worse, sampler.guidance, path, sampler.guidance_interval)
    noise = rng.normal(rng.fold_in(keys, 0), self.image_shape)  # stream 1 draws labels
    solution = sampler.solve(denoise, path, noise, rng.fold_in(keys, 2))
    return finished(solution, sampler)

  estimators = {
    'ode': 'by the probability-flow ODE, of 8-bit images, dequantised uniformly',
    'ode_exact': 'by the probability-flow ODE with exact divergence, of 8-bit images, dequantised uniformly',
    'bound': 'a bound, the variational one, of 8-bit images',
  }
  nll_is_dear = True

  def nll(self, variables: Variables, batch: Batch, keys: Keys, estimator: str = '') -> Float[Array, 'b']:
    """-log p(x) of the 8-bit images, in nats, up to an expectation, or an upper bound of it: `estimators`.

    By the ODE, with Hutchinson's estimator or, for small images, exactly (genjax/samplers/likelihood.py), hundreds of
    evaluations an image; they are dequantised uniformly (1511.01844, section 3.1). By the variational bound
    (genjax/samplers/elbo.py) EVALUATIONS. Raises UsageError for another estimator, and for images too large for 'ode_exact'.
    """
    estimator = estimator or next(iter(self.estimators))
    if estimator not in self.estimators:
      raise UsageError(f'estimator={estimator!r} is not there.' + did_you_mean(estimator, self.estimators, 'There are'))
    if estimator == 'bound':
      return self.bound(variables, batch, keys)
    path, denoise = self.path_of(variables), self.denoiser(variables, batch.label if self.num_classes else None)
    level, dimensions = 2 / 255, math.prod(self.image_shape)
    noise_keys, sign_keys = rng.split(keys, 2)
    x = batch.image + level * rng.uniform(noise_keys, self.image_shape, -0.5, 0.5)
    found, _ = log_prob(denoise, path, x, sign_keys, exact=estimator == 'ode_exact')
    return -(found + dimensions * math.log(level))

  def bound(self, variables: Variables, batch: Batch, keys: Keys) -> Float[Array, 'b']:
    """Of the path's steps if they are counted, with the posterior's variance; else in continuous time."""
    path, denoise = self.path_of(variables), self.denoiser(variables, batch.label if self.num_classes else None)
    if isinstance(path, Discrete):
      return discrete(lambda x, t: (denoise(x, t), None), path, batch.image, keys, EVALUATIONS)
    return continuous(denoise, path, batch.image, keys, EVALUATIONS)


def finished(solution: Solution, sampler: Sampler) -> Solution:
  """Its images within [-1, 1], both networks of guidance counted."""
  networks = 1 if sampler.guidance == 1 else 2
  return solution._replace(x=jnp.clip(solution.x, -1, 1), evaluations=networks * solution.evaluations)


@dataclasses.dataclass(frozen=True)
class Diffusion(Denoising):
  """A game of one player, 'model': minimise E w(t) |F(x_t, t) - target|^2 over x_t = alpha(t) x_0 + sigma(t) eps.

  `network(x, condition, label) -> F`; `prediction` says what F is and what the network sees of x_t and t. A network whose
  field `dropout` is not 0 gets the images' keys as a fourth argument in training.
  """

  network: nn.Module
  path: Path
  prediction: Prediction
  times: Callable[[Path, Keys], Float[Array, 'b']]  # which are trained: genjax/objectives/diffusion/times.py
  image_shape: tuple[int, int, int]
  weighting: Callable[[Path, Array], Array] | None = None  # of the error of eps (weightings.py); None: 1 on that of F
  num_classes: int = 0  # 0: unconditional
  label_dropout: float = 0.1  # how often the label is hidden in training, for classifier-free guidance
  augment: float = (
    0.0  # how often each transformation of genjax/objectives/diffusion/augment.py is applied; the network hears of it
  )
  sampler: Sampler = Sampler()  # noqa: RUF009 - frozen: what `sample` does unless told otherwise

  answers = 1  # images in the network's answer

  def __post_init__(self):
    for name in ('label_dropout', 'augment'):
      if not 0 <= getattr(self, name) <= 1:
        raise UsageError(f'{name}={getattr(self, name)} is a probability: from 0 to 1.')
    self.check_end()
    check_outputs(self.network, self.answers)
    if getattr(self.weighting, 'of_uniform_times', False) and not getattr(self.times, 'uniform', False):
      raise UsageError(
        f'{self.weighting} is for times drawn uniformly, not for {self.times}: take objectives.diffusion.times.Uniform.'
      )
    steps = getattr(self.path, 'T', None), getattr(self.times, 'T', None)
    if steps[1] is not None and steps[0] is None:
      raise UsageError(f'{self.times} counts steps, and {self.path} has none: take objectives.diffusion.times.Uniform.')
    if None not in steps and steps[0] != steps[1]:
      raise UsageError(f'path.T={steps[0]} and times.T={steps[1]} must be the same.')

  def check_end(self) -> None:
    """Checks the end of the path, where sampling starts from pure noise.

    Raises UsageError if the prediction does not determine x_0 there. Warns if it is ill-conditioned, or the noise is too weak.
    """
    with jax.ensure_compile_time_eval():
      end = jnp.asarray(self.path.end)
      alpha, sigma = float(self.path.alpha(end)), float(self.path.sigma(end))
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
    if not isinstance(self.prediction, Eps):
      return
    if alpha == 0:
      raise UsageError(f'{self.path} ends in pure noise, where Eps does not determine x_0: predict V, X0 or Velocity.')
    if sigma > LARGEST_FACTOR * alpha and not self.sampler.clip_denoised:
      warnings.warn(
        f'Eps on {self.path}: at its end an error of 0.01 in eps becomes {0.01 * sigma / alpha:.2g} in x_0. Set '
        'objective.sampler.clip_denoised=True, or predict V.',
        UsageWarning,
        stacklevel=3,
      )

  @property
  def players(self) -> dict[str, Player]:
    return {'model': Player(self.loss)}

  def path_of(self, variables: Variables) -> Path:
    return self.path

  def init(self, key: jax.Array, batch: Batch) -> Variables:
    condition, label = jnp.zeros(batch.image.shape[0]), self.hears(batch.label)
    return Variables({'model': self.network.init(key, batch.image, condition, label)['params']}, {})

  def loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """The weighted squared error, a mean over pixels and images."""
    draw = self.draw(batch, keys)
    return self.error(self.network_of(params, draw.x_t, draw.t, draw.hears, *draw.inside), draw), Aux({})

  def draw(self, batch: Batch, keys: Keys) -> 'Draw':
    """What a training step looks at."""
    t_keys, eps_keys, label_keys, inside_keys = rng.split(keys, 4)
    x_0, eps = batch.image, rng.normal(eps_keys, batch.image.shape[1:])
    t = self.times(self.path, t_keys)[:, None, None, None]
    label = drop_labels(label_keys, batch.label, self.label_dropout, self.num_classes)
    done = None
    if self.augment:
      x_0, done = augment(rng.fold_in(keys, 4), x_0, self.augment)
    x_t = self.path.alpha(t) * x_0 + self.path.sigma(t) * eps
    return Draw(x_0, eps, t, x_t, self.hears(label, done), dropout_keys(self.network, inside_keys))

  def error(self, f: Images, draw: 'Draw') -> Float[Array, '']:
    squared = (f - self.prediction.target(self.path, draw.t, draw.x_0, draw.eps)) ** 2
    if self.weighting is not None:
      squared *= self.weighting(self.path, draw.t) * self.prediction.eps_error(self.path, draw.t) ** 2
    return jnp.mean(squared)

  def hears(self, label: Labels | None, done: Float[Array, 'b n'] | None = None) -> Float[Array, 'b k'] | None:
    """What the network is told beside x_t and t: the label's one-hot row, then what augmentation did (nothing, if None)."""
    told = one_hot(label, self.num_classes)
    if not self.augment:
      return told
    done = jnp.zeros((len(label), AUGMENTATIONS)) if done is None else done
    return done if told is None else jnp.concatenate([told, done], axis=1)

  def network_of(self, params: dict, x_t: Images, t, hears: Float[Array, 'b k'] | None, *inside: Keys) -> Images:
    """F for x_t at times t [B, 1, 1, 1]; with keys, as in training, where the network has dropout."""
    x, condition = self.prediction.scale(self.path, t) * x_t, self.prediction.condition(self.path, t)
    return self.network.apply({'params': params['model']}, x, condition[:, 0, 0, 0], hears, *inside)

  def denoiser(self, variables: Variables, labels: Labels | None) -> Denoiser:
    def denoise(x, t):
      t = jnp.broadcast_to(t, x.shape[:1])[:, None, None, None]
      f = self.network_of(variables.params, x, t, self.hears(labels_or_null(labels, len(x), self.num_classes)))
      return self.prediction.x0(self.path, t, x, f)

    return denoise


class Draw(NamedTuple):
  x_0: Images
  eps: Images
  t: Float[Array, 'b 1 1 1']
  x_t: Images
  hears: Float[Array, 'b k'] | None
  inside: tuple[Keys, ...]  # of dropout


@dataclasses.dataclass(frozen=True)
class Autoguided:
  """Samples of a model guided by a weaker one (2406.02507): guidance leads away from that instead of the unconditional.

  Variables are those of both, under 'main' and 'weak'. Paths may differ: the weak model is asked at the same noise.
  """

  main: Denoising
  weak: Denoising

  no_nll = 'guided samples are of no density that is known: judge the model alone, without --guide'

  @property
  def image_shape(self) -> tuple[int, int, int]:
    return self.main.image_shape

  @property
  def num_classes(self) -> int:
    return self.main.num_classes

  @property
  def sampler(self) -> Sampler:
    return self.main.sampler

  @property
  def path(self) -> Path:
    return self.main.path

  def sample(self, variables: Variables, keys: Keys, labels: Labels | None = None, **options) -> Images:
    """As the main model's. Raises UsageError where guidance is 1, and the weaker model would not be heard."""
    return self.solve(variables, keys, labels, **options).x

  def solve(self, variables: Variables, keys: Keys, labels: Labels | None = None, **options) -> Solution:
    labels, sampler = labels_or_random(labels, keys, self.num_classes), dataclasses.replace(self.sampler, **options)
    if sampler.guidance == 1:
      raise UsageError('guidance=1 does not lead away from the weaker model: give more, as guidance=2.')
    main, weak = (Variables(variables.params[name], variables.buffers[name]) for name in ('main', 'weak'))
    worse = on_path(self.weak.denoiser(weak, labels), self.weak.path_of(weak), self.main.path_of(main))
    return self.main.by(sampler, main, keys, labels, worse)
