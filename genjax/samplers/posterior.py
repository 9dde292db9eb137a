"""Sampling from p(x_0 | y) with y = A x_0 + noise n, by a denoiser D = E[x_0 | x_t] that was trained without A.

Each method maps a denoiser to a denoiser of the posterior, so that any solver, path and guidance samples with it. With
V = Cov[x_0 | x_t] = (sigma^2 / alpha) dD/dx_t (Tweedie's formula, second order) and an approximation C of V,

    D_y = D + V A^T (noise^2 I + A C A^T)^-1 (y - A D).

The methods differ in C and in how they solve the system:

  mmps           C = V, by conjugate gradients (2405.13712)
  tmpd           A C A^T = diag(A V A^T 1) (2310.06721)
  pigdm          C = sigma^2 / (sigma^2 + alpha^2) I (OpenReview 9_gsMA8MRKQ, ICLR 2023)
  jacobian_free  V = C = (1 / std^2 + alpha^2 / sigma^2)^-1 I: no derivative of the network

Only mmps is exact for a Gaussian prior. What the others miss is measured in tests/test_posterior.py.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax.degradations.measurement import CG_STEPS, LinearMap, conjugate_gradients
from genjax.errors import UsageError
from genjax.samplers.paths import NoisePath
from genjax.samplers.process import ratio
from genjax.samplers.solvers import Denoiser
from genjax.types import Images

RATIO_MAX = 80.0  # with more noise than this sigma / alpha, the denoiser is evaluated as at it: V needs alpha > 0

Solve = Callable[['Tweedie', Images], Images]  # (problem at x_t, y - A D) -> u


@dataclasses.dataclass(frozen=True)
class Tweedie:
  """The linear problem at one x_t: `covariance(v)` is V v."""

  linear: LinearMap
  noise: float
  covariance: Callable[[Images], Images]
  prior_variance: Float[Array, 'b 1 1 1']  # sigma^2 / (sigma^2 + alpha^2), that of x_0 given x_t for a prior N(0, I)


@dataclasses.dataclass(frozen=True)
class MMPS:
  """Moment matching posterior sampling (2405.13712): C = V, `steps` steps of conjugate gradients of one derivative each."""

  steps: int = 3

  def __post_init__(self):
    if self.steps < 1:
      raise UsageError(f'steps={self.steps} of conjugate gradients must be 1 or more.')

  def __call__(self, problem: Tweedie, residual: Images) -> Images:
    linear = problem.linear
    matrix = lambda v: problem.noise**2 * v + linear.apply(problem.covariance(linear.adjoint(v)))  # noqa: E731
    return conjugate_gradients(matrix, residual, self.steps)


@dataclasses.dataclass(frozen=True)
class TMPD:
  """Tweedie moment projected diffusions (2310.06721): the sums of the rows of A V A^T as its diagonal."""

  def __call__(self, problem: Tweedie, residual: Images) -> Images:
    linear = problem.linear
    rows = linear.apply(problem.covariance(linear.adjoint(jnp.ones_like(residual))))
    diagonal = problem.noise**2 + jnp.maximum(rows, 0)
    return jnp.where(diagonal > 0, residual / jnp.where(diagonal > 0, diagonal, 1), 0)


@dataclasses.dataclass(frozen=True)
class PiGDM:
  """Pseudoinverse-guided diffusion (OpenReview 9_gsMA8MRKQ, ICLR 2023): C = r^2 I, r^2 = sigma^2 / (sigma^2 + alpha^2)."""

  def __call__(self, problem: Tweedie, residual: Images) -> Images:
    return solve_isotropic(problem.linear, problem.noise, problem.prior_variance, residual)


def solve_isotropic(linear: LinearMap, noise: float, variance: Float[Array, 'b 1 1 1'], residual: Images) -> Images:
  """(noise^2 I + variance A A^T)^-1 residual, without a derivative of the network."""
  matrix = lambda v: noise**2 * v + variance * linear.apply(linear.adjoint(v))  # noqa: E731
  return conjugate_gradients(matrix, residual, CG_STEPS)


def posterior_denoiser(denoise: Denoiser, path: NoisePath, linear: LinearMap, noise: float, solve: Solve) -> Denoiser:
  """A denoiser of p(x_0 | y) from one of p(x_0). `linear` contains y, `noise` is the standard deviation of its noise."""

  def denoise_posterior(x, t):
    before, t = path.sigma(jnp.asarray(t)), jnp.minimum(t, path.time(jnp.asarray(RATIO_MAX)))
    shrink = jnp.where(before > 0, path.sigma(t) / jnp.where(before > 0, before, 1), 1)
    x = jnp.broadcast_to(shrink, x.shape[:1])[:, None, None, None] * x
    time = jnp.broadcast_to(t, x.shape[:1])[:, None, None, None]
    alpha, sigma = path.alpha(time), path.sigma(time)
    x_0, pullback = jax.vjp(lambda x: denoise(x, t), x)
    covariance = lambda v: sigma**2 / alpha * pullback(v)[0]  # noqa: E731
    problem = Tweedie(linear, noise, covariance, sigma**2 / (sigma**2 + alpha**2))
    return x_0 + covariance(linear.adjoint(solve(problem, linear.y - linear.apply(x_0))))

  return denoise_posterior


def jacobian_free_denoiser(denoise: Denoiser, path: NoisePath, linear: LinearMap, noise: float, std: float = 0.5) -> Denoiser:
  """A denoiser of p(x_0 | y) without a derivative: the posterior of x_0 ~ N(D, C), C = (1 / std^2 + alpha^2 / sigma^2)^-1 I.

  `std` is the standard deviation of a pixel of the data.
  """

  def denoise_posterior(x, t):
    time = jnp.broadcast_to(t, x.shape[:1])[:, None, None, None]
    variance = 1 / (1 / std**2 + 1 / ratio(path, time) ** 2)
    x_0 = denoise(x, t)
    return x_0 + variance * linear.adjoint(solve_isotropic(linear, noise, variance, linear.y - linear.apply(x_0)))

  return denoise_posterior


def nullspace_denoiser(denoise: Denoiser, path: NoisePath, linear: LinearMap, noise: float) -> Denoiser:
  """DDNM (2212.00490, eq. 12): D + w A^+ (y - A D), so that A D_y = y where w = 1.

  With noise, w = min(1, (sigma / alpha) / noise): what is left of the rule of DDNM+ (eq. 19) without the solver's own noise.
  """

  def denoise_posterior(x, t):
    time = jnp.broadcast_to(t, x.shape[:1])[:, None, None, None]
    weight = jnp.minimum(1.0, ratio(path, time) / noise) if noise else 1.0
    x_0 = denoise(x, t)
    return x_0 + weight * linear.pseudo_inverse(linear.y - linear.apply(x_0))

  return denoise_posterior


# name -> (denoiser, path, linear, noise) -> denoiser
METHODS: dict[str, Callable[[Denoiser, NoisePath, LinearMap, float], Denoiser]] = {
  'mmps': functools.partial(posterior_denoiser, solve=MMPS()),
  'tmpd': functools.partial(posterior_denoiser, solve=TMPD()),
  'pigdm': functools.partial(posterior_denoiser, solve=PiGDM()),
  'jacobian_free': jacobian_free_denoiser,
  'ddnm': nullspace_denoiser,
}
