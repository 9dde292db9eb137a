"""Measurement operators: adjoints, pseudo-inverses, what they draw, and mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import rng
from genjax.degradations import operators
from genjax.degradations.measurement import Degradation, LinearMap, conjugate_gradients
from genjax.errors import UsageError

KEYS = rng.image_keys(jax.random.key(0), jnp.arange(3))
LINEAR = {
  'box': (operators.BoxMask(0.4),),
  'half': (operators.HalfMask('top'),),
  'random': (operators.RandomMask(0.6),),
  'downsample': (operators.Downsample(2),),
  'bicubic': (operators.Downsample(4, 'bicubic'),),
  'grayscale': (operators.Grayscale(),),
  'blur': (operators.GaussianBlur(0.8),),
  'motion': (operators.MotionBlur(3.0),),
  'blurred and small': (operators.GaussianBlur(0.8), operators.Downsample(2), operators.Grayscale()),
  'nothing': (),
}
SHAPE = (8, 12, 3)
noise = lambda seed, shape: jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)  # noqa: E731


def measured(name):
  degradation = Degradation(LINEAR[name])
  state, x = degradation.draw(KEYS, SHAPE), noise(0, (3, *SHAPE))
  y = degradation.measure(state, x, KEYS)
  return LinearMap(degradation, state, y, SHAPE), x, y


@pytest.mark.parametrize('name', LINEAR)
def test_adjoint(name):
  linear, x, y = measured(name)
  u = noise(1, y.shape)
  np.testing.assert_allclose((linear.apply(x) * u).sum(), (x * linear.adjoint(u)).sum(), rtol=1e-4)


@pytest.mark.parametrize('name', LINEAR)
def test_pseudo_inverse(name):
  linear, _, y = measured(name)
  inverse = linear.pseudo_inverse(y)
  atol = 0.1 if name in ('blur', 'motion') else 2e-3  # ill-conditioned: 50 steps of conjugate gradients get this far
  np.testing.assert_allclose(linear.apply(inverse), y, atol=atol)  # A A^+ A = A, for y = A x
  u = noise(2, inverse.shape)
  within = linear.pseudo_inverse(linear.apply(u))
  assert abs((within * (u - within)).sum()) < 1e-3 * (u * u).sum()  # A^+ A is an orthogonal projection


def test_masks():
  (box,), (half,), (random,) = (Degradation(LINEAR[name]).draw(KEYS, (20, 30, 1)) for name in ('box', 'half', 'random'))
  np.testing.assert_array_equal((1 - box['known']).sum(axis=(1, 2, 3)), 8 * 12)
  assert len({x.tobytes() for x in np.asarray(box['known'])}) == 3
  assert half['known'][:, :10].max() == 0
  assert half['known'][:, 10:].min() == 1
  assert random['known'].mean() == pytest.approx(0.4, abs=0.05)
  assert set(np.unique(random['known'])) == {0, 1}


def test_a_watermark_is_inverted_where_something_shows_through():
  mark, opacity = noise(3, (3, *SHAPE)), np.zeros((3, 8, 12, 1), np.float32)
  opacity[:, 2:5], opacity[:, 5:] = 0.4, 1.0
  degradation, x = Degradation((operators.Watermark(),)), noise(0, (3, *SHAPE))
  state = ({'mark': mark, 'opacity': jnp.asarray(opacity)},)
  y = degradation.apply(state, x)
  np.testing.assert_allclose(y[:, 5:], mark[:, 5:], rtol=1e-6)
  linear = LinearMap(degradation, state, y, SHAPE)
  np.testing.assert_allclose(linear.pseudo_inverse(linear.y)[:, :5], x[:, :5], atol=1e-5)
  np.testing.assert_allclose(linear.pseudo_inverse(linear.y)[:, 5:], 0)


def test_kernels():
  for blur in (operators.GaussianBlur(1.5), operators.MotionBlur(6.0)):
    kernel = blur.draw(KEYS, SHAPE)['kernel']
    np.testing.assert_allclose(kernel.sum(axis=(1, 2)), 1, rtol=1e-5)
    assert kernel.shape[1] % 2 == kernel.shape[2] % 2 == 1
    assert float(kernel.min()) >= 0
    flat = jnp.full((3, *SHAPE), 0.3)
    np.testing.assert_allclose(blur.apply({'kernel': kernel}, flat), flat, rtol=1e-5)
  impulse = jnp.zeros((3, 9, 9, 1)).at[:, 4, 4].set(1.0)
  kernel = noise(5, (3, 3, 3))
  blurred = operators.GivenBlur().apply({'kernel': kernel}, impulse)
  np.testing.assert_allclose(blurred[:, 3:6, 3:6, 0], kernel, atol=1e-5)  # a convolution: the kernel is not mirrored


def test_levels():
  x = jnp.linspace(-1.4, 1.4, 29).reshape(1, 29, 1, 1)
  assert np.unique(np.round(operators.Quantize(4).apply({}, x), 5)).tolist() == pytest.approx([-1, -1 / 3, 1 / 3, 1], abs=1e-5)
  np.testing.assert_allclose(operators.Clip(2.0).apply({}, x), np.clip(2 * x, -1, 1))


def test_noise_and_states_depend_on_the_key_of_the_image_alone():
  degradation = Degradation((operators.BoxMask(), operators.GaussianBlur()), 0.2)
  x = jnp.zeros((3, *SHAPE))
  whole = degradation.measure(degradation.draw(KEYS, SHAPE), x, KEYS)
  np.testing.assert_array_equal(whole[:1], degradation.measure(degradation.draw(KEYS[:1], SHAPE), x[:1], KEYS[:1]))
  assert float(whole.std()) == pytest.approx(0.2, rel=0.1)


def test_conjugate_gradients_solve_each_image_alone():
  a = np.random.default_rng(0).normal(size=(3, 5, 5))
  a = jnp.asarray(a @ a.transpose(0, 2, 1) + 0.5 * np.eye(5), jnp.float32)
  b = noise(1, (3, 5))
  x = conjugate_gradients(lambda v: jnp.einsum('bij,bj->bi', a, v), b, 12)
  np.testing.assert_allclose(x, np.linalg.solve(a, b[..., None])[..., 0], rtol=2e-3, atol=1e-4)
  np.testing.assert_array_equal(conjugate_gradients(lambda v: v, jnp.zeros((3, 5)), 4), 0)


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: operators.BoxMask(0.0), 'size=0.0'),
    (lambda: operators.RandomMask(1.0), 'share=1.0'),
    (lambda: operators.HalfMask('up'), "'up'"),
    (lambda: operators.Downsample(1), 'factor=1'),
    (lambda: operators.Downsample(2, 'sinc'), "'sinc'"),
    (lambda: operators.GaussianBlur(-1.0), 'sigma=-1.0'),
    (lambda: operators.Quantize(1), 'levels=1'),
    (lambda: Degradation((), -0.1), 'noise=-0.1'),
    (lambda: Degradation((operators.Downsample(3),)).draw(KEYS, SHAPE), 'factor=3'),
    (lambda: Degradation((operators.Grayscale(),)).draw(KEYS, (8, 8, 1)), 'Grayscale needs images with 3 channels, not 1'),
    (lambda: Degradation((operators.GivenMask(),)).draw(KEYS, SHAPE), 'GivenMask'),
    (lambda: Degradation((operators.Watermark(),)).draw(KEYS, SHAPE), 'Watermark'),
    (lambda: LinearMap(Degradation((operators.Clip(),)), ({},), jnp.zeros((3, *SHAPE)), SHAPE), 'Clip is not linear'),
  ],
)
def test_mistakes(make, message):
  with pytest.raises(UsageError, match=message):
    make()
