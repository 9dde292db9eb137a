"""Time steps: (path, steps) -> steps + 1 decreasing times from path.end (noise) to 0 (data)."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax.samplers.paths import NoisePath
from genjax.samplers.process import ratio

MAX_STEPS = 1_000_000  # float32 cannot represent many more different times
RATIO_MAX = 80.0  # the first sigma / alpha (sigma_max of EDM) for paths that end in pure noise


def uniform(path: NoisePath, steps: int) -> Float[Array, 's']:
  """Uniform in t."""
  return path.end * jnp.linspace(1.0, 0.0, steps + 1)


def quadratic(path: NoisePath, steps: int) -> Float[Array, 's']:
  """Uniform in sqrt(t), finer near the data (DDIM on CIFAR-10, 2010.02502, appendix D.2)."""
  return path.end * jnp.linspace(1.0, 0.0, steps + 1) ** 2


def karras(path: NoisePath, steps: int, rho: float = 7.0) -> Float[Array, 's']:
  """Uniform in (sigma / alpha)^(1 / rho) from the end of the path to path.ratio_min; then 0 (2206.00364, eq. 5)."""
  return _between(path, steps, lambda r: r ** (1 / rho), lambda u: u**rho)


def uniform_log_snr(path: NoisePath, steps: int) -> Float[Array, 's']:
  """Uniform in log(alpha / sigma), lambda of DPM-Solver (2206.00927, section 3.4), in the same range; then 0."""
  return _between(path, steps, jnp.log, jnp.exp)


def _between(path: NoisePath, steps: int, scale: Callable, back: Callable) -> Float[Array, 's']:
  end = ratio(path, jnp.asarray(path.end))
  high = scale(jnp.where(jnp.isinf(end), RATIO_MAX, end))
  ratios = back(high + jnp.linspace(0.0, 1.0, steps) * (scale(jnp.asarray(path.ratio_min)) - high))
  return jnp.concatenate([jnp.array([path.end]), path.time(ratios[1:]), jnp.zeros(1)])


TIMESTEPS: dict[str, Callable[[NoisePath, int], Float[Array, 's']]] = {
  'uniform': uniform,
  'quadratic': quadratic,
  'karras': karras,
  'log_snr': uniform_log_snr,
}
