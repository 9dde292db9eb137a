"""Variational bounds where the likelihood is known, and learned variance."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from genjax import rng
from genjax.errors import UsageError
from genjax.objectives.diffusion import parameterizations, times
from genjax.objectives.diffusion.diffusion import Diffusion, DiffusionModel
from genjax.objectives.diffusion.learned_variance import LearnedVariance
from genjax.samplers import elbo, paths, process, solvers
from genjax.samplers.sampler import Sampler
from tests.conftest import batch_of, sometimes
from tests.mixture import (
  CONTEXT,
  KEYS,
  LEVELS,
  MEAN,
  MU,
  NOTHING,
  PATHS,
  SHAPE,
  STD,
  WEIGHT,
  S,
  cost_of_levels,
  exact,
  log_mass,
  mixture_images,
  model,
  normal_images,
)


@pytest.mark.parametrize('path', ['RectifiedFlow', 'EDM', 'VE', 'VPLinear', 'VPCosine'])
def test_in_continuous_time_the_bound_is_tight(path):
  # But for what it costs that the denoiser, exact for the mixture, does not know of levels.
  where, x = PATHS[path], mixture_images(1024)
  x = x[(jnp.abs(x) < 0.99).all(axis=(1, 2, 3))]  # the mixture has no more at its ends than elsewhere
  if path == 'VE':
    where = paths.VE(sigma_min=0.002)
  actual = jax.jit(lambda x: elbo.continuous(exact(where), where, x, KEYS[: len(x)], 64))(x)
  right = -log_mass(np.asarray(x, np.float64), WEIGHT, MEAN, STD).sum(axis=(1, 2, 3))
  bits = (np.asarray(actual) - right) / 4 / np.log(2)
  assert bits.mean() == pytest.approx(cost_of_levels(0.002), abs=0.03)


def test_the_reconstruction_is_that_of_all_levels():
  x, eps = mixture_images(16), rng.normal(KEYS[:16], SHAPE)
  for start in (0.001, 0.004, 0.1):
    z = np.asarray(x + start * eps, np.float64)
    q = np.exp(-0.5 * ((z[..., None] - LEVELS) / start) ** 2)
    own = np.exp(-0.5 * ((z - np.asarray(x)) / start) ** 2)
    right = -np.log(own / q.sum(axis=-1)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(elbo.reconstruction_nats(x, eps, jnp.asarray(start)), right, rtol=2e-3, atol=2e-3)


def test_a_discretized_normal_has_mass_one():
  # 2006.11239, eq. 13; far from its mean, and narrow, where differences of float32 would be 0.
  levels = jnp.asarray(LEVELS, jnp.float32)
  for mean, std in ((0.1, 0.3), (-0.7, 0.02), (0.999, 0.005), (-3.0, 0.5)):
    log_variance = jnp.full_like(levels, 2 * np.log(std))
    actual = np.asarray(elbo.log_level(levels, jnp.full_like(levels, mean), log_variance), np.float64)
    assert np.isfinite(actual).all()
    assert np.exp(actual).sum() == pytest.approx(1, abs=1e-4)
    half = 1 / 255
    inside = np.abs(LEVELS[1:-1] - mean) < 5 * std
    right = log_mass(LEVELS[1:-1][inside], [1.0], [mean], [std])
    np.testing.assert_allclose(actual[1:-1][inside], right, atol=2e-3)
    assert np.exp(actual[-1]) == pytest.approx(norm.sf(1 - half, mean, std), rel=1e-2, abs=1e-30)
  grad = jax.grad(lambda m: elbo.log_level(levels, m, jnp.full_like(levels, -9.0)).sum())(jnp.full_like(levels, 0.2))
  assert np.isfinite(np.asarray(grad)).all()


def normal_step(path, x_t, t, exactly):
  """For normal data: E x_0 given x_t, and the log-variance of x_s given x_t (`exactly`) for s one step before t."""
  a, b = path.alpha(t), path.sigma(t)
  variance = a**2 * S**2 + b**2
  x_0 = MU + a * S**2 / variance * (x_t - a * MU)
  q = process.posterior(path, t, (jnp.round(t * path.T) - 1) / path.T)
  spread = S**2 * b**2 / variance  # of x_0 given x_t
  return x_0, jnp.broadcast_to(jnp.log(q.variance + q.gain**2 * spread), x_t.shape) if exactly else None


@pytest.mark.parametrize(('steps', 'exactly'), sometimes([(1000, True), (1000, False), (20, True), (20, False)], 2))
def test_the_bound_of_steps_is_tight_for_their_own_variance_alone(steps, exactly):
  # On normal data each step back is normal: with its mean and variance the chain is the data's own, however few the steps.
  path, x = paths.DiscreteCosine(T=steps), normal_images(2048)
  predict = lambda x, t: normal_step(path, x, t[:, None, None, None], exactly)  # noqa: E731
  actual = jax.jit(lambda x: elbo.discrete(predict, path, x, KEYS[:2048], min(steps - 1, 200)))(x)
  right = -log_mass(np.asarray(x, np.float64), [1.0], [MU], [S]).sum(axis=(1, 2, 3))
  gap = (np.asarray(actual) - right).mean() / 4 / np.log(2)
  assert gap == pytest.approx(0, abs=0.02) if exactly else gap > (0.1 if steps == 20 else 0.005)


@pytest.mark.slow
def test_every_step_counts_alike():
  # Few evaluations of a chain give, on average, the sum over all of its steps.
  path, n = paths.DiscreteCosine(T=12), 4096
  x = jnp.broadcast_to(normal_images(1), (n, *SHAPE))
  actual = jax.jit(lambda: elbo.discrete(lambda x, t: (0 * x, None), path, x, KEYS, 3))()
  sums = elbo.prior_nats(x, process.ratio(path, jnp.ones(()))).mean()
  for i in range(1, 13):
    t = jnp.full((n, 1, 1, 1), i / 12)
    x_t = path.alpha(t) * x + path.sigma(t) * rng.normal(rng.fold_in(KEYS, 2000 + i), SHAPE)
    sums += elbo.step_nats(path, t, x, x_t, 0 * x).mean()
  assert float(actual.mean()) == pytest.approx(float(sums), rel=0.02)


@pytest.mark.slow
def test_errors_at_high_noise_do_not_count_beyond_the_levels():
  # eps that is off by 0.1 puts x_0 at 0.1 sigma / alpha from where it is: thousands at the cosine path's end.
  path, x = paths.DiscreteCosine(), normal_images(512)

  def predict(x_t, t):
    t = t[:, None, None, None]
    x_0, _ = normal_step(path, x_t, t, False)
    return x_0 - 0.1 * path.sigma(t) / path.alpha(t), None

  nats = [jax.jit(lambda keys: elbo.discrete(predict, path, x, keys, 128))(rng.fold_in(KEYS[:512], i)) for i in (7, 8)]
  bits = np.stack(nats) / 4 / np.log(2)
  assert bits.max() < 20
  assert bits[0].mean() == pytest.approx(bits[1].mean(), abs=0.25)


@pytest.mark.slow
def test_a_model_has_every_estimator_of_the_likelihood():
  image = mixture_images(64)
  batch = batch_of(image)
  of = model('Velocity', 'RectifiedFlow')
  estimators = ('ode', '', 'bound', 'ode_exact')
  actual = (jax.jit(functools.partial(of.nll, estimator=e))(NOTHING, batch, KEYS[:64]) for e in estimators)
  ode, also, upper, exactly = actual
  np.testing.assert_array_equal(ode, also)
  assert (np.asarray(upper) - np.asarray(ode)).mean() / 4 / np.log(2) == pytest.approx(0, abs=0.15)
  assert (np.asarray(exactly) - np.asarray(ode)).mean() / 4 / np.log(2) == pytest.approx(0, abs=0.03)
  steps = model('Eps', 'DiscreteLinear', times=times.DiscreteTimes())
  actual = jax.jit(functools.partial(steps.nll, estimator='bound'))(NOTHING, batch, KEYS[:64])
  right = -log_mass(np.asarray(image, np.float64), WEIGHT, MEAN, STD).sum(axis=(1, 2, 3))
  assert 0 < (np.asarray(actual) - right).mean() / 4 / np.log(2) < 1


# Learned variance


@dataclasses.dataclass(frozen=True)
class Two:
  """The exact eps of normal data, plus params['off'], and v = params['v']."""

  path: paths.DiscretePath
  outputs: int = 2

  def apply(self, variables, x, condition, cond):
    t = condition[:, None, None, None] / 1000
    x_0, _ = normal_step(self.path, x, t, False)
    eps = (x - self.path.alpha(t) * x_0) / self.path.sigma(t) + variables['params']['off']
    return jnp.concatenate([eps, jnp.broadcast_to(variables['params']['v'], x.shape)], axis=-1)


@dataclasses.dataclass(frozen=True)
class OnlyEps:
  """The first of both answers."""

  both: Two

  def apply(self, *args):
    return self.both.apply(*args)[..., :1]


def learned(steps=50, **options):
  path = paths.DiscreteCosine(T=steps, beta_max=0.9)
  return LearnedVariance(Two(path), path, parameterizations.Eps(), times.DiscreteTimes(steps), SHAPE, **options)


def at(off=0.0, v=0.0):
  return {'model': {'off': jnp.asarray(off), 'v': jnp.asarray(v)}}


def test_the_bound_s_part_of_the_loss_moves_the_variance_alone():
  batch = batch_of(normal_images(2048))
  fields = {field.name: getattr(learned(), field.name) for field in dataclasses.fields(Diffusion)}
  plain = Diffusion(**fields | {'network': OnlyEps(learned().network)})
  loss = lambda of: jax.jit(jax.value_and_grad(lambda p: of.loss(p, CONTEXT, batch, KEYS[:2048])[0]))(at(0.3))  # noqa: E731
  (hybrid, moved), (simple, alone) = loss(learned(vlb_weight=10.0)), loss(plain)
  assert float(moved['model']['off']) == pytest.approx(float(alone['model']['off']), rel=1e-5)
  assert float(alone['model']['v']) == 0 != float(moved['model']['v'])
  bits = learned().loss(at(0.3), CONTEXT, batch, KEYS[:2048])[1].metrics['vlb_bits']
  assert float(hybrid) == pytest.approx(float(simple) + 10 * float(bits), rel=1e-4)


def test_v_goes_from_the_posterior_s_variance_to_the_forward_step_s():
  of = learned()
  t = jnp.asarray([0.5, 0.9])[:, None, None, None]
  q = process.posterior(of.path, t, t - 1 / 50)
  for v, right in ((-1.0, q.variance), (1.0, q.forward), (0.0, jnp.sqrt(q.variance * q.forward))):
    np.testing.assert_allclose(of.log_variance(t, v), jnp.log(right), rtol=1e-3)
  betas = of.path.betas()  # the forward variance is beta
  np.testing.assert_allclose(np.ravel(q.forward), betas[[24, 44]], rtol=1e-3)


@pytest.mark.slow
def test_learned_variance_is_sampled_with():
  # One step of the grid from x_t and x_0 known: its deviation is that of v.
  of = learned()
  times_ = jnp.array([0.6, 0.4])
  q = process.posterior(of.path, times_[0], times_[1])
  x = jnp.full((4096, *SHAPE), 0.7)
  for v in (-1.0, 0.5, 1.0):
    actual = solvers.learned_ancestral(lambda x, t, v=v: (jnp.full_like(x, 0.2), jnp.full_like(x, v)), of.path, x, times_, KEYS)
    part = (1 + v) / 2
    assert float(actual.x.std()) == pytest.approx(float(q.forward**part * q.variance ** (1 - part)) ** 0.5, rel=0.02)
    assert float(actual.x.mean()) == pytest.approx(float(q.keep * 0.7 + q.gain * 0.2), abs=0.01)
  variables = NOTHING._replace(params=at(v=-1.0))
  options = {'solver': 'ancestral', 'steps': 20}
  actual = of.sample(variables, KEYS[:512], {}, **options)
  plain = Sampler(**options).solve(of.denoiser(variables, {}), of.path, rng.normal(rng.fold_in(KEYS[:512], 0), SHAPE),
                                   rng.fold_in(KEYS[:512], 2))  # fmt: skip
  np.testing.assert_allclose(actual, jnp.clip(plain.x, -1, 1), atol=1e-4)  # at v = -1 it is DDPM's
  assert float(actual.mean()) == pytest.approx(MU, abs=0.03)
  led = lambda guide: of.solve_with(Sampler(guidance=2.0, **options), variables, KEYS[:512], {}, guide).x  # noqa: E731
  np.testing.assert_allclose(led(of.denoiser(variables, {})), actual, atol=1e-4)
  assert float(led(lambda x, t: jnp.full_like(x, MU - 0.2)).mean()) > MU + 0.1  # away from a weaker model
  other = of.sample(variables, KEYS[:512], {}, solver='heun', steps=40)
  assert float(other.std()) == pytest.approx(S, rel=0.1)


@pytest.mark.slow
def test_learned_variance_has_a_lower_bound_at_its_own_variance():
  batch = batch_of(normal_images(512))
  of = learned(20)
  nats = [float(jax.jit(of.nll)(NOTHING._replace(params=at(v=v)), batch, KEYS[:512]).mean()) for v in (-1.0, -0.5, 1.0)]
  fixed = DiffusionModel.bound(of, NOTHING._replace(params=at()), batch, KEYS[:512]).mean()
  assert nats[0] == pytest.approx(float(fixed), rel=1e-3)
  assert nats[1] < nats[0]
  assert list(of.estimators) == ['bound', 'ode', 'ode_exact']


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (
      lambda: dataclasses.replace(learned(), path=PATHS['VPLinear'], times=times.Uniform()),
      'has no discrete steps: use',
    ),
    (
      lambda: dataclasses.replace(learned(), times=times.Uniform()),
      'has times between the steps: use objectives.diffusion.times.D',
    ),
    (
      lambda: dataclasses.replace(learned(), network=dataclasses.replace(learned().network, outputs=1)),
      'outputs=1: this objective needs 2, set outputs=2',
    ),
    (lambda: learned(vlb_weight=-1.0), 'vlb_weight=-1.0 must not be negative'),
  ],
)
def test_values_out_of_range_are_refused(call, message):
  with pytest.raises(UsageError, match=message):
    call()
