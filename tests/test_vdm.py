"""VDM on normal data, for which the bound and the best eps are known; its learned schedule."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from genjax import rng
from genjax.errors import UsageError
from genjax.networks.layers import NO_COND
from genjax.networks.monotone import Monotone
from genjax.objectives.diffusion.vdm import VDM
from genjax.run import sampling_options
from genjax.samplers import process, timesteps
from genjax.step import init_state
from tests.conftest import batch_of, step_of
from tests.mixture import CONTEXT, KEYS, MU, SHAPE, S, cost_of_levels, log_mass, normal_images


class ExactEps(nn.Module):
  """eps of normal data at gamma = 8 c_noise, plus a parameter."""

  @nn.compact
  def __call__(self, z, c_noise, cond=NO_COND):
    gamma = 8 * c_noise[:, None, None, None]
    a, b = (jnp.sqrt(jax.nn.sigmoid(s * gamma)) for s in (-1, 1))
    x_0 = MU + a * S**2 / (a**2 * S**2 + b**2) * (z - a * MU)
    return (z - a * x_0) / b + self.param('off', nn.initializers.zeros, ())


VDM_ = VDM(ExactEps(), Monotone(32), SHAPE)
BATCH = batch_of(normal_images(2048))
VARIABLES = VDM_.init(jax.random.key(3), BATCH)


def test_a_run_has_the_options_of_its_sampler():
  assert sampling_options(VDM_)['timesteps'] == 'uniform'  # its path is learned, and no field


def test_the_schedule_rises_from_end_to_end():
  t = jnp.linspace(0, 1, 101)
  gamma = np.asarray(VDM_.gamma(VARIABLES.params, t))
  assert (np.diff(gamma) > 0).all()
  assert gamma[[0, -1]] == pytest.approx([-13.3, 5.0], abs=1e-4)
  path = VDM_.noise_path(VARIABLES)
  np.testing.assert_allclose(-process.log_snr(path, t[1:]), gamma[1:], atol=2e-3)
  np.testing.assert_allclose(path.time(process.ratio(path, t[1:])), t[1:], atol=2e-3)
  assert float(path.time(jnp.zeros(()))) == 0
  assert (np.diff(np.asarray(timesteps.karras(path, 10))) < 0).all()


def test_vdm_s_loss_is_the_bound_and_tight():
  loss = jax.jit(lambda p, keys: VDM_.loss(p, CONTEXT, BATCH, keys))
  actual = np.mean([float(loss(VARIABLES.params, rng.fold_in(KEYS[:2048], i))[0]) for i in range(8)])
  right = -log_mass(np.asarray(BATCH.image, np.float64), [1.0], [MU], [S]).mean() / np.log(2) + cost_of_levels(np.exp(-6.65))
  assert actual == pytest.approx(right, abs=0.15)
  nats = jax.jit(VDM_.nll)(VARIABLES, BATCH, KEYS[:2048]).mean() / 4 / np.log(2)
  assert float(nats) == pytest.approx(right, abs=0.03)
  by_ode = jax.jit(functools.partial(VDM_.nll, estimator='ode'))(VARIABLES, BATCH, KEYS[:2048]).mean() / 4 / np.log(2)
  assert float(by_ode) == pytest.approx(right - cost_of_levels(np.exp(-6.65)), abs=0.03)


@pytest.mark.slow
def test_the_schedule_lowers_the_variance_and_not_the_bound():
  # 2107.00630, section 5.1: between fixed ends the way does not matter to the bound. Each player moves its own alone.
  optimizers = {'model': optax.sgd(0.0), 'schedule': optax.adam(0.1)}
  state = init_state(VDM_, optimizers, jax.random.key(3), BATCH)
  steep = {'slope': 1.0, 'inner': 10.0, 'bias': -5.0, 'outer': 3.0}  # almost all of the way is taken around t = 0.5
  bad = {name: jnp.full_like(x, steep[name]) for name, x in state.params['schedule'].items()}
  state = state.replace(params={**state.params, 'schedule': bad})
  nats = jax.jit(lambda params: VDM_.diffusion(params, many, rng.image_keys(jax.random.key(7), many.index)))
  many = batch_of(jnp.tile(BATCH.image, (8, 1, 1, 1)))
  before = np.asarray(nats(state.params))
  step = jax.jit(step_of(VDM_, optimizers, turn=(('schedule', ()),)))
  for _ in range(40):
    state, _ = step(state, BATCH, jax.random.key(1))
  after = np.asarray(nats(state.params))
  assert after.std() < 0.6 * before.std()
  error = 4 * np.hypot(before.std(), after.std()) / np.sqrt(len(before))
  assert error < 0.1 * before.mean()
  assert after.mean() == pytest.approx(before.mean(), abs=error)
  gamma = np.asarray(VDM_.gamma(state.params, jnp.linspace(0, 1, 50)))
  assert (np.diff(gamma) > 0).all()
  assert gamma[[0, -1]] == pytest.approx([-13.3, 5.0], abs=1e-4)


def test_the_bound_moves_the_ends():
  grad = jax.jit(jax.grad(lambda p: VDM_.loss(p, CONTEXT, BATCH, KEYS[:2048])[0]))
  near = dict(VARIABLES.params, model=dict(VARIABLES.params['model'], gamma_1=jnp.asarray(-3.0)))
  moved = grad(near)['model']
  assert float(moved['gamma_1']) < -0.1  # the prior is far: more noise at the end
  assert float(moved['gamma_0']) < -0.1  # levels show, which this network does not know: more at the start


@pytest.mark.slow
def test_samples_of_vdm_are_the_data():
  for options in ({'steps': 100}, {'solver': 'ancestral', 'steps': 500}):
    x = jax.jit(functools.partial(VDM_.sample, **options))(VARIABLES, KEYS[:1024], {})
    assert (float(x.mean()), float(x.std())) == (pytest.approx(MU, abs=0.02), pytest.approx(S, rel=0.05))


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: dataclasses.replace(VDM_, gamma_0=6.0), 'gamma_0=6.0 must be below gamma_1=5.0'),
    (lambda: dataclasses.replace(VDM_, cond_dropout=-0.1), 'cond_dropout=-0.1'),
    (lambda: VDM_.sample(VARIABLES, KEYS, {}, guidance=2.0), 'guidance needs a conditional model'),
  ],
)
def test_values_out_of_range_are_refused(call, message):
  with pytest.raises(UsageError, match=message):
    call()
