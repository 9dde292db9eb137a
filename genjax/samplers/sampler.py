"""How images are drawn from a diffusion model: a solver, a time grid and what is done to the denoiser, as plain options."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax.errors import UsageError, unknown
from genjax.samplers.paths import Path
from genjax.samplers.solvers import SOLVERS, Denoiser, Solution, Solver
from genjax.samplers.timesteps import GRIDS, MAX_STEPS, karras
from genjax.types import Images, Keys


@dataclasses.dataclass(frozen=True)
class Sampler:
  """A config may set these; `sample.py --steps 50` and `run.sample(key, n, steps=50)` change them.

  Raises:
    UsageError: an unknown solver or grid, values out of range, options that do not go together.
  """

  solver: str | Solver = 'heun'  # a name in genjax/samplers/solvers.py, or a solver with options of its own
  steps: int = 25  # of the time grid; heun and langevin evaluate twice in each, dormand_prince's own only pass through them
  grid: str = ''  # a name in genjax/samplers/timesteps.py; '': the one that suits the path
  rho: float = 7.0  # of grid 'karras': higher is finer towards the data
  guidance: float = 1.0  # 1 none, above 1 towards the label or from a weaker model; but for 1, twice the cost
  guidance_interval: tuple[float, ...] = ()  # (low, high) of sigma / alpha to which guidance is confined; (): everywhere
  eta: float = 0.0  # of solver 'ddim': the part of fresh noise, from 0 to 1
  churn: float = 0.0  # of solver 'heun': S_churn
  churn_interval: tuple[float, ...] = ()  # (S_tmin, S_tmax) of sigma / alpha to which churn is confined; (): everywhere
  churn_noise: float = 1.0  # S_noise
  snr: float = 0.16  # of solver 'langevin': r, how far the corrector goes
  tolerance: float = 1e-4  # of solver 'dormand_prince': relative and absolute error of a step
  clip_denoised: bool = False  # hold each predicted x_0 within [-1, 1]

  def __post_init__(self):
    if any(isinstance(value, jax.core.Tracer) for value in vars(self).values()):
      return  # checked before it was traced
    if isinstance(self.solver, str) and self.solver not in SOLVERS:
      raise UsageError(unknown('solver', self.solver, SOLVERS))
    if self.grid and self.grid not in GRIDS:
      raise UsageError(unknown('grid', self.grid, GRIDS))
    if not 1 <= self.steps <= MAX_STEPS:
      raise UsageError(f'steps={self.steps} must be from 1 to {MAX_STEPS:,}.')
    if not 0 <= self.eta <= 1 or (self.eta and self.solver != 'ddim'):
      raise UsageError(f"eta={self.eta}: from 0 to 1, and with solver 'ddim' alone.")
    if min(self.churn, self.churn_noise) < 0 or (self.churn and self.solver != 'heun'):
      raise UsageError(f"churn={self.churn}, churn_noise={self.churn_noise}: not negative, and with solver 'heun' alone.")
    if min(self.rho, self.snr, self.tolerance) <= 0:
      raise UsageError(f'rho={self.rho}, snr={self.snr}, tolerance={self.tolerance} must be positive.')
    for name, solver in (('snr', 'langevin'), ('tolerance', 'dormand_prince')):
      if getattr(self, name) != getattr(Sampler, name) and self.solver != solver:
        raise UsageError(f'{name}={getattr(self, name)}: with solver {solver!r} alone.')
    for name, interval in (('guidance', self.guidance_interval), ('churn', self.churn_interval)):
      if interval and (len(interval) != 2 or not 0 <= interval[0] < interval[1]):
        raise UsageError(f'{name}_interval={interval}: give (low, high) of sigma / alpha.')
    if self.guidance_interval and self.guidance == 1:
      raise UsageError(f'guidance_interval={self.guidance_interval}: guidance=1 is none, give more, as guidance=2.')
    if (self.churn_interval or self.churn_noise != 1) and not self.churn:
      raise UsageError(
        f'churn_interval={self.churn_interval}, churn_noise={self.churn_noise}: churn=0 is none, give churn too, as churn=40.'
      )

  @property
  def is_guided(self) -> bool:
    return differs(self.guidance, 1)

  def times(self, path: Path) -> Float[Array, 's']:
    """The grid on this path. Raises UsageError for a rho that it does not have."""
    grid = self.grid or path.grid
    if grid == 'karras':
      return karras(path, self.steps, self.rho)
    if differs(self.rho, Sampler.rho):
      raise UsageError(f"rho={self.rho}: with grid 'karras' alone; {path} has {grid!r} unless told otherwise.")
    return GRIDS[grid](path, self.steps)

  def solve(self, denoise: Denoiser, path: Path, noise: Images, keys: Keys) -> Solution:
    """From standard normal `noise` to data. Guidance is the caller's: it needs two denoisers."""
    if self.clip_denoised:
      free = denoise
      denoise = lambda x, t: jnp.clip(free(x, t), -1, 1)  # noqa: E731
    given = {'eta': self.eta} if differs(self.eta, 0) else {}
    if differs(self.churn, 0):
      low, high = self.churn_interval or (0.0, float('inf'))
      given = {'churn': self.churn, 'churn_min': low, 'churn_max': high, 'churn_noise': self.churn_noise}
    if self.solver == 'langevin':
      given = {'snr': self.snr}
    if self.solver == 'dormand_prince':
      given = {'rtol': self.tolerance, 'atol': self.tolerance}
    times = self.times(path)
    solver = SOLVERS[self.solver] if isinstance(self.solver, str) else self.solver
    return functools.partial(solver, **given)(denoise, path, path.sigma(times[0]) * noise, times, keys)


def differs(value: Any, default: float) -> bool:
  """Whether an option has another value than its default, which means that something is off; a traced option has."""
  return isinstance(value, jax.core.Tracer) or value != default
