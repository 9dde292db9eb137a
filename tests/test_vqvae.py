"""Codes: which is nearest, what follows what, straight through; priors over them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import rng
from genjax.conditioners import ClassLabel
from genjax.errors import UsageError
from genjax.networks.grid import GridDecoder, GridEncoder
from genjax.networks.pixel_transformer import PixelTransformer
from genjax.networks.pixelcnn import PixelCNN
from genjax.networks.row_lstm import PixelRNN
from genjax.objectives.codes.quantizers import FSQ, Codebook
from genjax.objectives.codes.vqvae import VQVAE
from genjax.objectives.likelihoods import Bernoulli, BinarizedPatches, SharedGaussian
from genjax.types import Context
from tests.conftest import batch_of
from tests.test_autoregressive import awake

KEYS = rng.image_keys(jax.random.key(0), jnp.arange(64))
Z = jax.random.normal(jax.random.key(1), (5, 3, 2, 4))


def made(quantizer=None, **options):
  quantizer = quantizer or Codebook(8, 4)
  dim = quantizer.dim
  parts = {
    'encoder': GridEncoder(dim, width=8, levels=1, blocks=1), 'decoder': GridDecoder((4, 4, 1), 8, 1, 1),
    'prior': PixelTransformer((2, 2, dim), quantizer.size, 16, 1, 2), 'likelihood': Bernoulli()
  }  # fmt: skip
  return VQVAE(**parts | {'quantizer': quantizer} | options)


def test_the_nearest_code_is_taken_and_its_gradient_is_that_of_z():
  book = Codebook(16, 4, commitment=0.25)
  own = book.buffers()
  e, index, cost = book.quantize(Z, own)
  apart = np.linalg.norm(np.asarray(Z)[..., None, :] - np.asarray(book.codes(own)), axis=-1)
  np.testing.assert_array_equal(index, apart.argmin(axis=-1))
  np.testing.assert_allclose(e, np.asarray(book.codes(own))[index], atol=1e-6)
  np.testing.assert_allclose(cost, 0.25 * np.square(apart.min(axis=-1)).sum(axis=(1, 2)), rtol=1e-4)
  weights = jax.random.normal(jax.random.key(2), Z.shape)
  slope = jax.grad(lambda z: (weights * book.quantize(z, own)[0]).sum())(Z)
  np.testing.assert_allclose(slope, weights, atol=1e-6)  # as if nothing had been rounded
  pull = jax.grad(lambda z: book.quantize(z, own)[2].sum())(Z)
  np.testing.assert_allclose(pull, 0.5 * (Z - e), atol=1e-5)  # and to the code


def test_codes_come_to_the_means_of_what_is_theirs():
  # Three heaps of vectors: with the codes in them, averages end where one step of k-means does.
  random = np.random.default_rng(0)
  heaps = np.array([[3.0, 0], [-3, 0], [0, 4]])
  z = jnp.asarray(heaps[random.integers(0, 3, 600)] + 0.3 * random.normal(size=(600, 2)), jnp.float32).reshape(1, 30, 20, 2)
  book = Codebook(3, 2, decay=0.9)
  codes = jnp.asarray(heaps + 0.5, jnp.float32)
  own = {'share': jnp.full(3, 1 / 3), 'sums': codes / 3}
  index = book.index(z, own)
  for _ in range(200):
    own = book.updated(z, index, own)
  flat, place = np.asarray(z).reshape(-1, 2), np.asarray(index).ravel()
  np.testing.assert_allclose(book.codes(own), [flat[place == i].mean(axis=0) for i in range(3)], atol=1e-3)
  np.testing.assert_allclose(own['share'], np.bincount(place) / 600, atol=1e-4)


def test_the_codes_do_not_depend_on_how_a_batch_is_split():
  # Averages of parts, as of microbatches and devices, over steps in which codes die and move.
  book = Codebook(8, 2, decay=0.5, restart=0.3)
  whole = split = book.buffers()
  step = jax.jit(lambda z, own: book.updated(z, book.index(z, own), own))
  for i in range(30):
    z = jax.random.normal(jax.random.key(i), (8, 4, 4, 2)) + 1.0
    whole, split = book.reset_dead_codes(whole), book.reset_dead_codes(split)
    whole, parts = step(z, whole), [step(z[j::4], split) for j in range(4)]
    split = jax.tree.map(lambda *own: sum(own) / 4, *parts)
  assert float(whole['share'].min()) < 0.3 / 8 or len(np.unique(np.asarray(whole['share']).round(4))) > 4
  np.testing.assert_allclose(book.codes(split), book.codes(whole), rtol=1e-3, atol=1e-4)


def test_a_dead_code_goes_to_where_there_is_most_to_do():
  book = Codebook(4, 2, restart=0.1)
  codes = jnp.asarray([[5.0, 5], [1, 0], [9, 9], [0, 1]])
  share = jnp.asarray([0.6, 0.3, 0.001, 0.099])
  after = book.reset_dead_codes({'share': share, 'sums': codes * share[:, None]})
  np.testing.assert_allclose(after['share'], [0.3, 0.3, 0.3, 0.099])
  assert 0 < float(jnp.abs(book.codes(after)[2] - codes[0]).max()) < 0.5
  np.testing.assert_allclose(book.codes(after)[jnp.array([0, 1, 3])], codes[jnp.array([0, 1, 3])], rtol=1e-6)
  alive = {'share': jnp.full(4, 0.25), 'sums': codes / 4}
  np.testing.assert_array_equal(book.codes(book.reset_dead_codes(alive)), codes)


@pytest.mark.slow
def test_finite_scalars_are_all_reached_and_numbered():
  fsq = FSQ((4, 3, 5))
  z = 3 * jax.random.normal(jax.random.key(0), (8000, 3))
  index, vectors = fsq.index(z, {}), fsq.vector(jnp.arange(60), {})
  assert set(np.unique(index)) == set(range(60))
  assert len(np.unique(vectors, axis=0)) == 60
  assert sorted({round(float(x), 3) for x in vectors[:, 0]}) == [-1, -0.5, 0, 0.5]
  assert sorted({round(float(x), 3) for x in vectors[:, 2]}) == [-1, -0.5, 0, 0.5, 1]
  e, same, cost = fsq.quantize(z.reshape(80, 10, 10, 3), {})
  np.testing.assert_array_equal(same.ravel(), index)
  np.testing.assert_allclose(e.reshape(-1, 3), vectors[index], atol=1e-6)
  assert not cost.any()
  slope = jax.grad(lambda z: fsq.quantize(z, {})[0].sum())(jnp.zeros((1, 1, 1, 3)))
  assert (slope > 0.5).all()


@pytest.mark.parametrize(
  'quantizer', [Codebook(8, 4), pytest.param(FSQ((3, 3)), marks=pytest.mark.slow)], ids=['codebook', 'fsq']
)
def test_the_prior_is_a_distribution_and_moves_no_code(quantizer):
  vq = made(quantizer)
  batch = batch_of(jnp.tanh(jax.random.normal(KEYS[0], (64, 4, 4, 1))))
  variables = jax.jit(vq.init)(jax.random.key(0), batch)
  params, buffers = variables
  params = params | {'prior': awake(vq.prior, (2, 2, quantizer.dim))}
  grids = jnp.stack(jnp.meshgrid(*[jnp.arange(quantizer.size)] * 4, indexing='ij'), axis=-1).reshape(-1, 2, 2)
  own = buffers.get('codebook', {})
  log_p = jax.jit(lambda index: vq.log_prior(params, index, own, {}))(grids)
  assert float(jnp.exp(log_p).sum()) == pytest.approx(1, abs=1e-3)
  context = Context(jnp.zeros((), int), {}, buffers)
  slopes = jax.jit(jax.grad(lambda params: vq.prior_loss(params, context, batch, KEYS)[0]))(params)
  assert not any(float(jnp.abs(x).max()) for x in jax.tree.leaves(slopes['model']))
  _, aux = jax.jit(vq.prior_loss)(params, context, batch, KEYS)
  _, logs = jax.jit(vq.loss)(params, context, batch, KEYS)
  bound = jax.jit(vq.nll)(variables._replace(params=params), batch, KEYS)
  assert float(bound.mean()) == pytest.approx(float(aux.metrics['prior_nats'] + logs.metrics['reconstruction_nats']), rel=1e-4)
  assert 1 <= float(logs.metrics['codes_used']) <= quantizer.size


@pytest.mark.slow
@pytest.mark.parametrize('network', [PixelCNN(8, width=6, blocks=1, levels=2), PixelRNN(8, width=6, depth=1)])
def test_any_network_of_pixels_is_a_prior(network):
  vq = made(prior=network)
  batch = batch_of(jnp.zeros((4, 4, 4, 1)))
  variables = jax.jit(vq.init)(jax.random.key(0), batch)
  assert jax.jit(vq.sample)(variables, KEYS[:4], {}).shape == (4, 4, 4, 1)
  assert np.isfinite(jax.jit(vq.nll)(variables, batch, KEYS[:4])).all()


def test_previews_of_codes_begin_with_what_is_used_most():
  model = made(FSQ((3, 3)))
  batch = batch_of(jnp.tanh(jax.random.normal(jax.random.key(1), (8, 4, 4, 1))))
  variables = jax.jit(model.init)(jax.random.key(0), batch)
  actual = jax.jit(model.previews)(variables, batch, KEYS[:8])
  index = np.asarray(jax.jit(model.codes)(*variables, batch, KEYS[:8])[1])
  count = np.bincount(index.ravel(), minlength=9)
  assert actual['codes'].shape == (1, 16, 4, 4, 1)
  tiles = np.asarray(actual['codes'])[0]
  assert (tiles[(count > 0).sum() :] == -1).all()
  grid = jnp.full((1, 2, 2), int(count.argmax()))
  expected = model.likelihood.mean(model.decode(variables.params, model.quantizer.vector(grid, {})))
  np.testing.assert_allclose(tiles[0], expected[0], atol=1e-5)
  assert actual['reconstructions'].shape == (2, 8, 4, 4, 1)


@pytest.mark.slow
def test_drawn_codes_are_as_frequent_as_the_prior_says():
  vq = made(conditioner=ClassLabel(3))
  example = batch_of(jnp.zeros((1, 4, 4, 1)))
  variables = jax.jit(vq.init)(jax.random.key(0), example)
  params = variables.params | {'prior': awake(vq.prior, (2, 2, 4), {'label': jnp.ones((1, 3))})}
  label, n = jnp.full(4000, 1, jnp.int32), 4000
  keys = rng.image_keys(jax.random.key(5), jnp.arange(n))
  images = jax.jit(lambda keys: vq.sample(variables._replace(params=params), keys, {'label': label}))(keys)
  few = {'label': label[:32]}
  slow = jax.jit(lambda keys: vq.sample(variables._replace(params=params), keys, few, cached=False))(keys[:32])
  np.testing.assert_allclose(images[:32], slow, atol=1e-4)
  # Whole grids, identified by their decoded images, have the frequencies of the prior.
  own = variables.buffers['codebook']
  grids = jnp.stack(jnp.meshgrid(*[jnp.arange(8)] * 4, indexing='ij'), axis=-1).reshape(-1, 2, 2)
  of_grid = jax.jit(lambda grid: vq.likelihood.mean(vq.decode(params, vq.quantizer.vector(grid, own))))(grids)
  tile = lambda images: np.asarray(images, np.float64).reshape(len(images), -1)  # noqa: E731
  apart = np.square(tile(of_grid)).sum(axis=1) - 2 * tile(images) @ tile(of_grid).T
  samples = np.asarray(grids)[apart.argmin(axis=1)].reshape(n, 4)
  p = np.exp(jax.jit(lambda grid: vq.log_prior(params, grid, own, {'label': jnp.ones(len(grid), int)}))(grids)).reshape(
    8, 8, 8, 8
  )
  for place in range(4):
    share = p.sum(axis=tuple(other for other in range(4) if other != place))
    np.testing.assert_allclose(np.bincount(samples[:, place], minlength=8) / n, share, atol=4 * np.sqrt(0.25 / n))
    assert share.max() > 2 * share.min()
  pair = np.bincount(samples[:, 0] * 8 + samples[:, 3], minlength=64) / n
  np.testing.assert_allclose(pair, p.sum(axis=(1, 2)).ravel(), atol=4 * np.sqrt(0.25 / n))


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: Codebook(1), 'size=1 must be 2 or more'),
    (lambda: Codebook(decay=1.0), r'decay=1.0 and restart=0.05 must be in \[0, 1\)'),
    (lambda: FSQ((4, 2)), r'FSQ: levels=\(4, 2\) must be 3 or more'),
    (lambda: made(encoder=GridEncoder(3)), r'objective.encoder.dim=3: Codebook has 4, set it to that'),
    (lambda: made(prior=PixelTransformer((2, 2, 4), 7)), r'objective.prior.outputs=7: Codebook has 8'),
    (lambda: made(prior=PixelCNN(8, dropout=0.1)), 'objective.prior.dropout=0.1: VQVAE does not support dropout, set it to 0'),
    (lambda: made(prior=GridEncoder(8)), r'objective.prior.outputs=None: Codebook has 8'),
    (lambda: made(prior=GridDecoder((2, 2, 4), outputs=8)), 'objective.prior: GridDecoder is not declared causal'),
    (lambda: made(likelihood=SharedGaussian()), 'SharedGaussian .*VQVAE'),
    (
      lambda: made().init(jax.random.key(0), batch_of(jnp.zeros((1, 8, 8, 1)))),
      r'objective.prior.image_shape=\(2, 2, 4\): the grid of codes is \(4, 4, 4\), set it to that',
    ),
    (
      lambda: made(likelihood=BinarizedPatches()).init(jax.random.key(0), batch_of(jnp.zeros((1, 4, 4, 1)))),
      r'BinarizedPatches needs 16 outputs .* the decoder has 1: set its outputs=16',
    ),
    (
      lambda: GridEncoder(4).init(jax.random.key(0), jnp.zeros((1, 6, 6, 1))),
      r'images \(6, 6, 1\) cannot be halved 2 times',
    ),
  ],
)
def test_mistakes(make, message):
  with pytest.raises(UsageError, match=message):
    make()
