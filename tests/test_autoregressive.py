"""Autoregressive models: what each pixel sees, exact likelihoods, draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import rng
from genjax.conditioners import ClassLabel
from genjax.errors import UsageError
from genjax.metrics.counting import evaluations
from genjax.networks.grid import GridDecoder
from genjax.networks.pixel_transformer import PixelTransformer
from genjax.networks.pixelcnn import LocalPixelCNN, PixelCNN
from genjax.networks.row_lstm import PixelRNN
from genjax.objectives.autoregressive.pixels import Autoregressive
from genjax.objectives.likelihoods import BinarizedBernoulli, BinarizedPatches, Gaussian, LogisticMixture
from genjax.types import Context, Variables, example_batch
from tests.conftest import batch_of, labeled_example

SHAPE = (4, 4, 1)
KEYS = rng.image_keys(jax.random.key(0), jnp.arange(256))
NETWORKS = {
  'pixelcnn': PixelCNN(1, width=6, blocks=1, levels=2),
  'row_lstm': PixelRNN(1, width=8, depth=2),
  'transformer': PixelTransformer(SHAPE, 1, width=16, depth=2, heads=2),
}


def awake(network, shape, cond=None, scale=0.3):
  """Parameters of which none is zero."""
  variables = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, *shape)), cond or {})
  leaves, tree = jax.tree.flatten(variables['params'])
  keys = jax.random.split(jax.random.key(1), len(leaves))
  return jax.tree.unflatten(tree, [x + scale * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)])


@functools.cache
def model(name):
  """An objective of two-colored images, and its variables."""
  objective = Autoregressive(NETWORKS[name], BinarizedBernoulli(), SHAPE)
  variables = jax.jit(objective.init)(jax.random.key(0), example_batch(labeled_example(SHAPE)))
  return objective, variables._replace(params={'model': awake(NETWORKS[name], SHAPE)})


@pytest.mark.parametrize('name', NETWORKS)
def test_a_pixel_sees_all_before_it_and_nothing_else(name):
  network = NETWORKS[name]
  params, x = awake(network, SHAPE), jax.random.normal(jax.random.key(2), (1, *SHAPE))
  answer = lambda x: network.apply({'params': params}, x).reshape(-1)  # noqa: E731
  slopes = np.asarray(jax.jit(jax.jacfwd(answer))(x)).reshape(16, 16)  # [answer, pixel]
  assert not np.triu(slopes).any()
  visible = slopes[np.tril_indices(16, -1)] != 0
  assert visible.all() if name == 'transformer' else visible.mean() > 0.5  # a row LSTM sees a triangle above a pixel
  assert np.diag(slopes, -1)[np.arange(1, 16) % 4 > 0].all()  # the pixel on the left


@pytest.mark.parametrize('name', ['pixelcnn', 'transformer'])
def test_the_pixels_of_color_images_do_not_see_themselves(name):
  shape, mixture = (4, 4, 3), LogisticMixture(2)
  outputs = mixture.outputs(3)
  network = PixelCNN(outputs, width=6, blocks=1, levels=2) if name == 'pixelcnn' else PixelTransformer(shape, outputs, 16, 1, 2)
  params, x = awake(network, shape), jax.random.normal(jax.random.key(2), (1, *shape))
  answer = lambda x: network.apply({'params': params}, x).reshape(16, -1).sum(axis=1)  # noqa: E731
  slopes = np.abs(np.asarray(jax.jit(jax.jacfwd(answer))(x)).reshape(16, 16, 3)).sum(axis=2)
  assert not np.triu(slopes).any()
  assert np.diag(slopes, -1)[np.arange(1, 16) % 4 > 0].all()


@pytest.mark.parametrize('reach', [1, 2])
def test_a_local_network_sees_its_window(reach):
  network, shape = LocalPixelCNN(1, width=8, reach=reach, depth=1), (5, 7, 1)
  params, x = awake(network, shape), jax.random.normal(jax.random.key(2), (1, *shape))
  answer = lambda x: network.apply({'params': params}, x)[0, 3, 3, 0]  # noqa: E731
  visible = np.asarray(jax.jit(jax.grad(answer))(x))[0, ..., 0] != 0
  window = np.zeros((5, 7), bool)
  window[3 - reach : 3, 3 - reach : 4 + reach] = window[3, 3 - reach : 3] = True
  np.testing.assert_array_equal(visible, window)


@pytest.mark.parametrize('network', [NETWORKS['pixelcnn'], LocalPixelCNN(1, width=6)], ids=['whole', 'local'])
def test_features_of_each_position_condition_like_a_label(network):
  x = jax.random.normal(jax.random.key(2), (1, *SHAPE))
  label = jnp.asarray([[0.5, -1.0]])
  params = awake(network, SHAPE, {'label': label})
  answer = jax.jit(lambda cond: network.apply({'params': params}, x, cond))
  of_label, everywhere = answer({'label': label}), jnp.broadcast_to(label[:, None, None], (1, 4, 4, 2))
  np.testing.assert_allclose(answer({'features': everywhere}), of_label, rtol=1e-5, atol=1e-5)
  elsewhere = answer({'features': everywhere.at[0, 1, 2].set(3.0)})
  assert np.abs(elsewhere - of_label).max(axis=-1)[0, 1, 2] > 1e-3


@pytest.mark.slow
def test_nats_differ_from_those_of_float64_by_rounding_alone():
  # Large random weights at three resolutions: some images cost 100,000 nats, of which float32 has seven digits.
  network = PixelCNN(1, width=6, blocks=1, levels=3)
  objective = Autoregressive(network, BinarizedBernoulli(), SHAPE)
  params = awake(network, SHAPE, scale=1.5)
  x = jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], (256, *SHAPE)), jnp.float32)
  batch = batch_of(x)
  nats = np.asarray(jax.jit(objective.nll)(Variables({'model': params}, {}), batch, KEYS), np.float64)
  with jax.enable_x64(True):
    double = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), params)
    out = np.asarray(network.clone(dtype='float64').apply({'params': double}, jnp.asarray(np.asarray(x), jnp.float64)))
  each = np.logaddexp(0, -np.asarray(x, np.float64) * out)  # -log p of each pixel
  right = each.sum(axis=(1, 2, 3))
  assert right.max() > 1e4
  assert np.abs(nats - right).max() > 1e-3  # what is to be explained
  assert (np.abs(nats - right) < 2e-5 * np.abs(out).sum(axis=(1, 2, 3))).all()


@pytest.mark.parametrize('name', NETWORKS)
def test_the_probabilities_of_all_images_sum_to_one(name):
  # Half of the image is free, the rest is given: p of 256 images over p of their common beginning.
  objective, variables = model(name)
  bits = (np.arange(256)[:, None] >> np.arange(8)[None]) & 1
  first_row = np.where(np.random.default_rng(0).random(8) < 0.5, -1.0, 1.0)
  rows = np.concatenate([np.tile(first_row, (256, 1)), 2.0 * bits - 1], axis=1)
  x = jnp.asarray(rows.reshape(256, *SHAPE), jnp.float32)
  batch = batch_of(x)
  log_p = -np.asarray(jax.jit(objective.nll)(variables, batch, KEYS), np.float64)
  out = np.asarray(jax.jit(objective.network.apply)({'params': variables.params['model']}, x[:1]), np.float64).reshape(-1)[:8]
  beginning = -np.log1p(np.exp(-first_row * out)).sum()
  assert np.exp(log_p - beginning).sum() == pytest.approx(1, abs=1e-3)
  assert np.exp(log_p - beginning).max() < 0.99


@pytest.mark.slow
@pytest.mark.parametrize('name', NETWORKS)
def test_draws_are_as_frequent_as_their_probabilities(name):
  # The first two pixels: four images of them, each as often as exp(-nll) says.
  objective, variables = model(name)
  n = 1024
  samples = jax.jit(lambda keys: objective.sample(variables, keys, {}))(rng.image_keys(jax.random.key(3), jnp.arange(n)))
  assert set(np.unique(samples)) == {-1, 1}
  first = np.asarray(samples)[:, 0, :2, 0]
  out = jax.jit(lambda x: objective.network.apply({'params': variables.params['model']}, x).reshape(-1))
  for a in (-1.0, 1.0):
    for b in (-1.0, 1.0):
      answers = out(jnp.zeros((1, *SHAPE)).at[0, 0, 0, 0].set(a))[:2]
      p = 1 / (1 + np.exp(-a * float(answers[0]))) / (1 + np.exp(-b * float(answers[1])))
      assert (first == [a, b]).all(axis=1).mean() == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / n) + 1e-3)


@pytest.mark.parametrize(('shape', 'likelihood'), [(SHAPE, BinarizedBernoulli()), ((4, 4, 3), LogisticMixture(2))])
def test_cached_sampling_is_the_slow_way(shape, likelihood):
  network = PixelTransformer(shape, likelihood.outputs(shape[-1]), width=16, depth=2, heads=2)
  objective = Autoregressive(network, likelihood, shape, conditioner=ClassLabel(3))
  variables = jax.jit(objective.init)(jax.random.key(0), example_batch(labeled_example(shape)))
  variables = variables._replace(params={'model': awake(network, shape, {'label': jnp.ones((1, 3))})})
  cond = {'label': jnp.arange(32) % 3}
  fast, slow = (
    jax.jit(lambda keys, cached=cached: objective.sample(variables, keys, cond, cached=cached))(KEYS[:32])
    for cached in (True, False)
  )
  np.testing.assert_array_equal(fast, slow)
  assert float(jnp.abs(fast[0] - fast[3]).max()) > 0.1
  # and its answers are those of one pass over the finished image
  embedded, cache = {'label': jax.nn.one_hot(cond['label'], 3)}, network.cache(32)
  model, pixels = {'params': variables.params['model']}, fast.reshape(32, -1, shape[-1])
  whole = jax.jit(network.apply)(model, fast, embedded).reshape(32, -1, network.outputs)
  step = jax.jit(functools.partial(network.apply, method='step'))
  for place in range(pixels.shape[1]):
    last = pixels[:, place - 1] if place else jnp.zeros_like(pixels[:, 0])
    out, cache = step(model, last, place, cache, embedded)
    np.testing.assert_allclose(out[:, 0, 0], whole[:, place], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_patches_stand_for_pixels():
  # 4x4 images of two patches of 4x2: of one place 256 probabilities, in which its eight pixels hang together.
  network = PixelCNN(256, width=6, blocks=1, levels=1)
  objective = Autoregressive(network, BinarizedPatches(patch=(4, 2)), SHAPE)
  variables = jax.jit(objective.init)(jax.random.key(0), example_batch(labeled_example(SHAPE)))
  variables = variables._replace(params={'model': awake(network, (1, 2, 8))})
  bits = 2.0 * ((np.arange(256)[:, None] >> np.arange(8)[None]) & 1) - 1
  halves = bits.reshape(256, 4, 2, 1)
  images = jnp.asarray(np.concatenate([np.broadcast_to(halves[:1], halves.shape), halves], axis=2))
  answer = jax.jit(network.apply)({'params': variables.params['model']}, jnp.zeros((1, 1, 2, 8)))[0, 0, 0]
  p = np.asarray(jax.nn.softmax(answer), np.float64)  # of the first patch
  log_p = -jax.jit(objective.nll)(variables, batch_of(images), KEYS)
  assert np.exp(np.asarray(log_p, np.float64)).sum() == pytest.approx(p[0], rel=1e-4)
  n = 4096
  samples = jax.jit(lambda keys: objective.sample(variables, keys, {}))(rng.image_keys(jax.random.key(3), jnp.arange(n)))
  assert samples.shape == (n, *SHAPE)
  actual = (np.asarray(samples)[:, :, :2].reshape(n, 8) > 0) @ (1 << np.arange(8))
  for likely in np.argsort(-p)[:5]:
    assert (actual == likely).mean() == pytest.approx(p[likely], abs=4 * np.sqrt(p[likely] / n))
  mean = BinarizedPatches(patch=(4, 2)).mean(answer[None, None, None])
  np.testing.assert_allclose(mean.reshape(-1), p @ bits, atol=1e-5)


def test_evaluations_are_counted():
  for name, cached in (('transformer', True), ('transformer', False), ('pixelcnn', True)):
    objective, variables = model(name)
    assert evaluations(objective, variables, {'cached': cached}) == 16


def test_loss_and_likelihood_are_of_the_same_images():
  objective, variables = model('row_lstm')
  gray = batch_of(jnp.zeros((256, *SHAPE)))
  loss, aux = jax.jit(objective.loss)(variables.params, Context(jnp.zeros((), int), {}, {}), gray, KEYS)
  nll = jax.jit(objective.nll)(variables, gray, KEYS)
  assert float(loss) == pytest.approx(float(nll.mean()), rel=1e-5)
  assert float(nll.std()) > 0.1  # each image was binarized by its own key
  assert objective.estimators == {'exact': 'exact, of dynamically binarized images'}
  assert float(aux.metrics['bits_per_dim']) == pytest.approx(float(loss) / 16 / np.log(2), rel=1e-5)


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (
      lambda: Autoregressive(GridDecoder(SHAPE), BinarizedBernoulli(), SHAPE),
      'objective.network: GridDecoder is not declared causal: .*, or set causal = True',
    ),
    (lambda: Autoregressive(PixelCNN(1), Gaussian(), SHAPE), 'Gaussian cannot be sampled pixel by pixel'),
    (
      lambda: Autoregressive(PixelCNN(1), LogisticMixture(5), SHAPE).init(
        jax.random.key(0), example_batch(labeled_example(SHAPE))
      ),
      r'objective.network.outputs=1: LogisticMixture needs 15',
    ),
    (
      lambda: BinarizedPatches(patch=(4, 4)).outputs(1),
      r'patch=\(4, 4\) of 1 channels has 2\^16 patterns: use patches of 1 to 8',
    ),
    (
      lambda: Autoregressive(PixelCNN(1), BinarizedPatches(patch=(3, 2)), SHAPE),
      r'objective.likelihood.patch=\(3, 2\) must divide the sides of images \(4, 4, 1\)',
    ),
    (
      lambda: Autoregressive(PixelTransformer(SHAPE, 256), BinarizedPatches(patch=(4, 2)), SHAPE),
      r'network.image_shape=\(4, 4, 1\): in patches of \(4, 2\) images are \(1, 2, 8\), set it to that',
    ),
    (lambda: PixelCNN(1, levels=4).init(jax.random.key(0), jnp.zeros((1, *SHAPE))), 'cannot be halved 3 times'),
    (
      lambda: PixelTransformer(SHAPE, 1, width=10, heads=4).init(jax.random.key(0), jnp.zeros((1, *SHAPE))),
      'width=10 .*heads=4',
    ),
  ],
)
def test_mistakes(make, message):
  with pytest.raises(UsageError, match=message):
    make()
