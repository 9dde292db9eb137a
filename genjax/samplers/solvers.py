"""Solvers of the probability-flow ODE and of the reverse SDE, for any `denoise(x_t, t) -> x_0` and any path.

Each is a function (denoise, path, x, times, keys) -> Solution. `times` decreases from noise to 0. There is one key per image,
which deterministic solvers ignore. All except `dopri5` are one `lax.scan` with one call of the network: a step with two
evaluations takes two iterations, so that the network is compiled once.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from genjax import rng
from genjax.samplers.ode import integrate
from genjax.samplers.paths import NoisePath
from genjax.samplers.process import eps_from_x0, ode_time, posterior, ratio, time_of_ode_time, velocity
from genjax.types import Images, Keys

Times = Float[Array, 's']
Denoiser = Callable[[Images, Float[Array, '*b']], Images]  # t is one for all images, or one for each


class Solution(NamedTuple):
  """`x` at times[-1]; the x_t that were evaluated, in order, and their predictions (for dopri5 those at times[:-1])."""

  x: Images
  evaluations: Int[Array, 'b']  # of the network, for each image
  states: Float[Array, 'n b h w c']
  x0s: Float[Array, 'n b h w c']


def _solution(x: Images, traced: tuple[Images, Images]) -> Solution:
  return Solution(x, jnp.full(x.shape[0], traced[0].shape[0]), *traced)


def flow(denoise: Denoiser, path: NoisePath, x: Images, s: Float[Array, 'b']) -> Images:
  """dx/ds of the probability-flow ODE over s = ode_time(path, t), with one s per image."""
  t = time_of_ode_time(path, s)
  return velocity(path, x, denoise(x, t), t[:, None, None, None])


# Multistep solvers: x <- a x + b D(x, t) + c D_before + d z, with precomputed coefficients of all steps.


class Coefficients(NamedTuple):
  x: Times
  now: Times
  before: Times | None = None
  noise: Times | None = None


def _multistep(denoise: Denoiser, x: Images, times: Times, keys: Keys | None, coefficients: Coefficients) -> Solution:
  def step(carry, turn):
    x, before = carry
    i, t, c = turn
    x_0 = denoise(x, t)
    new = c.x * x + c.now * x_0
    if c.before is not None:
      new += c.before * before
    if c.noise is not None:
      new += c.noise * rng.normal(rng.fold_in(keys, i + 1), x.shape[1:])
    return (new, x_0), (x, x_0)

  turns = (jnp.arange(len(times) - 1), times[:-1], coefficients)
  (x, _), traced = jax.lax.scan(step, (x, jnp.zeros_like(x)), turns)
  return _solution(x, traced)


def ddim(denoise: Denoiser, path: NoisePath, x: Images, times: Times, keys: Keys | None = None, eta: float = 0.0) -> Solution:
  """DDIM (2010.02502, eq. 12): combines the predicted x_0 and eps at the next noise level; `eta` adds fresh noise.

  With eta = 0 this is Euler's method in the variables x / alpha, sigma / alpha (and in x, t for the straight path and
  EDM's), and needs no keys; eta = 1 samples DDPM's posterior q(x_s | x_t, x_0) (2006.11239, eq. 7), for any path.
  """
  coefficients = _keeping_eps(path, times, eta)
  deterministic = isinstance(eta, int | float) and eta == 0
  return _multistep(denoise, x, times, keys, coefficients._replace(noise=None) if deterministic else coefficients)


def _keeping_eps(path: NoisePath, times: Times, eta: float) -> Coefficients:
  """Coefficients of DDIM: x_s = alpha_s x_0 + keep eps + noise z (eqs. 12 and 16), with eps in terms of x and x_0."""
  alpha, sigma = path.alpha(times), path.sigma(times)
  gain = alpha[:-1] / alpha[1:]
  noise = eta * sigma[1:] / sigma[:-1] * jnp.sqrt(jnp.maximum(sigma[:-1] ** 2 - gain**2 * sigma[1:] ** 2, 0.0))
  keep = jnp.sqrt(jnp.maximum(sigma[1:] ** 2 - noise**2, 0.0)) / sigma[:-1]
  return Coefficients(keep, alpha[1:] - keep * alpha[:-1], noise=noise)


def ancestral(denoise: Denoiser, path: NoisePath, x: Images, times: Times, keys: Keys) -> Solution:
  """DDPM's sampling (2006.11239, algorithm 2) with the posterior's variance: `ddim` with eta = 1."""
  return ddim(denoise, path, x, times, keys, eta=1.0)


def learned_ancestral(
  predict: Callable[[Images, Float[Array, '*b']], tuple[Images, Images]], path: NoisePath, x: Images, times: Times, keys: Keys
) -> Solution:
  """Like `ancestral`, for `predict(x_t, t) -> x_0, v`.

  The log-variance of a step is between that of the posterior, v = -1, and that of the forward step, v = 1 (2102.09672, eq. 15,
  with the variances of these steps as in section 4).
  """
  q = posterior(path, times[:-1], times[1:])

  def step(x, turn):
    i, t, q = turn
    x_0, v = predict(x, t)
    part = 0.5 * (1 + v)
    deviation = jnp.where(q.variance > 0, q.forward ** (0.5 * part) * q.variance ** (0.5 * (1 - part)), 0.0)
    new = q.keep * x + q.gain * x_0 + deviation * rng.normal(rng.fold_in(keys, i + 1), x.shape[1:])
    return new, (x, x_0)

  return _solution(*jax.lax.scan(step, x, (jnp.arange(len(times) - 1), times[:-1], q)))


def euler(denoise: Denoiser, path: NoisePath, x: Images, times: Times, keys: Keys | None = None) -> Solution:
  """Euler's method in the variables x / alpha, sigma / alpha: `ddim` with eta = 0."""
  return ddim(denoise, path, x, times)


