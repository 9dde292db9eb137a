"""The convergence order of each ODE solver on each noise path, as a Markdown table.

  python -m benchmarks.solver_order --timesteps log_snr      (or another of genjax/samplers/timesteps.py)

The data are a mixture of five normal distributions in four dimensions, whose denoiser E[x_0 | x_t] has a closed form. Each
entry is the median and maximum error of 16 solutions in float32, as root mean square over dimensions. The reference is SciPy's
DOP853 with a relative tolerance of 1e-10, which integrates over arctan(sigma / alpha) and shares no code with genjax. The
order is fitted to the medians above 5e-6 from 50 steps on; below, rounding errors dominate. `dopri5` is adaptive, so
its table has tolerances instead of steps.
"""

import argparse
import os

if '--xla_backend_optimization_level' not in os.environ.get('XLA_FLAGS', ''):  # most of the time is compilation
  os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + ' --xla_backend_optimization_level=0'

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

from genjax.samplers import paths, solvers
from genjax.samplers.timesteps import TIMESTEPS

STEPS = (10, 25, 50, 100, 250, 251, 500)
TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5)
FLOAT32 = 5e-6  # smaller errors may be rounding errors
SOLVERS = ('euler', 'heun', 'dpmpp_2m', 'unipc')
PATHS = {
  'RectifiedFlow': paths.RectifiedFlow(),
  'EDM': paths.EDM(),
  'VE': paths.VE(),
  'VPLinear': paths.VPLinear(),
  'VPCosine': paths.VPCosine(),
  'DiscreteLinear, T=1000': paths.DiscreteLinear(),
  'DiscreteCosine, T=1000': paths.DiscreteCosine(),
  'DiscreteCosine, T=250': paths.DiscreteCosine(T=250),
}

_random = np.random.default_rng(0)
MEANS = _random.normal(size=(5, 4)) / 2  # [K, D]
STDS = _random.uniform(0.05, 0.3, 5)  # [K]
STARTS = _random.normal(size=(16, 4))


def posterior_mean(alpha, sigma, x, xp):
  """E[x_0 | x_t = x] [n, 4] for x [n, 4], alpha and sigma [n]; `xp` is numpy or jax.numpy."""
  alpha, sigma = alpha[:, None], sigma[:, None]
  variance = alpha**2 * STDS[None] ** 2 + sigma**2  # [n, K]
  difference = x[:, None] - alpha[..., None] * MEANS[None]  # [n, K, 4]
  log_p = -0.5 * xp.sum(difference**2, axis=-1) / variance - 2 * xp.log(variance)
  p = xp.exp(log_p - log_p.max(axis=1, keepdims=True))
  means = MEANS[None] + (alpha * STDS[None] ** 2 / variance)[..., None] * difference
  return xp.sum((p / p.sum(axis=1, keepdims=True))[..., None] * means, axis=1)


def reference(path, last: float) -> np.ndarray:
  """Solutions of the probability-flow ODE from STARTS in float64, [16, 4]: to sigma / alpha = `last`, then E[x_0 | x_t].

  With u = x / sqrt(alpha^2 + sigma^2) and the angle a = arctan(sigma / alpha), du / da = cos(a) eps - sin(a) x_0.
  """
  alpha, sigma = (float(f(jnp.asarray(path.end))) for f in (path.alpha, path.sigma))

  def x_0(a, u):
    return posterior_mean(np.cos([a]), np.sin([a]), u[None], np)[0]

  def slope(a, u):
    return (np.cos(a) * u - x_0(a, u)) / np.sin(a)

  solutions = []
  for start in STARTS * sigma / np.hypot(alpha, sigma):
    u = solve_ivp(slope, (np.arctan2(sigma, alpha), np.arctan(last)), start, 'DOP853', rtol=1e-10, atol=1e-12).y[:, -1]
    solutions.append(x_0(np.arctan(last), u))
  return np.stack(solutions)


def denoiser(path):
  def denoise(x, t):
    t = jnp.broadcast_to(t, x.shape[:1])
    return posterior_mean(path.alpha(t), path.sigma(t), x.reshape(-1, 4), jnp).reshape(x.shape)

  return denoise


def last_noise(path, timesteps: str) -> float:
  """sigma / alpha before the last step to 0, for any number of steps. VE has no values between 0 and sigma_min."""
  return float(path.ratio_min) if timesteps in ('karras', 'log_snr') or isinstance(path, paths.VE) else 1e-6


def solve(solver: str, path, timesteps: str, steps: int, **options) -> solvers.Solution:
  """Solves the ODE from the 16 STARTS, as images of 2x2 pixels."""
  start = jnp.asarray(float(path.sigma(jnp.asarray(path.end))) * STARTS.reshape(16, 2, 2, 1), jnp.float32)
  times = TIMESTEPS[timesteps](path, steps)
  return jax.jit(lambda x: solvers.SOLVERS[solver](denoiser(path), path, x, times, None, **options))(start)


def errors(solution: solvers.Solution, expected: np.ndarray) -> np.ndarray:
  """Root mean square errors of the 16 solutions, [16]."""
  return np.sqrt(np.mean((np.asarray(solution.x, np.float64).reshape(16, 4) - expected) ** 2, axis=1))


def cell(error: np.ndarray) -> str:
  return f'{np.median(error):.1e} / {error.max():.1e}'


def order(steps, medians) -> float | None:
  """The order of convergence, fitted to the errors above rounding; None with fewer than two of them."""
  kept = [(n, e) for n, e in zip(steps, medians, strict=True) if n >= 50 and e > FLOAT32]
  return -float(np.polyfit(*np.log(np.array(kept)).T, 1)[0]) if len(kept) > 1 else None


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--solvers', default=','.join(SOLVERS), help=f'some of {",".join(SOLVERS)},dopri5')
  parser.add_argument('--timesteps', default='log_snr', choices=TIMESTEPS, help='the time steps (log_snr)')
  args = parser.parse_args()
  if args.solvers == 'dopri5':
    return adaptive()
  print(f'| path | solver | {" | ".join(map(str, STEPS))} | order |\n|---|---|{"---|" * len(STEPS)}---|')
  for name, path in PATHS.items():
    expected = reference(path, last_noise(path, args.timesteps))
    for solver in args.solvers.split(','):
      results = [errors(solve(solver, path, args.timesteps, n), expected) for n in STEPS]
      fitted = order(STEPS, [np.median(e) for e in results])
      exponent = '' if fitted is None else f'{fitted:.2f}'
      print(f'| {name} | {solver} | {" | ".join(map(cell, results))} | {exponent} |', flush=True)


def adaptive():
  """Prints the table of `dopri5`: errors, and evaluations per image."""
  print(f'| path | {" | ".join(f"{t:g}" for t in TOLERANCES)} |\n|---|{"---|" * len(TOLERANCES)}')
  for name, path in PATHS.items():
    expected = reference(path, float(path.ratio_min))
    solutions = [solve('dopri5', path, 'log_snr', 1, rtol=t, atol=t) for t in TOLERANCES]
    cells = [f'{cell(errors(s, expected))} ({float(s.evaluations.mean()):.0f})' for s in solutions]
    print(f'| {name} | {" | ".join(cells)} |', flush=True)


if __name__ == '__main__':
  main()
