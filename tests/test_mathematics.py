"""Losses, solvers and layers against closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from genjax import optim, rng
from genjax.build import build
from genjax.conditioners import ClassLabel, complete
from genjax.errors import UsageError
from genjax.networks.dit import DiT, positions
from genjax.networks.embeddings import fourier_embedding
from genjax.networks.layers import NO_COND, Conv, TransposedConv, halvings
from genjax.networks.unet import ResBlock, UNet, dropout, group_norm
from genjax.objectives.gan.gan import GAN, Plan
from genjax.objectives.likelihoods import Gaussian
from genjax.objectives.vae.vae import VAE
from genjax.types import Context
from tests.conftest import assert_close, batch_of, config_of
from tests.linear_gaussian import MEAN, SIGMA, Decoder, Encoder, W

N = 4096
KEYS = rng.image_keys(jax.random.key(0), jnp.arange(N))


class LinearGenerator(nn.Module):
  z_dim: int = 4

  @nn.compact
  def __call__(self, z, cond=NO_COND, train=True):
    return (self.param('a', nn.initializers.constant(0.5), ()) * z).reshape(-1, 2, 2, 1)


class LinearDiscriminator(nn.Module):
  @nn.compact
  def __call__(self, x, cond=NO_COND, train=True):
    return (self.param('w', nn.initializers.constant(0.3), ()) * x).sum(axis=(1, 2, 3))


def test_temperature_and_truncation_scale_the_latent():
  # x = W z + mean in the decoder, x = 0.5 z in the generator: the deviation of samples follows that of z.
  vae, gan = VAE(Encoder(), Decoder(), Gaussian(SIGMA)), GAN(LinearGenerator(), LinearDiscriminator())
  example = batch_of(jnp.zeros((1, 2, 2, 1)))
  small, half = (vae.sample(vae.init(jax.random.key(0), example), KEYS, {}, temperature=t) for t in (0.1, 0.2))
  np.testing.assert_allclose(half - MEAN.reshape(1, 2, 2, 1), 2 * (small - MEAN.reshape(1, 2, 2, 1)), atol=1e-5)
  assert float(small[:, 0, 0, 0].std()) == pytest.approx(0.1 * np.hypot(*W[0]), rel=0.05)
  variables = gan.init(jax.random.key(0), example)
  whole = gan.from_latents(variables, gan.latents(KEYS), {}, KEYS)
  np.testing.assert_allclose(gan.sample(variables, KEYS, {}), np.clip(whole, -1, 1), atol=1e-6)
  np.testing.assert_allclose(gan.sample(variables, KEYS, {}, truncation=0.5), np.clip(0.5 * whole, -1, 1), atol=1e-6)


def test_fourier_features_have_a_gaussian_kernel():
  # 2006.10739, section 5: the inner product is the mean of cos(2 pi f (t - s)), which over f of N(0, scale^2) is known.
  t = jnp.linspace(-1.5, 1.5, 31)
  embedded = fourier_embedding(t, 2048, 0.4)
  distance = t[:, None] - t[None]
  np.testing.assert_allclose(embedded @ embedded.T / 1024, jnp.exp(-2 * (jnp.pi * 0.4 * distance) ** 2), atol=0.01)
  few = fourier_embedding(jnp.linspace(-1.5, 1.5, 400), 16, 1.0)
  assert np.linalg.matrix_rank(np.asarray(few), tol=0.1) > 12  # 8 if each column came twice


@pytest.mark.parametrize('fourier', [0.0, 1.0])
def test_the_u_net_depends_on_the_time(fourier):
  network = UNet(width=8, multipliers=(1,), blocks=1, attention=(), head_features=8, fourier=fourier)
  x = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
  t = jnp.array([0.1, 0.4, 0.5, 0.9])
  variables = jax.jit(network.init)(jax.random.key(1), x, t)
  variables = jax.tree.map(lambda w: w + 0.1 * jax.random.normal(jax.random.key(2), w.shape), variables)
  same = jax.jit(network.apply)(variables, jnp.broadcast_to(x[:1], x.shape), t)
  assert all(float(jnp.abs(same[i] - same[j]).max()) > 1e-3 for i in range(4) for j in range(i))


def parameters(network, shape, classes=0):
  cond = {'label': jnp.zeros((1, classes))} if classes else {}
  init = lambda: network.init(jax.random.key(0), jnp.zeros((1, *shape)), jnp.zeros(1), cond)  # noqa: E731
  return sum(math.prod(x.shape) for x in jax.tree.leaves(jax.eval_shape(init)))


def test_networks_have_the_sizes_of_the_papers():
  # 2006.11239, appendix B: 35.7M (35,746,307 in its published weights). 2206.00364, table 7: 55.7M (of which 1,152 are for
  # the labels of augmentation, which here enter as those of classes). 2212.09748, table 1: 33, 130, 458 and 675M.
  ddpm, edm = (config_of(name)['objective']['network'] for name in ('cifar10_ddpm', 'cifar10_edm'))
  assert parameters(build(ddpm), (32, 32, 3)) == 35_746_307
  assert parameters(build(edm), (32, 32, 3)) == 55_733_891 - 9 * 128
  sizes = {33: (384, 12, 6), 130: (768, 12, 12), 458: (1024, 24, 16), 675: (1152, 28, 16)}
  for millions, size in sizes.items():
    assert round(parameters(DiT(*size), (32, 32, 4), 1000) / 1e6) == millions


def test_dropout_is_of_each_image_s_own_key():
  network = UNet(width=8, multipliers=(1,), blocks=1, attention=(), head_features=8, dropout=0.5)
  x, t, keys = jax.random.normal(jax.random.key(0), (4, 8, 8, 1)), jnp.full(4, 0.3), KEYS[:4]
  variables = jax.jit(network.init)(jax.random.key(1), x, t)
  variables = jax.tree.map(lambda w: w + 0.1 * jax.random.normal(jax.random.key(2), w.shape), variables)
  all_four = network.apply(variables, x, t, {}, keys)
  np.testing.assert_allclose(all_four[:2], network.apply(variables, x[:2], t[:2], {}, keys[:2]), atol=1e-5)
  assert float(jnp.abs(all_four - network.apply(variables, x, t)).max()) > 1e-3  # none without keys
  same = jax.jit(network.apply)(variables, jnp.broadcast_to(x[:1], x.shape), t, {}, keys)
  assert float(jnp.abs(same[0] - same[1]).max()) > 1e-3


@pytest.mark.parametrize('rate', [0.0, 0.3])
def test_dropout_keeps_the_mean(rate):
  kept = dropout(jnp.ones((N, 2, 2, 1)), rate, KEYS, 3)
  assert float(kept.mean()) == pytest.approx(1, abs=0.02)
  assert float((kept == 0).mean()) == pytest.approx(rate, abs=0.02)


@pytest.mark.parametrize('resize', ['halve', 'double', ''])
def test_a_block_starts_as_its_resized_skip(resize):
  x = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
  block = ResBlock(8, 'float32', resize=resize, skip_scale=0.5)
  variables = block.init(jax.random.key(1), x, jnp.ones((2, 5)))
  halves, doubles = x.reshape(2, 2, 2, 2, 2, 8).mean(axis=(2, 4)), x.repeat(2, axis=1).repeat(2, axis=2)
  sides = {'halve': halves, 'double': doubles, '': x}[resize]
  if resize:
    skip = variables['params']['Conv_2']
    sides = sides @ skip['kernel'][0, 0] + skip['bias'][None, None, None]
  np.testing.assert_allclose(block.apply(variables, x, jnp.ones((2, 5))), 0.5 * sides, atol=1e-5)


def test_a_transformer_depends_on_time_label_and_position():
  network = DiT(width=16, depth=1, heads=2, patch=2)
  x, t, cond = jax.random.normal(jax.random.key(0), (2, 4, 4, 1)), jnp.array([0.2, 0.7]), {'label': jnp.eye(3)[:2]}
  variables = jax.jit(network.init)(jax.random.key(1), x, t, cond)
  assert (network.apply(variables, x, t, cond) == 0).all()  # adaLN-Zero
  variables = jax.tree.map(lambda w: w + 0.2 * jax.random.normal(jax.random.key(2), w.shape), variables)
  same = jnp.broadcast_to(x[:1], x.shape)
  for other in ((t, {'label': jnp.eye(3)[:1].repeat(2, axis=0)}), (t[:1].repeat(2), cond)):
    actual = network.apply(variables, same, *other)
    assert float(jnp.abs(actual[0] - actual[1]).max()) > 1e-3
  flat = network.apply(variables, jnp.ones_like(x), t, cond)[0].reshape(2, 2, 2, 2)
  assert float(jnp.abs(flat[0, :, 0] - flat[1, :, 1]).max()) > 1e-3  # patches of one color, distinguished by their positions
  place = positions(3, 5, 16)
  assert len(np.unique(place.round(5), axis=0)) == 15
  with pytest.raises(UsageError, match=r'a DiT with patch=2 .* 5x4'):
    network.init(jax.random.key(0), jnp.zeros((1, 5, 4, 1)), t[:1])


def test_drawn_labels_are_uniform():
  labels = np.asarray(complete(ClassLabel(5), {}, KEYS)['label'])
  assert np.bincount(labels, minlength=5).min() > N / 5 - 5 * np.sqrt(N * 0.16)
  assert np.bincount(labels).max() < N / 5 + 5 * np.sqrt(N * 0.16)


def test_gan_losses_and_gradients_of_linear_players():
  gan = GAN(LinearGenerator(), LinearDiscriminator())
  x = np.random.default_rng(0).normal(size=(16, 2, 2, 1)).astype(np.float32)
  batch = batch_of(jnp.asarray(x))
  params, _ = gan.init(jax.random.key(0), batch)
  context, keys = Context(jnp.zeros((), int), {}, {}, plan=Plan()), KEYS[:16]
  z = np.asarray(rng.normal(keys, (4,)))
  a, w = 0.5, 0.3
  sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
  real, fake = w * x.sum(axis=(1, 2, 3)), w * a * z.sum(axis=1)
  (loss, _), grads = jax.value_and_grad(gan.discriminator_loss, has_aux=True)(params, context, batch, keys)
  assert float(loss) == pytest.approx(-np.log(sigmoid(real)).mean() - np.log(1 - sigmoid(fake)).mean(), rel=1e-5)
  by_hand = (-sigmoid(-real) * real / w).mean() + (sigmoid(fake) * fake / w).mean()
  assert float(grads['discriminator']['w']) == pytest.approx(by_hand, rel=1e-4)
  (loss, _), grads = jax.value_and_grad(gan.generator_loss, has_aux=True)(params, context, batch, keys)
  assert float(loss) == pytest.approx(-np.log(sigmoid(fake)).mean(), rel=1e-5)
  assert float(grads['generator']['a']) == pytest.approx((-sigmoid(-fake) * fake / a).mean(), rel=1e-4)


@pytest.mark.parametrize(('batch', 'pieces'), [(192, 3), (120, 1)])
def test_a_large_convolution_in_pieces_is_the_convolution(batch, pieces):
  """Of a batch that eight devices share: the same values and gradients, no image sent to another device."""
  ours, flax = Conv(8, (3, 3), strides=2), nn.Conv(8, (3, 3), strides=2)
  x = jax.random.normal(jax.random.key(0), (batch, 8, 8, 128))
  variables = flax.init(jax.random.key(1), x)
  assert jax.tree.structure(ours.init(jax.random.key(1), x)) == jax.tree.structure(variables)
  data = jax.NamedSharding(jax.make_mesh((8,), ('data',), (jax.sharding.AxisType.Auto,)), jax.P('data'))

  def both(layer):
    loss = lambda variables, x: jnp.sin(layer.apply(variables, x)).sum()  # noqa: E731
    return jax.jit(jax.value_and_grad(loss, (0, 1)), in_shardings=(None, data)).lower(variables, x)

  text = both(ours).as_text()
  assert text.count('stablehlo.convolution') == pieces * both(flax).as_text().count('stablehlo.convolution')
  compiled = both(ours).compile()
  assert not any(op in compiled.as_text() for op in ('all-gather', 'all-to-all', 'collective-permute'))
  assert_close(compiled(variables, x), both(flax).compile()(variables, x), 1e-4)


@pytest.mark.parametrize('side', [1, 4, 7])
def test_transposed_convolution_is_flax_s(side):
  x = jax.random.normal(jax.random.key(0), (2, side, side, 3))
  ours, flax = TransposedConv(5), nn.ConvTranspose(5, (4, 4), strides=(2, 2), padding='SAME')
  params = ours.init(jax.random.key(1), x)
  params['params']['bias'] += 0.1
  np.testing.assert_allclose(ours.apply(params, x), flax.apply(params, x), atol=1e-5)


def test_halvings():
  assert [halvings(n) for n in (7, 8, 28, 32, 64)] == [0, 1, 2, 3, 4]


def test_schedules():
  cosine = optim.cosine(peak=2.0, steps=110, warmup=10, end=0.5)
  assert [float(cosine(t)) for t in (0, 5, 10, 60, 110)] == pytest.approx([0, 1, 2, 1.25, 0.5], abs=1e-6)
  constant = optim.constant(3.0, warmup=4)
  assert [float(constant(t)) for t in (0, 2, 4, 99)] == pytest.approx([0, 1.5, 3, 3])


def test_weight_decay_is_decoupled():
  chain = optim.adam(0.1, weight_decay=0.2)
  params = {'x': jnp.array([1.0, -3.0])}
  updates, _ = chain.update({'x': jnp.zeros(2)}, chain.init(params), params)
  np.testing.assert_allclose(updates['x'], -0.1 * 0.2 * params['x'], rtol=1e-6)  # AdamW's: not through the moments


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: optim.adam(-1e-3), 'must not be negative'),
    (lambda: optim.adam(1e-3, clip=-1.0), 'clip=-1.0 must not be negative'),
    (lambda: optim.constant(1.0, warmup=-1), 'warmup=-1: neither may be negative'),
    (lambda: optim.cosine(-1.0, 10), 'a schedule with rate -1.0'),
    (lambda: optim.adam(1e-3, b1=2.0), r'b1=2.0 and b2=0.999 must be in \[0, 1\)'),
    (lambda: Gaussian(0.0), 'sigma=0.0 must be positive'),
    (lambda: VAE(Encoder(), Decoder(), Gaussian(), beta=-1.0), 'beta=-1.0 must not be negative'),
  ],
)
def test_values_out_of_range_are_refused(call, message):
  with pytest.raises(UsageError, match=message):
    call()


def test_clipping_bounds_the_gradient_before_adam():
  chain = optim.adam(1.0, clip=1.0)
  params = {'x': jnp.zeros(2)}
  _, state = chain.update({'x': jnp.array([30.0, 40.0])}, chain.init(params), params)
  mu = jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, 'mu'))
  mu = next(s.mu['x'] for s in mu if hasattr(s, 'mu'))
  np.testing.assert_allclose(mu, 0.1 * np.array([0.6, 0.8]), rtol=1e-5)


@pytest.mark.parametrize('features', [1, 18, 33, 50, 96, 1024])
def test_groups_divide_every_width(features):
  layer = group_norm(features, 'float32')
  assert features % layer.num_groups == 0
  assert layer.num_groups == 1 or features // layer.num_groups >= 4
  assert layer.num_groups <= 32
