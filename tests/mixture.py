"""Data whose diffusion is known: pixels that are independent 1-D mixtures of two normal distributions.

The posterior mean at any x_t is a formula, and since the flow of the probability-flow ODE is monotone in one dimension, it maps
each quantile of the noise to that quantile of the data.
"""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from genjax import rng
from genjax.errors import UsageWarning
from genjax.objectives.diffusion import parameterizations, times
from genjax.objectives.diffusion.diffusion import Diffusion
from genjax.samplers import paths
from genjax.samplers.elbo import LEVEL
from genjax.types import Context, Variables

N = 4096
KEYS = rng.image_keys(jax.random.key(0), jnp.arange(N))
NOTHING = Variables({'model': {}}, {})
CONTEXT = Context(jnp.zeros((), int), {}, {})
WEIGHT, MEAN, STD = np.array([0.3, 0.7]), np.array([-0.5, 0.4]), np.array([0.15, 0.25])
PATHS = {
  type(path).__name__: path
  for path in (
    paths.RectifiedFlow(),
    paths.EDM(),
    paths.VE(),
    paths.VPLinear(),
    paths.VPCosine(),
    paths.DiscreteLinear(),
    paths.DiscreteCosine(),
  )
}
PREDICTIONS = ('Eps', 'X0', 'V', 'Velocity', 'EDMPrecond')


def image(t):
  return t[:, None, None, None] if t.ndim else t


def posterior(alpha, sigma, x, mean=MEAN):
  """E[x_0 | x_t = x] of the mixture."""
  variance = [alpha**2 * s**2 + sigma**2 for s in STD]
  terms = zip(WEIGHT, mean, variance, strict=True)
  p = jax.nn.softmax(jnp.stack([jnp.log(w / v**0.5) - 0.5 * (x - alpha * m) ** 2 / v for w, m, v in terms]), axis=0)
  means = [m + alpha * s**2 / v * (x - alpha * m) for m, s, v in zip(mean, STD, variance, strict=True)]
  return p[0] * means[0] + p[1] * means[1]


def exact(path, mean=MEAN):
  return lambda x, t: posterior(image(path.alpha(t)), image(path.sigma(t)), x, mean)


def quantiles_moved(path, x):
  """Where the probability-flow ODE takes `x` at the path's end."""
  end = jnp.asarray(path.end)
  alpha, sigma = float(path.alpha(end)), float(path.sigma(end))
  rows = list(zip(WEIGHT, MEAN, STD, strict=True))
  cdf = lambda y, a, b: sum(w * norm.cdf(y, a * m, np.hypot(a * s, b)) for w, m, s in rows)  # noqa: E731
  moved = [brentq(lambda y, q: cdf(y, 1.0, 0.0) - q, -6, 6, args=(cdf(v, alpha, sigma),)) for v in np.ravel(x)]
  return np.reshape(moved, x.shape)


def start(path, n=16):
  """Noise at the path's end, evenly spread."""
  spread = jnp.linspace(-1.8, 1.8, n).reshape(n // 4, 2, 2, 1)
  return path.sigma(jnp.asarray(path.end)) * spread


@dataclasses.dataclass(frozen=True)
class ExactNetwork:
  """What a network that knows x_0 (the posterior mean, or `always`) answers, from the papers' definitions."""

  prediction: str
  path: str
  always: float | None = None

  def apply(self, variables, x, condition, cond):
    path = PATHS[self.path]
    t = image(condition) / 1000 * path.end
    if self.prediction == 'EDMPrecond':
      t = path.time(jnp.exp(4 * image(condition)))
    a, b = path.alpha(t), path.sigma(t)
    if self.prediction == 'EDMPrecond':
      x_t = x * jnp.sqrt(0.25 * a**2 + b**2)
    elif self.prediction == 'Velocity':
      x_t = x
    else:
      x_t = x * jnp.sqrt(a**2 + b**2)
    x_0 = posterior(a, b, x_t) if self.always is None else jnp.full_like(x_t, self.always)
    eps = (x_t - a * x_0) / b
    if self.prediction == 'EDMPrecond':  # 2206.00364, table 1, for y = x_t / alpha at sigma / alpha
      s = b / a
      return (x_0 - 0.25 / (s**2 + 0.25) * x_t / a) / (s * 0.5 / jnp.sqrt(s**2 + 0.25))
    h = 1e-3 * path.end
    rate = lambda f: (f(t + h) - f(t - h)) / (2 * h)  # noqa: E731
    return {
      'Eps': eps,
      'X0': x_0,
      'V': a * eps - b * x_0,
      'Velocity': rate(path.alpha) * x_0 + rate(path.sigma) * eps,
    }[self.prediction]


def model(prediction, path, always=None, **options):
  arguments = {'times': times.Uniform(), 'image_shape': (2, 2, 1)} | options
  with warnings.catch_warnings():  # an exact network needs no clipping
    warnings.simplefilter('ignore', UsageWarning)
    return Diffusion(ExactNetwork(prediction, path, always), PATHS[path], getattr(parameterizations, prediction)(), **arguments)


# 8-bit images of 2x2 pixels, and what they cost.

SHAPE = (2, 2, 1)
LEVELS = np.arange(256) / 127.5 - 1
MU, S = 0.1, 0.2  # of normal data


def rounded(x):
  return jnp.round((jnp.clip(x, -1, 1) + 1) * 127.5) / 127.5 - 1


def normal_images(n):
  return rounded(MU + S * rng.normal(rng.fold_in(KEYS[:n], 1001), SHAPE))


def mixture_images(n):
  pick = rng.bernoulli(rng.fold_in(KEYS[:n], 1001), WEIGHT[1], SHAPE).astype(int)
  return rounded(jnp.asarray(MEAN)[pick] + jnp.asarray(STD)[pick] * rng.normal(rng.fold_in(KEYS[:n], 1002), SHAPE))


def log_mass(x, weight, mean, std):
  """log of what each level has of a mixture."""
  half = 1 / 255
  rows = list(zip(weight, mean, std, strict=True))
  return np.log(sum(w * (norm.cdf(x + half, m, s) - norm.cdf(x - half, m, s)) for w, m, s in rows))


def cost_of_levels(ratio):
  """Bits per dimension from levels blurred by `ratio` to a smooth density: KL(wrapped normal || uniform)."""
  z = np.linspace(0, LEVEL, 10_001)[:-1]
  density = sum(norm.pdf(z, i * LEVEL, ratio) for i in range(-40, 42))
  return np.mean(density * LEVEL * np.log2(density * LEVEL))