def dpmpp_2m(denoise: Denoiser, path: NoisePath, x: Images, times: Times, keys: Keys | None = None) -> Solution:
  """DPM-Solver++(2M) (2211.01095, algorithm 2), second order; the first step and that to t = 0 are first order."""
  step = _log_steps(path, times)
  b = path.alpha(times[1:]) * -jnp.expm1(-step.h)
  return _multistep(denoise, x, times, None, Coefficients(step.shrink, b * (1 + step.half), -b * step.half))


def dpmpp_2m_sde(denoise: Denoiser, path: NoisePath, x: Images, times: Times, keys: Keys) -> Solution:
  """SDE-DPM-Solver++(2M) (2211.01095, appendix B.3): `dpmpp_2m` for the reverse SDE."""
  step = _log_steps(path, times)
  b = path.alpha(times[1:]) * -jnp.expm1(-2 * step.h)
  noise = path.sigma(times[1:]) * jnp.sqrt(-jnp.expm1(-2 * step.h))
  coefficients = Coefficients(step.shrink * jnp.exp(-step.h), b * (1 + step.half), -b * step.half, noise)
  return _multistep(denoise, x, times, keys, coefficients)


class _LogSteps(NamedTuple):
  """Steps in lambda = log(alpha / sigma): their size h, sigma_s / sigma_t, and h_i / (2 h_(i-1))."""

  h: Times
  shrink: Times
  half: Times


def _log_steps(path: NoisePath, times: Times) -> _LogSteps:
  h = -jnp.diff(jnp.log(ratio(path, times)))  # infinite to t = 0, and from an end in pure noise
  half = jnp.concatenate([jnp.zeros(1), h[1:] / (2 * h[:-1])])
  sigma = path.sigma(times)
  return _LogSteps(h, sigma[1:] / sigma[:-1], jnp.where(jnp.isinf(h), 0.0, half))


