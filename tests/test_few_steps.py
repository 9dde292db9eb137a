"""MeanFlow and consistency training on normal data, whose flow is known: x_t is moved along its quantile."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evaluate import likelihood_images
from genjax import rng
from genjax.conditioners import ClassLabel
from genjax.errors import UsageError
from genjax.networks.embeddings import sinusoidal_embedding
from genjax.objectives.diffusion.consistency import Consistency
from genjax.objectives.diffusion.denoising import Autoguided
from genjax.objectives.diffusion.meanflow import MeanFlow
from genjax.types import Context, Variables
from tests.conftest import batch_of

N = 8192
KEYS = rng.image_keys(jax.random.key(0), jnp.arange(N))
SHAPE = (2, 2, 1)
MU, S = 0.2, 0.4
BATCH = batch_of(MU + S * rng.normal(rng.fold_in(KEYS, 99), SHAPE), jnp.zeros(N, int))


def context(step=0):
  return Context(jnp.asarray(step), {}, {})


def image(t):
  return t[:, None, None, None]


def spread(t):
  return jnp.sqrt((1 - t) ** 2 * S**2 + t**2)


@dataclasses.dataclass(frozen=True)
class MeanVelocity:
  """(z_t - z_r) / (t - r) of the exact flow, z_r = (1 - r) mu + spread(r) / spread(t) (z_t - (1 - t) mu); plus params."""

  def apply(self, variables, z, condition, cond):
    t, between = image(condition[:, 0]), image(condition[:, 1])
    r = t - between
    z_r = (1 - r) * MU + spread(r) / spread(t) * (z - (1 - t) * MU)
    slope = -MU + ((t - (1 - t) * S**2) / spread(t) ** 2) * (z - (1 - t) * MU)  # the velocity itself, for r = t
    apart = between > 1e-3
    return jnp.where(apart, (z - z_r) / jnp.where(apart, between, 1.0), slope) + variables['params']


@dataclasses.dataclass(frozen=True)
class Jump:
  """F of EDM's preconditioning whose f(x, t) = mu + s (x - mu) / sqrt(s^2 + t^2), the exact jump; plus params."""

  def apply(self, variables, x, condition, cond):
    t = jnp.exp(4 * image(condition))
    x = x * jnp.sqrt(0.25 + t**2)
    f = MU + S * (x - MU) / jnp.sqrt(S**2 + t**2)
    return (f - 0.25 / (t**2 + 0.25) * x) / (t * 0.5 / jnp.sqrt(t**2 + 0.25)) + variables['params']


@pytest.mark.parametrize('apart', [0.0, 1.0])
def test_the_exact_mean_velocity_is_where_meanflow_rests(apart):
  # Without the adaptive weight the gradient of an offset is 2 E[error], 0 where u is exact, 2 * 0.3 where it is 0.3 off:
  # an offset that is the same everywhere adds nothing to the target, which holds u's derivatives.
  of = MeanFlow(MeanVelocity(), SHAPE, apart=apart, p=0.0, c=1.0)
  grad = jax.jit(jax.grad(lambda b: of.loss({'model': b}, context(), BATCH, KEYS)[0]))
  at = [float(grad(jnp.asarray(b))) / 4 for b in (0.0, 0.3)]  # a sum over 4 pixels
  assert at == pytest.approx([0, 0.6], abs=0.04)


def test_meanflow_distinguishes_the_mean_velocity_from_that_at_one_time():
  # The identity u = v - (t - r) du/dt holds for the mean velocity alone: with u = v(z_t, t) for every r the error grows with
  # (t - r) and with z_t's distance from its mean, and so pulls at a term of that form.
  @dataclasses.dataclass(frozen=True)
  class Bent:
    mean: bool

    def apply(self, variables, z, condition, cond):
      t, between = condition[:, 0], condition[:, 1]
      u = MeanVelocity().apply({'params': 0.0}, z, jnp.stack([t, between * self.mean], axis=1), cond)
      return u + variables['params'] * image(between) * (z - (1 - image(t)) * MU)

  def pull(mean):
    of = MeanFlow(Bent(mean), SHAPE, apart=1.0, p=0.0)
    return float(jax.jit(jax.grad(lambda b: of.loss({'model': b}, context(), BATCH, KEYS)[0]))(jnp.zeros(())))

  assert abs(pull(mean=True)) < 0.1 * abs(pull(mean=False))


