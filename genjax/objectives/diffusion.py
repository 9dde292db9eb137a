"""Diffusion and flow matching: a network, a path from data to noise, what the network predicts, and where it is trained.

The four are chosen separately: DDPM (Ho et al. 2006.11239), score SDEs (Song et al. 2011.13456), EDM (Karras et al.
2206.00364), rectified flow (Liu et al. 2209.03003; Lipman et al. 2210.02747) are configs of this one objective.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from genjax import rng
from genjax.errors import UsageError, did_you_mean
from genjax.objectives.common import labels_or_random, one_hot
from genjax.objectives.predictions import Eps, Prediction
from genjax.samplers.grids import GRIDS
from genjax.samplers.guidance import guided
from genjax.samplers.likelihood import log_prob
from genjax.samplers.paths import Path
from genjax.samplers.solvers import SOLVERS, Denoiser, Solution, Times
from genjax.types import Aux, Batch, Context, Images, Keys, Labels, Player, Variables


@dataclasses.dataclass(frozen=True)
class Diffusion:
  """A game of one player, 'model': minimise E w(t) |F(x_t, t) - target|^2 over x_t = alpha(t) x_0 + sigma(t) eps.

  `network(x, condition, label) -> F`; `prediction` says what F is and what the network sees of x_t and t.
  """

  network: nn.Module
  path: Path
  prediction: Prediction
  times: Callable[[Path, Keys], Float[Array, 'b']]  # which are trained: genjax/objectives/times.py
  image_shape: tuple[int, int, int]
  weighting: Callable[[Path, Array], Array] | None = None  # of the error of eps (weightings.py); None: 1 on that of F
  num_classes: int = 0  # 0: unconditional
  label_dropout: float = 0.1  # how often the label is hidden in training, for classifier-free guidance (2207.12598)

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
    t_keys, eps_keys, label_keys = rng.split(keys, 3)
    x_0, eps = batch.image, rng.normal(eps_keys, batch.image.shape[1:])
    t = self.times(self.path, t_keys)[:, None, None, None]
    drop = rng.bernoulli(label_keys, self.label_dropout)
    label = jnp.where(drop, self.num_classes, batch.label)
    x_t = self.path.alpha(t) * x_0 + self.path.sigma(t) * eps
    error = self.answer(params, x_t, t, label) - self.prediction.target(self.path, t, x_0, eps)
    squared = error**2
    if self.weighting is not None:
      squared *= self.weighting(self.path, t) * self.prediction.eps_error(self.path, t) ** 2
    return jnp.mean(squared), Aux({})

  def answer(self, params: dict, x_t: Images, t, label: Labels | None) -> Images:
    """F for x_t at times t [B, 1, 1, 1]."""
    x, condition = self.prediction.scale(self.path, t) * x_t, self.prediction.condition(self.path, t)
    return self.network.apply({'params': params['model']}, x, condition[:, 0, 0, 0], one_hot(label, self.num_classes))

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

  def sample(
    self,
    variables: Variables,
    keys: Keys,
    labels: Labels | None = None,
    *,
    solver: str = 'heun',
    steps: int = 25,
    grid: str = '',
    guidance: float = 1.0,
    guidance_interval: tuple[float, ...] = (),
    eta: float = 0.0,
    churn: float = 0.0,
    clip_denoised: bool = False,
  ) -> Images:
    """Images from noise. A conditional model without labels draws them uniformly.

    Args:
      solver: a name in genjax/samplers/solvers.py.
      steps: of the time grid; heun and langevin evaluate the network twice in each.
      grid: a name in genjax/samplers/grids.py; '': the one that suits the path.
      guidance: 1 none, above 1 towards the label, 0 the unconditional model; anything but 1 doubles the evaluations.
      guidance_interval: (low, high) of sigma / alpha to which guidance is confined; (): everywhere.
      eta: the part of fresh noise in solver 'ddim', from 0 to 1.
      churn: S_churn of solver 'heun'.
      clip_denoised: hold each predicted x_0 within [-1, 1].

    Raises:
      UsageError: an unknown solver or grid, values out of range, options that do not go together.
    """
    if solver not in SOLVERS:
      raise UsageError(f'solver={solver!r} is not there.' + did_you_mean(solver, SOLVERS, 'There are'))
    grid = grid or self.path.grid
    if grid not in GRIDS:
      raise UsageError(f'grid={grid!r} is not there.' + did_you_mean(grid, GRIDS, 'There are'))
    if steps < 1:
      raise UsageError(f'steps={steps}: a solver takes at least 1.')
    if not 0 <= eta <= 1 or (eta and solver != 'ddim'):
      raise UsageError(f"eta={eta}: from 0 to 1, and with solver 'ddim' alone.")
    if churn < 0 or (churn and solver != 'heun'):
      raise UsageError(f"churn={churn}: not negative, and with solver 'heun' alone.")
    function = SOLVERS[solver]
    if eta or churn:
      function = functools.partial(function, **({'eta': eta} if eta else {'churn': churn}))
    times = GRIDS[grid](self.path, steps)
    labels = labels_or_random(labels, keys, self.num_classes)
    return self.solve(variables, keys, labels, function, times, guidance, guidance_interval, clip_denoised).x

  def solve(
    self,
    variables: Variables,
    keys: Keys,
    labels: Labels | None,
    solver: Callable[..., Solution],
    times: Times,
    guidance: float = 1.0,
    guidance_interval: tuple[float, ...] = (),
    clip_denoised: bool = False,
  ) -> Solution:
    """As `sample`, with a solver and a time grid at hand; returns the way to the images too.

    Raises:
      UsageError: guidance of an unconditional model, or an interval that is not two rising numbers.
    """
    if guidance_interval and (len(guidance_interval) != 2 or not 0 <= guidance_interval[0] < guidance_interval[1]):
      raise UsageError(f'guidance_interval={guidance_interval}: give (low, high) of sigma / alpha.')
    denoise = self.denoiser(variables, labels)
    if guidance != 1:
      denoise = guided(denoise, self.worse(variables, labels), guidance, self.path, guidance_interval)
    if clip_denoised:
      free = denoise
      denoise = lambda x, t: jnp.clip(free(x, t), -1, 1)  # noqa: E731
    noise = self.path.sigma(times[0]) * rng.normal(rng.fold_in(keys, 0), self.image_shape)
    solution = solver(denoise, self.path, noise, times, keys)
    return solution._replace(x=jnp.clip(solution.x, -1, 1))


@dataclasses.dataclass(frozen=True)
class Autoguided(Diffusion):
  """A model guided by a weaker one of itself (2406.02507), whose parameters are those of the name 'weak'."""

  weak: Diffusion | None = None

  def worse(self, variables: Variables, labels: Labels | None) -> Denoiser:
    return self.weak.denoiser(Variables({'model': variables.params['weak']}, {}), labels)