def unipc(denoise: Denoiser, path: NoisePath, x: Images, times: Times, keys: Keys | None = None) -> Solution:
  """UniPC-2 with B_2(h) = e^h - 1 for data prediction (2302.04867, algorithms 5 and 6): the corrector needs no evaluations.

  Second-order predictor, third-order corrector; the first step and that to t = 0 are of first order.
  """
  alpha = path.alpha(times)
  h, shrink, half = _log_steps(path, times)
  b = alpha[1:] * -jnp.expm1(-h)
  # Predictor: x_s = shrink x + b (D_i + half (D_i - D_(i-1))), as in DPM-Solver++(2M).
  # Corrector, from the same x once D_s is known: x_s = shrink x + b (D_i + u (D_(i-1) - D_i) / r + w (D_s - D_i)) with
  # r = -h_(i-1) / h_i; u and w solve u + w = b_1, r u + w = b_2 (eq. 11, moments of e^-h).
  hh = -h
  phi_2 = jnp.expm1(hh) / hh - 1
  phi_3 = phi_2 / hh - 0.5
  b_1, b_2 = phi_2 / jnp.expm1(hh), 2 * phi_3 / jnp.expm1(hh)
  r = jnp.concatenate([jnp.array([-jnp.inf]), -h[:-1] / h[1:]])
  first = jnp.arange(len(h)) == 0
  u = jnp.where(first, 0.0, (b_1 - b_2) / (1 - r))
  w = jnp.where(first, 0.5, b_1 - u)
  u = jnp.where(first, 0.0, u / r)

  behind = lambda c: jnp.concatenate([jnp.zeros(1), c[:-1]])  # noqa: E731
  predictors = _Predictor(shrink, b, half)
  correctors = _Corrector(*map(behind, (shrink, b, u, w)), ~first)

  def step(carry, turn):
    x, base, now, before = carry  # x is the prediction from `base`, whose D is `now`
    t, predict, correct = turn
    x_0 = denoise(x, t)
    corrected = correct.x * base + correct.now * (now + correct.before * (before - now) + correct.ahead * (x_0 - now))
    base = jnp.where(correct.used, corrected, x)
    new = predict.x * base + predict.now * (x_0 + predict.slope * (x_0 - now))
    return (new, base, x_0, now), (x, x_0)

  carry = (x, x, jnp.zeros_like(x), jnp.zeros_like(x))
  (x, *_), traced = jax.lax.scan(step, carry, (times[:-1], predictors, correctors))
  return _solution(x, traced)


class _Predictor(NamedTuple):
  """x_s = x x_t + now (D_t + slope (D_t - D_before)), for each step."""

  x: Times
  now: Times
  slope: Times


class _Corrector(NamedTuple):
  """x_s = x x_t + now (D_t + before (D_before - D_t) + ahead (D_s - D_t)), of the step before."""

  x: Times
  now: Times
  before: Times
  ahead: Times
  used: Bool[Array, 's']  # not in the first step


# Solvers with two evaluations per step.


def heun(
  denoise: Denoiser,
  path: NoisePath,
  x: Images,
  times: Times,
  keys: Keys | None = None,
  churn: float = 0.0,
  churn_min: float = 0.0,
  churn_max: float = float('inf'),
  churn_noise: float = 1.0,
) -> Solution:
  """Heun's second-order method (EDM, 2206.00364, algorithm 1; with `churn` algorithm 2); to t = 0 Euler's step.

  Integrates over t as in the paper; on discrete paths over the angle arctan(sigma / alpha) (`ode_time`).
  times[-1] must be 0. 2 (len(times) - 1) - 1 evaluations. `churn`, `churn_min`, `churn_max`, `churn_noise` are S_churn,
  S_tmin, S_tmax, S_noise, in units of sigma / alpha; churn = 0 needs no keys. Noise is increased at most to the end of the
  path, so the first step has no churn (algorithm 2 exceeds sigma_max, where no network was trained).
  """
  steps = len(times) - 1
  alpha, noise_ratio = path.alpha(times[:-1]), ratio(path, times[:-1])
  within = (churn_min <= noise_ratio) & (noise_ratio <= churn_max) & jnp.isfinite(noise_ratio)
  gamma = jnp.where(within, jnp.minimum(churn / steps, 2**0.5 - 1), 0.0)
  raised = path.time(jnp.where(within, noise_ratio * (1 + gamma), 1.0))
  start = jnp.where(gamma > 0, jnp.minimum(raised, path.end), times[:-1])  # t_hat
  scale = jnp.where(gamma > 0, path.alpha(start) / alpha, 1.0)
  added = jnp.sqrt(jnp.maximum(path.sigma(start) ** 2 - (scale * path.sigma(times[:-1])) ** 2, 0.0)) * churn_noise

  ds = ode_time(path, times[1:]) - ode_time(path, start)

  def evaluation(i):
    """The i-th evaluation: at the start of step i // 2, or at its predicted end."""
    n, second = i // 2, i % 2 == 1
    return n, second, jnp.where(second, times[n + 1], start[n]), ds[n], scale[n], added[n]

  def step(carry, turn):
    x, base, slope = carry
    n, second, t, ds, scale, added = turn
    if not (isinstance(churn, int | float) and churn == 0):
      fresh = scale * x + added * rng.normal(rng.fold_in(keys, n + 1), x.shape[1:])
      x = jnp.where(second, x, fresh)
    x_0 = denoise(x, t)
    d = velocity(path, x, x_0, t)
    base = jnp.where(second, base, x)
    new = base + ds * jnp.where(second, (slope + d) / 2, d)
    new = jnp.where(n == steps - 1, x_0, new)
    return (new, base, d), (x, x_0)

  turns = jax.vmap(evaluation)(jnp.arange(2 * steps - 1))
  (x, *_), traced = jax.lax.scan(step, (x, x, jnp.zeros_like(x)), turns)
  return _solution(x, traced)