def test_meanflow_s_networks_vary_slowly_with_time():
  # The target contains du/dt: with times scaled to 1000, as for diffusion, the fastest sine has a derivative of 1000.
  @dataclasses.dataclass(frozen=True)
  class Embeds:
    def apply(self, variables, z, condition, cond):
      return sinusoidal_embedding(condition.sum(axis=1), 4).reshape(-1, 2, 2, 1)

  t = jnp.linspace(0.1, 1, 64)
  u = lambda t: MeanFlow(Embeds(), SHAPE).u({'model': {}}, BATCH.image[:64], 0 * t, t, {})  # noqa: E731
  assert 0.1 < float(jnp.abs(jax.jvp(u, (t,), (jnp.ones(64),))[1]).max()) <= 2


def test_one_step_of_meanflow_is_the_flow():
  of, variables = MeanFlow(MeanVelocity(), SHAPE), Variables({'model': jnp.zeros(())}, {})
  noise = np.asarray(rng.normal(rng.fold_in(KEYS[:64], 0), SHAPE))
  for steps in (1, 2, 5):
    actual = of.solve(variables, KEYS[:64], {}, steps=steps)
    np.testing.assert_allclose(actual.x, np.clip(MU + S * noise, -1, 1), atol=1e-5)
    np.testing.assert_allclose(actual.states[0], noise, rtol=1e-6)
    assert actual.states.shape == actual.x0s.shape == (steps, 64, *SHAPE)
    assert (actual.evaluations == steps).all()
  t = 1 / 5  # where the last step begins
  np.testing.assert_allclose(actual.states[-1], (1 - t) * MU + float(spread(jnp.asarray(t))) * noise, atol=1e-5)
  np.testing.assert_allclose(actual.x0s[-1], MU + S * noise, atol=1e-5)


def test_meanflow_s_guidance_is_trained_in():
  # u = 1 with a label, 0.5 without; eq. 13 asks for omega v + (1 - omega) u(null), and v where the label is hidden.
  @dataclasses.dataclass(frozen=True)
  class OfLabel:
    def apply(self, variables, z, condition, cond):
      return jnp.broadcast_to(0.5 + 0.5 * image(cond['label'].sum(axis=1)), z.shape)

  batch = BATCH._replace(image=jnp.zeros_like(BATCH.image))
  for guidance in (1.0, 3.0):
    of = MeanFlow(OfLabel(), SHAPE, conditioner=ClassLabel(2), cond_dropout=1e-9, guidance=guidance, apart=0.0, p=0.0)
    actual = of.loss({'model': {}}, context(), batch, KEYS)[1].metrics['squared_error']
    target = (1 - guidance) * 0.5
    assert float(actual) == pytest.approx((1 - target) ** 2 + guidance**2, rel=0.05)  # E (1 - target - guidance eps)^2
    hidden = dataclasses.replace(of, cond_dropout=1.0).loss({'model': {}}, context(), batch, KEYS)[1].metrics['squared_error']
    assert float(hidden) == pytest.approx(0.5**2 + 1, rel=0.05)


def test_consistency_s_times_near_each_other_by_stages():
  of = Consistency(Jump(), SHAPE, stage=10)
  t = jnp.array([0.01, 1.0, 50.0])
  n = 1 + 8 / (1 + np.exp(np.asarray(t)))
  for step, a in ((0, 0), (9, 0), (10, 1), (40, 4)):
    np.testing.assert_allclose(of.before(t, jnp.asarray(step)), np.maximum(t * (1 - n / 2**a), 0), rtol=1e-5)
  assert (of.before(t, jnp.asarray(0)) == 0).all()
  np.testing.assert_allclose(of.before(t, jnp.asarray(10**9)), 0.999 * t, rtol=1e-6)


