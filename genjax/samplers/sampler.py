"""Options of sampling from a diffusion model: the solver, the time steps, guidance and clipping."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax.errors import UsageError, unknown
from genjax.samplers.paths import NoisePath
from genjax.samplers.solvers import SOLVERS, Denoiser, Solution, Solver
from genjax.samplers.timesteps import MAX_STEPS, TIMESTEPS, karras
from genjax.types import Images, Keys


@dataclasses.dataclass(frozen=True)
class Sampler:
  """Sampling options. A config sets defaults; `sample.py --steps 50` and `run.sample(key, n, steps=50)` override them.

  Raises:
    UsageError: unknown solver or time steps, values out of range, or options that cannot be combined.
  """

  solver: str | Solver = 'heun'  # a name in genjax/samplers/solvers.py, or a custom solver
  steps: int = 25  # time steps; heun and predictor_corrector use two evaluations each, and dopri5 chooses other steps
  timesteps: str = ''  # a name in genjax/samplers/timesteps.py; '': the default of the path
  rho: float = 7.0  # of timesteps 'karras': larger values make the steps near the data finer
  guidance: float = 1.0  # guidance scale: 1 is none, and other values double the cost
  guidance_interval: tuple[float, ...] = ()  # (low, high) of sigma / alpha in which guidance is used; (): everywhere
  eta: float = 0.0  # of solver 'ddim': amount of fresh noise, from 0 to 1
  churn: float = 0.0  # of solver 'heun': S_churn
  churn_interval: tuple[float, ...] = ()  # (S_tmin, S_tmax) of sigma / alpha in which churn is used; (): everywhere
  churn_noise: float = 1.0  # S_noise
  snr: float = 0.16  # of solver 'predictor_corrector': r, the signal-to-noise ratio of the corrector
  tolerance: float = 1e-4  # of solver 'dopri5': relative and absolute error of a step
  clip_denoised: bool = False  # clip each predicted x_0 to [-1, 1]

  def __post_init__(self):
    if any(isinstance(value, jax.core.Tracer) for value in jax.tree.leaves(list(vars(self).values()))):
      return  # checked before it was traced
    if isinstance(self.solver, str) and self.solver not in SOLVERS:
      raise UsageError(unknown('solver', self.solver, SOLVERS))
    if self.timesteps and self.timesteps not in TIMESTEPS:
      raise UsageError(unknown('timesteps', self.timesteps, TIMESTEPS))
    if not 1 <= self.steps <= MAX_STEPS:
      raise UsageError(f'steps={self.steps} must be from 1 to {MAX_STEPS:,}.')
    if not 0 <= self.eta <= 1 or (self.eta and self.solver != 'ddim'):
      raise UsageError(f"eta={self.eta} must be from 0 to 1, and needs solver='ddim'.")
    if min(self.churn, self.churn_noise) < 0 or (self.churn and self.solver != 'heun'):
      raise UsageError(
        f"churn={self.churn}, churn_noise={self.churn_noise} must not be negative, and churn needs solver='heun'."
      )
    if min(self.rho, self.snr, self.tolerance) <= 0:
      raise UsageError(f'rho={self.rho}, snr={self.snr}, tolerance={self.tolerance} must be positive.')
    for name, solver in (('snr', 'predictor_corrector'), ('tolerance', 'dopri5')):
      if getattr(self, name) != getattr(Sampler, name) and self.solver != solver:
        raise UsageError(f'{name}={getattr(self, name)} needs solver={solver!r}.')
    for name, interval in (('guidance', self.guidance_interval), ('churn', self.churn_interval)):
      if interval and (len(interval) != 2 or not 0 <= interval[0] < interval[1]):
        raise UsageError(f'{name}_interval={interval} must be (low, high) of sigma / alpha.')
    if self.guidance_interval and self.guidance == 1:
      raise UsageError(f'guidance_interval={self.guidance_interval} has no effect with guidance=1: use another guidance.')
    if (self.churn_interval or self.churn_noise != 1) and not self.churn:
      raise UsageError(
        f'churn_interval={self.churn_interval}, churn_noise={self.churn_noise} have no effect with churn=0: set churn too.'
      )

  @property
  def is_guided(self) -> bool:
    return differs(self.guidance, 1)

  def check_timesteps(self, default: str) -> str:
    """The time steps, `default` if they are not set. Raises UsageError if rho is set for others than 'karras'."""
    timesteps = self.timesteps or default
    if timesteps != 'karras' and differs(self.rho, Sampler.rho):
      raise UsageError(f"rho={self.rho} is an option of timesteps='karras', not of {timesteps!r}.")
    return timesteps

  def times(self, path: NoisePath) -> Float[Array, 's']:
    """The times on this path. Raises UsageError if rho is set for other time steps than 'karras'."""
    timesteps = self.check_timesteps(path.timesteps)
    if timesteps == 'karras':
      return karras(path, self.steps, self.rho)
    return TIMESTEPS[timesteps](path, self.steps)

  def solve(self, denoise: Denoiser, path: NoisePath, noise: Images, keys: Keys) -> Solution:
    """Solves from standard normal `noise` to data. `denoise` already includes guidance."""
    if self.clip_denoised:
      unclipped = denoise
      denoise = lambda x, t: jnp.clip(unclipped(x, t), -1, 1)  # noqa: E731
    options = {'eta': self.eta} if differs(self.eta, 0) else {}
    if differs(self.churn, 0):
      low, high = self.churn_interval or (0.0, float('inf'))
      options = {'churn': self.churn, 'churn_min': low, 'churn_max': high, 'churn_noise': self.churn_noise}
    if self.solver == 'predictor_corrector':
      options = {'snr': self.snr}
    if self.solver == 'dopri5':
      options = {'rtol': self.tolerance, 'atol': self.tolerance}
    times = self.times(path)
    solver = SOLVERS[self.solver] if isinstance(self.solver, str) else self.solver
    return functools.partial(solver, **options)(denoise, path, path.sigma(times[0]) * noise, times, keys)


def differs(value: Any, default: float) -> bool:
  """Whether an option differs from its default, which turns a feature off; traced options count as different."""
  return isinstance(value, jax.core.Tracer) or value != default