def predictor_corrector(denoise: Denoiser, path: NoisePath, x: Images, times: Times, keys: Keys, snr: float = 0.16) -> Solution:
  """Predictor-corrector sampling (2011.13456, algorithms 2 and 3): an ancestral step, then one of Langevin dynamics.

  `snr` is r of appendix G: the corrector's step is 2 (r |z| / |score|)^2, which is the same for x and x / alpha, with the
  norms of each image (the paper averages them over the batch), and at most sigma^2. 2 (len(times) - 1) - 1 evaluations.
  """
  steps = len(times) - 1
  ancestral_step = _keeping_eps(path, times, 1.0)

  def step(x, i):
    n, correct = i // 2, i % 2 == 1
    t = jnp.where(correct, times[n + 1], times[n])
    z = rng.normal(rng.fold_in(keys, i + 1), x.shape[1:])
    x_0 = denoise(x, t)
    predicted = ancestral_step.x[n] * x + ancestral_step.now[n] * x_0 + ancestral_step.noise[n] * z
    eps = eps_from_x0(path, x, x_0, t)  # the score is -eps / sigma
    norm = lambda a: jnp.sqrt(jnp.sum(a**2, axis=(1, 2, 3), keepdims=True))  # noqa: E731
    sigma_t = path.sigma(t)
    size = jnp.minimum(2 * (snr * norm(z) * sigma_t / norm(eps)) ** 2, sigma_t**2)
    corrected = x - size * eps / sigma_t + jnp.sqrt(2 * size) * z
    return jnp.where(correct, corrected, predicted), (x, x_0)

  return _solution(*jax.lax.scan(step, x, jnp.arange(2 * steps - 1)))


def dopri5(
  denoise: Denoiser,
  path: NoisePath,
  x: Images,
  times: Times,
  keys: Keys | None = None,
  rtol: float = 1e-4,
  atol: float = 1e-4,
) -> Solution:
  """The fifth-order method of Dormand & Prince with adaptive steps for each image (genjax/samplers/ode.py).

  Solves from times[0] to sigma / alpha = path.ratio_min, and returns the prediction there. The solver chooses other steps than
  `times`: the trajectory at `times` is interpolated, and the predictions there (computed only if they are used) are not counted
  as evaluations.
  """
  shape = x.shape

  def slope(s, flat):  # [B], [B, D]
    return flow(denoise, path, flat.reshape(shape), s).reshape(flat.shape)

  end = path.time(jnp.asarray(path.ratio_min))
  passed = jnp.maximum(times[:-1], end)
  first, last, between = (ode_time(path, t) for t in (times[0], end, passed))
  flat, evaluations, way = integrate(slope, x.reshape(shape[0], -1), first, last, rtol, atol, between)
  states = way.reshape(-1, *shape)
  x0s = jax.lax.map(lambda at: denoise(*at), (states, passed))
  return Solution(denoise(flat.reshape(shape), end), evaluations + 1, states, x0s)


Solver = Callable[[Denoiser, NoisePath, Images, Times, Keys], Solution]

SOLVERS: dict[str, Callable[..., Solution]] = {
  'ddim': ddim,
  'ancestral': ancestral,
  'euler': euler,
  'heun': heun,
  'dpmpp_2m': dpmpp_2m,
  'dpmpp_2m_sde': dpmpp_2m_sde,
  'unipc': unipc,
  'predictor_corrector': predictor_corrector,
  'dopri5': dopri5,
}