def test_the_exact_jump_is_where_consistency_training_rests():
  # At late stages t - r is small, and the mean of f(x_t) - f(x_r) over (t - r) given x_t is 0 for the exact jump.
  of = Consistency(Jump(), SHAPE, stage=1, huber=100.0)  # so wide that the distance is the squared error
  loss = jax.jit(lambda b, step: of.loss({'model': b}, context(step), BATCH, KEYS)[0])
  least = float(loss(jnp.zeros(()), 6))
  assert all(float(loss(jnp.full((), b), 6)) > least for b in (-0.3, 0.3))
  grad = jax.jit(jax.grad(lambda b: of.loss({'model': b}, context(6), BATCH, KEYS)[0]))
  at = [float(grad(jnp.asarray(b))) for b in (-0.3, 0.0, 0.3)]
  assert abs(at[1]) < 0.1 * min(-at[0], at[2])


def test_at_first_consistency_training_is_denoising():
  of, x = Consistency(Jump(), SHAPE, stage=100, huber=100.0), BATCH.image
  _, aux = of.loss({'model': jnp.zeros(())}, context(0), BATCH, KEYS)
  t = np.exp(np.random.default_rng(0).normal(-1.1, 2.0, 10**6)).clip(max=80)
  # E (f(x_0 + t eps, t) - x_0)^2 for normal x_0 and the exact jump
  shrink = S / np.sqrt(S**2 + t**2)
  assert float(aux.metrics['squared_error']) == pytest.approx(((shrink - 1) ** 2 * S**2 + shrink**2 * t**2).mean(), rel=0.05)
  assert float(jnp.abs(x - MU).mean()) > 0


def test_the_consistency_loss_by_hand():
  # f = 0 at r = 0 (the image) and t / 10 elsewhere: distances sqrt(d^2 + c^2) - c over t - r, c = huber sqrt(D).
  @dataclasses.dataclass(frozen=True)
  class Tenth:
    def apply(self, variables, x, condition, cond):
      t = jnp.exp(4 * image(condition))
      x = x * jnp.sqrt(0.25 + t**2)
      return (t / 10 - 0.25 / (t**2 + 0.25) * x) / (t * 0.5 / jnp.sqrt(t**2 + 0.25))

  batch = BATCH._replace(image=jnp.zeros_like(BATCH.image))
  t = np.exp(np.random.default_rng(0).normal(-1.1, 2.0, 10**6)).clip(max=80)
  for stage, huber in ((0, 0.3), (3, 0.3), (3, 0.01)):
    of = Consistency(Tenth(), SHAPE, stage=1, huber=huber)
    gap = t * np.clip((1 + 8 / (1 + np.exp(t))) / 2.0**stage, 1e-3, 1)
    d, c = 2 * np.where(gap == t, t / 10, gap / 10), huber * 2  # of four pixels
    right = ((np.sqrt(d**2 + c**2) - c) / gap).mean()
    assert float(of.loss({'model': {}}, context(stage), batch, KEYS)[0]) == pytest.approx(right, rel=0.03)


def test_consistency_training_hides_labels():
  # f = 1 with a label, 0.5 without, of black images: squared errors of 1 and 0.25.
  @dataclasses.dataclass(frozen=True)
  class OfLabel:
    def apply(self, variables, x, condition, cond):
      t = jnp.exp(4 * image(condition))
      x = x * jnp.sqrt(0.25 + t**2)
      return (0.5 + 0.5 * image(cond['label'].sum(axis=1)) - 0.25 / (t**2 + 0.25) * x) / (t * 0.5 / jnp.sqrt(t**2 + 0.25))

  batch = BATCH._replace(image=jnp.zeros_like(BATCH.image))
  for rate in (0.0, 0.25, 1.0):
    of = Consistency(OfLabel(), SHAPE, stage=1, conditioner=ClassLabel(2), cond_dropout=rate)
    actual = of.loss({'model': {}}, context(), batch, KEYS)[1].metrics['squared_error']
    assert float(actual) == pytest.approx(1 - 0.75 * rate, rel=0.03)


