"""The hierarchical VAE and its networks."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.scipy.stats import norm

from genjax import optim, rng
from genjax.errors import UsageError
from genjax.logging import Progress
from genjax.networks.mlp import MLPEncoder
from genjax.networks.pixel_transformer import PixelTransformer
from genjax.networks.pixelcnn import LocalPixelCNN, PixelCNN
from genjax.networks.vdvae import TopDown, VDVAEDecoder, VDVAEEncoder
from genjax.objectives.likelihoods import Bernoulli, BinarizedBernoulli, BinarizedPatches, LogisticMixture
from genjax.objectives.vae.hierarchical import HierarchicalVAE
from genjax.objectives.vae.pixel_vae import PixelVAE
from genjax.objectives.vae.vae import VAE
from genjax.step import init_state
from genjax.types import Context, example_batch
from tests.conftest import batch_of, config_of, example_of, objects, step_of

SIDES = {'sides': (2, 1), 'blocks': (1, 2), 'width': 8}
TINY = HierarchicalVAE(VDVAEEncoder(**SIDES), VDVAEDecoder((2, 2, 1), z_dim=2, **SIDES), Bernoulli())
PIXELS = PixelVAE(TINY.encoder, TINY.decoder.clone(outputs=3), BinarizedBernoulli(), network=LocalPixelCNN(1, width=6, depth=1))
ALL = jnp.asarray(list(itertools.product([-1.0, 1.0], repeat=4))).reshape(16, 2, 2, 1)  # all binary images
BATCH = batch_of(ALL)
KEYS = rng.image_keys(jax.random.key(0), jnp.arange(16))


@functools.cache
def awake(objective):
  """Variables of a model whose blocks all say something."""
  variables = jax.jit(objective.init)(jax.random.key(0), BATCH)
  leaves, tree = jax.tree.flatten(variables.params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  params = jax.tree.unflatten(tree, [x + 0.15 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)])
  return variables._replace(params=params)


@pytest.fixture(scope='module')
def variables():
  return awake(TINY)


@pytest.mark.parametrize(
  'objective', [TINY, pytest.param(PIXELS, marks=pytest.mark.slow)], ids=['pixels_apart', 'one_after_another']
)
def test_the_probabilities_of_all_images_sum_to_one_and_are_those_of_samples(objective):
  variables = awake(objective)
  nll = jax.jit(lambda estimator: objective.nll(variables, BATCH, KEYS, estimator), static_argnums=0)
  p = np.exp(-np.asarray(nll('iwae_5000'), np.float64))
  assert p.std() > 0.02
  assert p.sum() == pytest.approx(1, abs=0.03)
  keys = rng.image_keys(jax.random.key(5), jnp.arange(20_000))
  samples = np.asarray(jax.jit(objective.sample)(variables, keys, {})).mean(axis=0)
  np.testing.assert_allclose(samples, (p[:, None, None, None] * ALL).sum(axis=0), atol=0.03)


@pytest.mark.slow
def test_a_pixel_follows_from_those_before_it_and_from_z():
  variables, x = awake(PIXELS), ALL[6:7]
  descent = PIXELS.descend(variables.params, KEYS[:1], None, {})
  ours = jax.jit(lambda x, out: PIXELS.likelihood_params(variables.params, descent._replace(out=out), x).reshape(-1))
  of_x, of_z = jax.jit(jax.jacfwd(ours, argnums=(0, 1)))(x, descent.out)
  assert not np.triu(of_x.reshape(4, 4)).any()
  assert np.diag(of_x.reshape(4, 4), -1)[[0, 2]].all()  # the pixel on the left
  assert np.abs(of_z.reshape(4, 4, 3)).max(axis=2).diagonal().all()  # the decoder's answer in its own place
  # All pixels' numbers at once are those by which samples were drawn, one after another.
  samples = PIXELS.sample_pixels(variables.params, descent, KEYS[:1])
  for place, out in enumerate(ours(samples, descent.out)):
    key = rng.fold_in(rng.fold_in(KEYS[:1], 0), place)
    assert PIXELS.likelihood.sample(out.reshape(1, 1, 1, 1), key) == samples.reshape(-1)[place]


@pytest.mark.slow
def test_the_pixels_of_a_patch_hang_together():
  # With one block whose z is ignored, p(x|z) is p(x), sums to one over all images and is no product of its pixels'.
  part = {'sides': (1,), 'blocks': (1,), 'width': 8, 'patch': 2}
  objective = HierarchicalVAE(
    VDVAEEncoder(**part), VDVAEDecoder((2, 2, 1), z_dim=2, outputs=16, place=(2, 2), **part), BinarizedPatches()
  )
  params = jax.jit(objective.init)(jax.random.key(0), BATCH).params
  decoder = params['model']['decoder']
  bias = jax.random.normal(jax.random.key(1), (16,))
  decoder['out'] = {'kernel': jnp.zeros_like(decoder['out']['kernel']), 'bias': bias}
  out = objective.descend(params, KEYS, None, {}).out
  assert out.shape == (16, 1, 1, 16)
  p = np.exp(objective.likelihood.log_prob(out, ALL, {}))
  assert p.sum() == pytest.approx(1, abs=1e-5)
  np.testing.assert_allclose(np.sort(p), np.sort(jax.nn.softmax(bias)), rtol=1e-4)
  np.testing.assert_allclose(objective.likelihood.mean(out)[0], (p[:, None, None, None] * ALL).sum(axis=0), atol=1e-5)


def test_bounds_are_in_order(variables):
  keys = rng.image_keys(jax.random.key(3), jnp.arange(4096))
  image = jnp.broadcast_to(ALL[6], (4096, 2, 2, 1))
  batch = batch_of(image)
  elbo, fifty = (jax.jit(lambda e=e: TINY.nll(variables, batch, keys, e))().mean() for e in ('elbo', 'iwae_50'))
  assert float(fifty) < float(elbo) - 0.1
  loss, aux = jax.jit(TINY.loss)(variables.params, Context(jnp.zeros((), int), {}, {}, 4096), batch, keys)
  assert float(loss) == pytest.approx(float(elbo), rel=1e-4)
  assert -float(aux.metrics['elbo_nats']) == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.slow
def test_the_divergence_of_a_block_is_that_of_its_normal_distributions():
  block = TopDown(3, 4, 1, 'float32')
  h, features = (jax.random.normal(jax.random.key(i), (2048, 2, 2, 8)) for i in (0, 1))
  h, features = (jnp.broadcast_to(a[:1], a.shape) for a in (h, features))  # one image
  noise = jax.random.normal(jax.random.key(2), (2048, 2, 2, 3))
  params = jax.jit(block.init)(jax.random.key(3), h, features, noise, 1.0)
  params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), params)
  (out, kl, log_ratio), parts = block.apply(params, h, features, noise, 1.0, capture_intermediates=True)
  prior, posterior = (parts['intermediates'][name]['__call__'][0] for name in ('prior', 'posterior'))
  (p_mean, p_log), (q_mean, q_log) = (np.split(np.asarray(a[..., :6]), 2, axis=-1) for a in (prior, posterior))
  z = q_mean + np.exp(q_log) * noise
  expected = (norm.logpdf(z, q_mean, np.exp(q_log)) - norm.logpdf(z, p_mean, np.exp(p_log))).sum(axis=(1, 2, 3))
  np.testing.assert_allclose(log_ratio, expected, rtol=1e-4, atol=1e-3)
  assert float(kl[0]) == pytest.approx(float(expected.mean()), abs=4 * float(expected.std()) / 2048**0.5)
  # From the prior the block takes its z there, and needs no posterior.
  unseen = {'params': {name: value for name, value in params['params'].items() if name != 'posterior'}}
  same = np.asarray((z - p_mean) / np.exp(p_log))
  out_of_prior, nothing, _ = block.apply(unseen, h, None, same, 1.0)
  np.testing.assert_allclose(out_of_prior, out, rtol=1e-3, atol=1e-3)
  assert not nothing.any()


def test_temperature(variables):
  draw = jax.jit(lambda keys, **options: TINY.sample(variables, keys, {}, **options))
  cold = draw(KEYS, temperature=0.0)
  np.testing.assert_allclose(cold, jnp.broadcast_to(cold[:1], cold.shape), atol=1e-6)
  assert draw(KEYS).std(axis=0).min() > 0.01


@pytest.mark.slow  # to trace
def test_the_paper_s_size():
  name = 'cifar10_vdvae'
  objective, _ = objects(name, small=False)
  variables = jax.eval_shape(objective.init, jax.random.key(0), example_batch(example_of(config_of(name))))
  assert round(sum(x.size for x in jax.tree.leaves(variables.params)) / 1e6) == 39
  assert objective.likelihood == LogisticMixture(10)


def test_large_gradients_are_skipped():
  optimizer = optim.adam(0.1, skip=5.0)
  params = {'w': jnp.zeros(2)}
  state = optimizer.init(params)
  once = jax.jit(optimizer.update)
  updates, after = once({'w': jnp.array([3.0, 3.9])}, state, params)
  assert (np.abs(updates['w']) > 0.05).all()
  updates, skipped = once({'w': jnp.array([3.0, 4.1])}, after, params)
  assert not updates['w'].any()
  assert (int(after.skipped), int(skipped.skipped)) == (0, 1)
  assert jax.tree.all(jax.tree.map(np.array_equal, after.inner, skipped.inner))
  plain = optax.adamw(0.1, weight_decay=0.0)
  expected, _ = plain.update({'w': jnp.array([3.0, 3.9])}, plain.init(params), params)
  np.testing.assert_allclose(once({'w': jnp.array([3.0, 3.9])}, state, params)[0]['w'], expected['w'], rtol=1e-6)


@pytest.mark.slow
def test_a_message_if_all_gradients_are_skipped(capsys):
  optimizers = {'model': optim.adam(1e-3, skip=1e-3)}
  state = jax.jit(functools.partial(init_state, TINY, optimizers))(jax.random.key(0), BATCH)
  metrics = jax.jit(step_of(TINY, optimizers, turn=(('model', ()),)))(state, BATCH, jax.random.key(0))[1]
  values = {name: float(value) for name, value in metrics.items()} | {'images_per_second': 1.0}
  assert values['model/skipped'] == 1
  progress = Progress(0, 10, 16)
  progress.show(1, values | {'model/skipped': 0.99})
  assert 'optim.model.skip' not in capsys.readouterr().out
  progress.show(1, values)
  text = capsys.readouterr().out
  assert f'{values["model/grad_norm"]:.4g}' in text
  assert 'optim.model.skip' in text


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'encoder': {'sides': (2,), 'blocks': (1,)}}, r'objective.encoder.sides=\(2,\) and objective.decoder.sides=\(2, 1\)'),
    ({'encoder': {'blocks': (1,)}}, 'objective.encoder.blocks=.* one for each of sides'),
    ({'encoder': {'patch': 2}}, 'objective.encoder.sides=.* must start at 2 / patch=2'),
    ({'encoder': {'sides': (2, 2)}, 'decoder': {'sides': (2, 2)}}, 'each must divide'),
    ({'decoder': {'outputs': 3}}, 'Bernoulli needs 1 outputs .* the decoder has 3: set its outputs=1'),
    ({'decoder': {'place': (2, 1)}}, r'objective.decoder.place=\(2, 1\) must divide its patch=1'),
    (
      {
        'encoder': {'sides': (1,), 'blocks': (1,), 'patch': 2},
        'decoder': {'sides': (1,), 'blocks': (1,), 'patch': 2, 'place': (1, 2)},
      },
      r'Bernoulli needs patches of \(1, 1\), but the decoder has \(2, 1\) positions for \(2, 2\) pixels',
    ),
  ],
)
def test_mistakes(change, message):
  encoder, decoder = TINY.encoder.clone(**change.get('encoder', {})), TINY.decoder.clone(**change.get('decoder', {}))
  with pytest.raises(UsageError, match=message):
    jax.eval_shape(lambda: HierarchicalVAE(encoder, decoder, Bernoulli()).init(jax.random.key(0), BATCH))
  with pytest.raises(UsageError, match=r'objective.encoder: MLPEncoder .*networks.vdvae.VDVAEEncoder'):
    HierarchicalVAE(MLPEncoder(), decoder, Bernoulli()).init(jax.random.key(0), BATCH)
  with pytest.raises(UsageError, match=r'objective.encoder: VDVAEEncoder .*mean and variance of one z'):
    VAE(encoder, decoder, Bernoulli()).init(jax.random.key(0), BATCH)
  with pytest.raises(UsageError, match=r'skip=-1\.0 must not be negative'):
    optim.adam(0.1, skip=-1.0)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      {'network': PixelTransformer((2, 2, 1), 1)},
      'objective.network=PixelTransformer .*LocalPixelCNN',
    ),
    ({'network': PixelCNN(2)}, 'objective.network.outputs=2: BinarizedBernoulli needs 1'),
    ({'network': PixelCNN(1, dropout=0.5)}, 'objective.network.dropout=0.5: PixelVAE does not support dropout, set it to 0'),
    ({'likelihood': Bernoulli()}, 'Bernoulli cannot be sampled pixel by pixel: use BinarizedBernoulli'),
    (
      {'likelihood': BinarizedPatches(), 'network': PixelCNN(16)},
      r'BinarizedPatches needs patches of \(2, 2\), but the decoder has \(2, 2\) positions',
    ),
  ],
)
def test_mistakes_with_autoregressive_models(change, message):
  with pytest.raises(UsageError, match=message):
    jax.eval_shape(lambda: dataclasses.replace(PIXELS, **change).init(jax.random.key(0), BATCH))
