"""The variational bound of -log p(x), in nats: for a chain of T steps, or in continuous time.

Ho et al. (2006.11239, eq. 5) and Nichol & Dhariwal (2102.09672); Kingma et al. (2107.00630). Both are unbiased estimates from
`evaluations` random times per image. Images have 8 bits, 256 levels from -1 to 1, and predictions of images are clipped to this
range, since errors of eps at high noise correspond to thousands of levels.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float

from genjax import rng
from genjax.samplers.paths import DiscretePath, NoisePath
from genjax.samplers.process import StepPosterior, posterior, ratio
from genjax.samplers.solvers import Denoiser
from genjax.types import Images, Keys

LEVEL = 2 / 255  # between neighboring values of a pixel
RATIO_MAX = 1e3  # replaces an infinite sigma / alpha at the end of a path: the prior term is then |x_0|^2 / 2e6
PerImage = Float[Array, 'b 1 1 1']


def discrete(
  predict: Callable[[Images, Float[Array, 'b']], tuple[Images, Images | None]],
  path: DiscretePath,
  x_0: Images,
  keys: Keys,
  evaluations: int,
) -> Float[Array, 'b']:
  """The bound for the chain of the path's T steps (2006.11239, eq. 5).

  Args:
    predict: (x_t, t) -> (x_0, log-variance of the step to t - 1/T, or None for the posterior's).
  """

  def nats(keys, i):
    eps = rng.normal(keys, x_0.shape[1:])
    t = i[:, None, None, None] / path.T
    x_t = path.alpha(t) * x_0 + path.sigma(t) * eps
    x_0_hat, log_variance = predict(x_t, i / path.T)
    return step_nats(path, t, x_0, x_t, x_0_hat, log_variance)

  def add(total, k):
    # Importance sampling: half uniform, half concentrated on early steps, which have the largest terms.
    u = (k - 1 + rng.uniform(rng.fold_in(keys, 2 * k))) / evaluations
    part = (jnp.sqrt(1 + 8 * u) - 1) ** 2 / 4  # where `below` is u
    i = 2 + jnp.minimum((part * (path.T - 1)).astype(jnp.int32), path.T - 2)
    below = lambda part: 0.5 * (part + jnp.sqrt(part))  # noqa: E731
    chance = below((i - 1) / (path.T - 1)) - below((i - 2) / (path.T - 1))
    return total + nats(rng.fold_in(keys, 2 * k + 1), i) / chance, None

  total, _ = jax.lax.scan(add, jnp.zeros(len(x_0)), 1 + jnp.arange(evaluations))
  first = nats(rng.fold_in(keys, 0), jnp.ones(len(x_0), jnp.int32))
  return prior_nats(x_0, ratio(path, jnp.asarray(path.end))) + total / evaluations + first


def continuous(denoise: Denoiser, path: NoisePath, x_0: Images, keys: Keys, evaluations: int) -> Float[Array, 'b']:
  """The bound in continuous time (2107.00630, eqs. 11 and 12), starting at sigma / alpha = path.ratio_min.

  Times are uniform in log(sigma / alpha), for which the integrand is the squared error of eps.
  """
  low, high = jnp.asarray(path.ratio_min), jnp.minimum(ratio(path, jnp.asarray(path.end)), RATIO_MAX)
  span = jnp.log(high / low)

  def add(total, k):
    u = (k - 1 + rng.uniform(rng.fold_in(keys, 2 * k))) / evaluations
    eps = rng.normal(rng.fold_in(keys, 2 * k + 1), x_0.shape[1:])
    level = low * jnp.exp(u * span)
    t = path.time(level)
    at = level[:, None, None, None]
    x_t = path.alpha(t)[:, None, None, None] * (x_0 + at * eps)
    return total + (((x_0 - jnp.clip(denoise(x_t, t), -1, 1)) / at) ** 2).sum(axis=(1, 2, 3)), None

  total, _ = jax.lax.scan(add, jnp.zeros(len(x_0)), 1 + jnp.arange(evaluations))
  eps = rng.normal(rng.fold_in(keys, 0), x_0.shape[1:])
  return prior_nats(x_0, high) + span * total / evaluations + reconstruction_nats(x_0, eps, low)


def prior_nats(x_0: Images, end: Float[Array, '']) -> Float[Array, 'b']:
  """KL(q(x_end | x_0) || N(0, sigma^2)) of the initial distribution of samplers, at sigma / alpha = `end`."""
  return 0.5 * (x_0**2).sum(axis=(1, 2, 3)) / end**2


def reconstruction_nats(x_0: Images, eps: Images, start: Float[Array, '']) -> Float[Array, 'b']:
  """-log p(x_0 | z), p(v | z) proportional to q(z | v) over all levels v, z = x_0 + start eps (2107.00630, section 3.3)."""
  z = x_0 + start * eps
  log_q = lambda v: -0.5 * ((z - v) / start) ** 2  # noqa: E731
  total, _ = jax.lax.scan(  # one level at a time: 256 times the memory otherwise
    lambda total, i: (jnp.logaddexp(total, log_q(i * LEVEL - 1)), None), jnp.full_like(z, -jnp.inf), jnp.arange(256.0)
  )
  return (total - log_q(x_0)).sum(axis=(1, 2, 3))


def step_nats(
  path: DiscretePath, t: PerImage, x_0: Images, x_t: Images, x_0_hat: Images, log_variance: Images | None = None
) -> Float[Array, 'b']:
  """L_(t-1) of 2006.11239, eq. 5, for the prediction `x_0_hat` of x_0: a KL divergence; L_0, -log p(x_0 | x_1), at t = 1/T."""
  q, x_0_hat = posterior(path, t, (jnp.round(t * path.T) - 1) / path.T), jnp.clip(x_0_hat, -1, 1)
  if log_variance is None:
    log_variance = log_clipped(path, t, q)
  apart = q.gain * (x_0 - x_0_hat)
  spread = q.variance * jnp.exp(-log_variance)
  kl = 0.5 * (log_variance - jnp.log(jnp.where(q.variance > 0, q.variance, 1)) + spread - 1 + apart**2 * jnp.exp(-log_variance))
  mean = q.keep * x_t + q.gain * x_0_hat
  terms = jnp.where(t * path.T < 1.5, -log_level(x_0, mean, log_variance), kl)
  return terms.sum(axis=(1, 2, 3))


def log_clipped(path: DiscretePath, t: PerImage, q: StepPosterior) -> PerImage:
  """Log of the posterior's variance; where this is 0, that of the second to last step (2102.09672, section 3.1)."""
  least = posterior(path, jnp.asarray(2 / path.T), jnp.asarray(1 / path.T)).variance
  return jnp.log(jnp.maximum(q.variance, least))


def log_level(x: Images, mean: Images, log_variance: Images) -> Images:
  """Log of the mass of N(mean, variance) that rounds to x; -1 and 1 include the tails (2006.11239, eq. 13)."""
  scale = jnp.exp(-0.5 * log_variance)
  upper, lower = ((x + half - mean) * scale for half in (LEVEL / 2, -LEVEL / 2))
  # By symmetry, the difference can be computed in the lower tail, where it is not lost to rounding.
  flip = lower > 0
  a, b = jnp.where(flip, -lower, upper), jnp.where(flip, -upper, lower)
  log_a, log_b = log_ndtr(a), log_ndtr(b)
  inside = log_a + jnp.log(-jnp.expm1(jnp.minimum(log_b - log_a, -1e-7)))
  return jnp.where(x > 1 - LEVEL / 2, log_ndtr(-lower), jnp.where(x < -1 + LEVEL / 2, log_ndtr(upper), inside))