def test_a_consistency_model_jumps_to_the_quantile():
  of, variables = Consistency(Jump(), SHAPE, stage=1), Variables({'model': jnp.zeros(())}, {})
  noise = np.asarray(rng.normal(rng.fold_in(KEYS[:2048], 0), SHAPE))
  one = of.sample(variables, KEYS[:2048], {})
  np.testing.assert_allclose(one, np.clip(MU + S * (80 * noise - MU) / np.hypot(S, 80), -1, 1), atol=1e-4)
  way = of.solve(variables, KEYS[:2048], {}, steps=2)
  np.testing.assert_allclose(way.states[0], 80 * noise, rtol=1e-5)
  np.testing.assert_allclose(jnp.clip(way.x0s[0], -1, 1), one, atol=1e-6)
  assert float((way.states[1] - way.x0s[0]).std()) == pytest.approx(0.821, rel=0.03)
  assert (way.evaluations == 2).all()
  two = np.asarray(of.sample(variables, KEYS[:2048], {}, steps=2))
  inside = np.abs(two) < 1
  assert inside.mean() > 0.9
  assert two.mean() == pytest.approx(np.clip(MU + S * noise, -1, 1).mean(), abs=0.02)
  assert float(np.abs(two - np.asarray(one)).mean()) > 0.1  # fresh noise in the middle


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: MeanFlow(MeanVelocity(), SHAPE, apart=2.0), 'apart=2.0 must be a probability'),
    (lambda: MeanFlow(MeanVelocity(), SHAPE, guidance=2.0), 'guidance=2.0 needs a conditional model'),
    (
      lambda: MeanFlow(MeanVelocity(), SHAPE, conditioner=ClassLabel(2), guidance=2.0, cond_dropout=0.0),
      'guidance=2.0 needs an unconditional model: set cond_dropout',
    ),
    (
      lambda: likelihood_images(8, MeanFlow(MeanVelocity(), SHAPE), range(9)),
      '--likelihood 8: MeanFlow has no likelihood: a few-step model',
    ),
    (
      lambda: likelihood_images(8, Consistency(Jump(), SHAPE, stage=1), range(9)),
      '--likelihood 8: Consistency has no likelihood: a few-step model',
    ),
    (
      lambda: likelihood_images(8, Autoguided(None, None), range(9)),
      '--likelihood 8: Autoguided has no likelihood: the density of guided samples',
    ),
    (lambda: MeanFlow(MeanVelocity(), SHAPE, c=0.0), 'c=0.0 must be positive'),
    (lambda: MeanFlow(MeanVelocity(), SHAPE).sample(None, KEYS, {}, steps=0), 'steps=0'),
    (lambda: MeanFlow(MeanVelocity(), SHAPE).sample(None, KEYS, {}, steps=2**40), 'steps=1099511627776'),
    (lambda: Consistency(Jump(), SHAPE, stage=1, cond_dropout=-0.1), 'cond_dropout=-0.1 must be a probability'),
    (lambda: Consistency(Jump(), SHAPE, stage=0), 'stage=0 must be 1 or more'),
    (lambda: Consistency(Jump(), SHAPE, stage=1, k=-9.0), 'k=-9.0 must not be negative'),
    (lambda: Consistency(Jump(), SHAPE, stage=1, sigma_data=-1.0), 'sigma_data=-1.0 must be positive'),
    (
      lambda: Consistency(Jump(), SHAPE, stage=1).sample(None, KEYS, {}, steps=2, middle=0.0),
      'middle=0.0 must be above 0 and at most 80',
    ),
    (lambda: Consistency(Jump(), SHAPE, stage=1).sample(None, KEYS, {}, steps=3), 'steps=3 must be 1 or 2'),
  ],
)
def test_values_out_of_range_are_refused(call, message):
  with pytest.raises(UsageError, match=message):
    call()
