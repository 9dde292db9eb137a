"""Restoration against posteriors in closed form: a Gaussian prior with an exact denoiser."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import rng
from genjax.degradations import operators
from genjax.degradations.measurement import Degradation, LinearMap
from genjax.samplers import paths, posterior
from genjax.samplers.sampler import Sampler
from tests.conftest import sometimes

SIDE, VARIANCE, N = 4, 0.25, 4096
SHAPE = (SIDE, SIDE, 1)
PATHS = {'RectifiedFlow': paths.RectifiedFlow(), 'EDM': paths.EDM(), 'VPLinear': paths.VPLinear()}
place = np.stack(np.meshgrid(*[np.arange(SIDE)] * 2, indexing='ij'), axis=-1).reshape(-1, 2)
PRIOR = VARIANCE * np.exp(-0.5 * ((place[:, None] - place[None]) ** 2).sum(axis=-1) / 1.5**2) + 1e-3 * np.eye(SIDE**2)
MEAN = np.full(SIDE**2, 0.1)


def exact_denoiser(path):
  """E[x_0 | x_t] for x_0 ~ N(MEAN, PRIOR)."""
  values, vectors = (jnp.asarray(x, jnp.float32) for x in np.linalg.eigh(PRIOR))
  values, mean = values[None], jnp.asarray(MEAN, jnp.float32)[None]

  def denoise(x, t):
    t = jnp.broadcast_to(t, x.shape[:1])[:, None]
    alpha, sigma = path.alpha(t), path.sigma(t)
    apart = (x.reshape(len(x), -1) - alpha * mean) @ vectors
    return (mean + (apart * alpha * values / (alpha**2 * values + sigma**2)) @ vectors.T).reshape(x.shape)

  return denoise


def matrix(degradation, state):
  """A as a matrix, of one image."""
  units = jnp.eye(SIDE**2).reshape(-1, *SHAPE)
  states = jax.tree.map(lambda x: jnp.broadcast_to(x, (SIDE**2, *x.shape[1:])), state)
  return np.asarray(degradation.apply(states, units)).reshape(SIDE**2, -1).T.astype(np.float64)


def problem(operator, noise, seed=0):
  degradation = Degradation((operator,) if operator else (), noise)
  keys = rng.image_keys(jax.random.key(seed), jnp.arange(1))
  state = degradation.draw(keys, SHAPE)
  truth = MEAN + np.linalg.cholesky(PRIOR) @ np.random.default_rng(seed).normal(size=SIDE**2)
  y = degradation.measure(state, jnp.asarray(truth.reshape(1, *SHAPE), jnp.float32), keys)
  return degradation, state, y


def exact_posterior(degradation, state, y):
  """Mean and covariance of x_0 given y."""
  a = matrix(degradation, state)
  gain = PRIOR @ a.T @ np.linalg.pinv(a @ PRIOR @ a.T + degradation.noise**2 * np.eye(len(a)), rcond=1e-10)
  return MEAN + gain @ (np.ravel(y) - a @ MEAN), PRIOR - gain @ a @ PRIOR


def sample(denoiser_of, path, degradation, state, y, **options):
  repeat = functools.partial(jax.tree.map, lambda x: jnp.broadcast_to(x, (N, *x.shape[1:])))
  linear = LinearMap(degradation, repeat(state), repeat(y), SHAPE)
  denoise = denoiser_of(exact_denoiser(path), path, linear, degradation.noise)
  keys = rng.image_keys(jax.random.key(3), jnp.arange(N))
  solve = jax.jit(lambda: Sampler(**options).solve(denoise, path, rng.normal(keys, SHAPE), keys).x)
  return np.asarray(solve(), np.float64).reshape(N, -1)


def compare(samples, mean, covariance):
  """The largest deviation of the mean in standard errors, and the ratio of the variances (traces)."""
  errors = np.sqrt(np.maximum(np.diag(covariance), 1e-6) / N)
  return np.abs((samples.mean(axis=0) - mean) / errors).max(), np.trace(np.cov(samples.T)) / np.trace(covariance)


METHODS = {
  'mmps': functools.partial(posterior.posterior_denoiser, solve=posterior.MMPS(steps=16)),
  'tmpd': functools.partial(posterior.posterior_denoiser, solve=posterior.TMPD()),
  'pigdm': functools.partial(posterior.posterior_denoiser, solve=posterior.PiGDM()),
  'jacobian_free': posterior.jacobian_free_denoiser,
  'ddnm': posterior.nullspace_denoiser,
}


@pytest.mark.parametrize(
  ('path', 'operator', 'noise'),
  sometimes(
    [
      ('RectifiedFlow', operators.HalfMask(), 0.05),
      ('EDM', operators.HalfMask(), 0.3),
      ('RectifiedFlow', operators.Downsample(2), 0.05),
      ('EDM', None, 0.3),
      ('VPLinear', operators.HalfMask(), 0.05),
      ('VPLinear', operators.Downsample(2), 0.05),
      ('RectifiedFlow', operators.GaussianBlur(0.7), 0.1),
      ('EDM', operators.GaussianBlur(0.7), 0.1),
      ('VPLinear', None, 0.3),
    ],
    *range(4),
  ),
)
def test_mmps_samples_a_gaussian_posterior(path, operator, noise):
  measured = problem(operator, noise)
  mean, covariance = exact_posterior(*measured)
  steps = 200 if path == 'VPLinear' else 50
  samples = sample(METHODS['mmps'], PATHS[path], *measured, steps=steps)
  apart, ratio = compare(samples, mean, covariance)
  assert apart < 4
  assert ratio == pytest.approx(1, abs=0.05)
  vectors = np.linalg.eigh(covariance)[1][:, -4:]  # the directions of most variance
  np.testing.assert_allclose(np.var(samples @ vectors, axis=0), np.diag(vectors.T @ covariance @ vectors), rtol=0.1)


@pytest.mark.parametrize(
  ('method', 'ratio'),  # of the variance, and what it should be: 1
  [('tmpd', 1.37), ('pigdm', 1.39), ('jacobian_free', 1.64), ('ddnm', 1.62)],
)
def test_the_bias_of_approximations(method, ratio):
  measured = problem(operators.HalfMask(), 0.05)
  samples = sample(METHODS[method], PATHS['RectifiedFlow'], *measured, steps=50)
  assert compare(samples, *exact_posterior(*measured))[1] == pytest.approx(ratio, abs=0.06)


@pytest.mark.parametrize('method', [method for method in METHODS if method != 'ddnm'])  # whose weight has no prior
def test_a_measurement_that_is_all_noise_changes_nothing(method):
  degradation, state, y = problem(operators.HalfMask(), 0.3)
  measured = dataclasses.replace(degradation, noise=1e4), state, y
  plain = sample(lambda denoise, *_: denoise, PATHS['RectifiedFlow'], *measured, steps=10)
  np.testing.assert_allclose(sample(METHODS[method], PATHS['RectifiedFlow'], *measured, steps=10), plain, atol=2e-3)


@pytest.mark.parametrize('solver', ['ddim', 'dpmpp_2m', 'unipc'])
def test_other_solvers_approach_the_posterior(solver):
  measured = problem(operators.HalfMask(), 0.3)
  samples = sample(METHODS['mmps'], PATHS['EDM'], *measured, solver=solver, steps=200)
  assert compare(samples, *exact_posterior(*measured))[1] == pytest.approx(1, abs=0.1)
