"""The parts of GAN networks against their definitions, by NumPy and SciPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy.signal import upfirdn

from genjax import rng
from genjax.errors import UsageError
from genjax.networks import dcgan, progressive, r3gan, sngan, stylegan2
from genjax.networks.layers import spectral
from genjax.networks.resample import downsample, upsample

KEYS = rng.image_keys(jax.random.key(0), jnp.arange(8))


@pytest.mark.parametrize('shape', [(4, 6), (7, 7), (2, 2)])
def test_resampling_is_the_filter_of_scipy(shape):
  x = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype(np.float32)
  filter_ = np.array([1, 3, 3, 1]) / 8

  def through(x, up, down, cut):
    for axis in (1, 2):
      x = upfirdn(filter_ * up, x, up, down, axis=axis).take(cut(x.shape[axis]), axis=axis)
    return x

  np.testing.assert_allclose(upsample(x), through(x, 2, 1, lambda n: np.arange(2 * n) + 1), atol=1e-6)
  if shape[0] % 2 == 0:  # padded by 1 in front: every second value from the second on
    np.testing.assert_allclose(downsample(x), through(x, 1, 1, lambda n: np.arange(0, n, 2) + 2), atol=1e-6)


@pytest.mark.parametrize('layer', [nn.Dense(6), nn.Conv(6, (3, 3))])
def test_spectral_normalization_divides_by_the_largest_singular_value(layer):
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
      return spectral(train)(layer.clone())(x)

  x = jax.random.normal(jax.random.key(0), (2, 5, 5, 4))
  variables = Net().init(jax.random.key(1), x, True)
  kernel = jax.tree.leaves({k: v for k, v in variables['params'].items()})[-1]
  for _ in range(100):  # power iterations
    out, new = Net().apply(variables, x, True, mutable=['spectral'])
    variables = {**variables, **new}
  sigma = np.linalg.svd(np.asarray(kernel).reshape(-1, 6), compute_uv=False)[0]
  bias = jnp.zeros(6)
  plain = layer.apply({'params': {'kernel': kernel / sigma, 'bias': bias}}, x)
  np.testing.assert_allclose(out, plain, rtol=1e-3, atol=1e-4)
  np.testing.assert_array_equal(Net().apply(variables, x, False), Net().apply(variables, x, False))


def test_every_layer_of_sngans_discriminator_is_normalized():
  net = sngan.ResNetDiscriminator(width=4)
  x = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
  variables = net.init(jax.random.key(1), x, {}, True)
  kernels = [k for k, _ in jax.tree_util.tree_leaves_with_path(variables['params']) if 'kernel' in jax.tree_util.keystr(k)]
  sigmas = [k for k, _ in jax.tree_util.tree_leaves_with_path(variables['spectral']) if 'sigma' in jax.tree_util.keystr(k)]
  assert len(kernels) == len(sigmas) == 4 * 2 + 2 + 1  # two convolutions a block, the skips of two, the last layer


@pytest.mark.parametrize('demodulate', [True, False])
def test_modulated_convolution_is_a_convolution_of_each_images_own_weights(demodulate):
  x, w = jax.random.normal(jax.random.key(0), (4, 5, 5, 3)), jax.random.normal(jax.random.key(1), (4, 6))
  layer = stylegan2.ModulatedConv(7, 3, demodulate)
  variables = layer.init(jax.random.key(2), x, w)
  kernel = np.asarray(variables['params']['kernel']) / np.sqrt(27)
  dense = variables['params']['style']
  style = np.asarray(w) @ np.asarray(dense['kernel']) / np.sqrt(6) + np.asarray(dense['bias'])
  assert np.allclose(dense['bias'], 1)
  out = layer.apply(variables, x, w)
  for i in range(4):
    own = kernel * style[i][None, None, :, None]
    if demodulate:
      own = own / np.sqrt(np.square(own).sum(axis=(0, 1, 2)) + 1e-8)
    expected = jax.lax.conv_general_dilated(
      x[i : i + 1], jnp.asarray(own), (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )[0]
    np.testing.assert_allclose(out[i], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('size', [0.1, 10.0])
def test_demodulation_gives_a_variance_of_1_whatever_the_style(size):
  x, w = jax.random.normal(jax.random.key(0), (4, 16, 16, 8)), size * jax.random.normal(jax.random.key(1), (4, 6))
  out = stylegan2.ModulatedConv(16).init_with_output(jax.random.key(2), x, w)[0][:, 1:-1, 1:-1]  # edges see less
  np.testing.assert_allclose(out.std(axis=(1, 2, 3)), 1.0, rtol=0.1)


def test_groups_are_those_of_a_grouped_convolution():
  x = jax.random.normal(jax.random.key(0), (2, 5, 5, 12))
  layer = r3gan.GroupedConv(4, 1.0, 'float32')
  variables = layer.init(jax.random.key(1), x)
  kernel = variables['params']['kernel']
  assert kernel.shape == (3, 3, 4, 12)
  plain = jax.lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=3
  )
  np.testing.assert_allclose(layer.apply(variables, x), plain, rtol=1e-4, atol=1e-5)


def test_fix_up_starts_every_block_as_the_identity():
  x = jax.random.normal(jax.random.key(0), (2, 4, 4, 16))
  block = r3gan.Bottleneck(8, 4, 'float32')
  variables = block.init(jax.random.key(1), x)
  np.testing.assert_array_equal(block.apply(variables, x), x)


@pytest.mark.parametrize(('growth', 'widths'), [(2, [4, 8, 16]), (4, [4, 16, 40])])
def test_channels_grow_at_each_halving_up_to_the_widest(growth, widths):
  options = {'width': 4, 'max_width': 40, 'growth': growth, 'blocks': 1}
  generator, discriminator = r3gan.R3GANGenerator((28, 28, 1), **options), r3gan.R3GANDiscriminator(**options)
  for net, example in ((generator, jnp.zeros((1, generator.z_dim))), (discriminator, jnp.zeros((1, 28, 28, 1)))):
    params = jax.eval_shape(net.init, jax.random.key(0), example)['params']
    inside = sorted(p['GroupedConv_0']['kernel'].shape[-1] for name, p in params.items() if name.startswith('Bottleneck'))
    assert inside == [2 * n for n in widths]


def test_the_minibatch_deviation_is_of_groups_and_sees_a_stuck_generator():
  h = jax.random.normal(jax.random.key(0), (8, 4, 4, 32))
  actual = np.asarray(stylegan2.deviation_map(h, 4))
  assert actual.shape == (8, 4, 4, 1)
  for part in (slice(0, 4), slice(4, 8)):
    np.testing.assert_allclose(actual[part], np.asarray(h[part]).std(axis=0).mean(), rtol=1e-4)
  six = np.asarray(stylegan2.deviation_map(h[:6], 4))  # no multiple of four: threes
  np.testing.assert_allclose(six[3:], np.asarray(h[3:6]).std(axis=0).mean(), rtol=1e-4)
  stuck = jnp.broadcast_to(h[:1], h.shape)
  assert float(stylegan2.deviation_map(stuck, 4).max()) < 1e-3


@pytest.mark.slow
def test_style_mixing_combines_coarse_and_fine_styles():
  net = stylegan2.StyleGAN2Generator((16, 16, 1), z_dim=8, w_dim=8, mapping_depth=2, width=4)
  assert net.num_ws == 6  # 4x4; 8x8 and 16x16 twice; the last image
  z = jax.random.normal(jax.random.key(0), (2, 8))
  variables = jax.jit(net.init, static_argnums=3)(jax.random.key(1), z, {}, True, KEYS[:2])
  one, two = net.apply(variables, z, {}, method='mapping')
  same = jax.vmap(lambda _: jax.random.key(0))(jnp.arange(7))
  styles = jnp.stack([jnp.where(jnp.arange(6)[:, None] < i, one[None], two[None]) for i in range(7)])
  synthesis = jax.jit(functools.partial(net.apply, method='synthesis'))
  images = np.asarray(synthesis(variables, styles, same))
  steps = np.abs(np.diff(images, axis=0)).mean(axis=(1, 2, 3))
  assert (steps > 1e-4).all()  # every layer affects the output
  np.testing.assert_allclose(images[6], net.apply(variables, one[None], same[:1], method='synthesis')[0], atol=1e-5)


PAIRS = [
  (dcgan.DCGANGenerator((28, 28, 1), width=4), dcgan.DCGANDiscriminator(width=4, norm='spectral')),
  (sngan.ResNetGenerator((32, 32, 3), width=8, attention=(16,)), sngan.ResNetDiscriminator(width=8, attention=(16,))),
  (stylegan2.StyleGAN2Generator((28, 28, 1), 8, 8, 2, 4), stylegan2.StyleGAN2Discriminator(4)),
  (r3gan.R3GANGenerator((28, 28, 1), width=4, group=4), r3gan.R3GANDiscriminator(width=4, group=4)),
  (progressive.ProgressiveGenerator((28, 28, 1), width=4), progressive.ProgressiveDiscriminator(width=4)),
]


@pytest.mark.parametrize('pair', PAIRS, ids=lambda pair: type(pair[0]).__name__)
@pytest.mark.parametrize('classes', [0, 10])
def test_shapes_with_and_without_labels(pair, classes):
  generator, discriminator = pair
  cond = {'label': jnp.eye(classes)[jnp.arange(4)]} if classes else {}
  more = (KEYS[:4],) if getattr(generator, 'has_noise_input', False) else ()

  def both(key):
    z = jnp.zeros((4, generator.z_dim))
    images, _ = generator.init_with_output(key, z, cond, True, *more)
    return images, discriminator.init_with_output(key, images, cond, True)[0]

  images, logits = jax.eval_shape(both, jax.random.key(0))
  assert images.shape == (4, *generator.image_shape)
  assert images.dtype == jnp.float32
  assert logits.shape == (4,)
  assert logits.dtype == jnp.float32


@pytest.mark.parametrize('network', [stylegan2.StyleGAN2Discriminator(8), progressive.ProgressiveDiscriminator(width=8)])
@pytest.mark.parametrize('conditioning', ['projection', 'classifier'])
def test_every_weight_of_an_equalized_discriminator_starts_at_unit_variance(network, conditioning):
  network = network.clone(conditioning=conditioning, max_width=256, width=256)
  x, cond = jax.random.normal(jax.random.key(0), (4, 8, 8, 1)), {'label': jnp.eye(10)[:4]}
  answers, variables = jax.jit(network.init_with_output)(jax.random.key(1), x, cond)
  leaves = jax.tree_util.tree_leaves_with_path(variables['params'])
  kernels = [leaf for path, leaf in leaves if 'kernel' in jax.tree_util.keystr(path)]
  assert len(kernels) > 5
  for kernel in kernels:
    assert 0.75 < float(jnp.std(kernel)) < 1.25
  assert 0.05 < float(jnp.abs(answers).mean()) < 5  # and is scaled down when used


def pool(values):
  """Greatest of each 2x2 places of [h, w, c], at an odd edge of those that there are; [places, c]."""
  sides = range(0, values.shape[0], 2), range(0, values.shape[1], 2)
  return np.stack([values[i : i + 2, j : j + 2].max(axis=(0, 1)) for i in sides[0] for j in sides[1]])


@pytest.mark.parametrize('side', [6, 7])
def test_attention_is_what_it_is_defined_to_be(side):
  block = sngan.SelfAttention(train=False, dtype='float32')
  x = jax.random.normal(jax.random.key(0), (2, side, side, 16))
  variables = block.init(jax.random.key(1), x)
  np.testing.assert_array_equal(block.apply(variables, x), x)  # gamma starts at 0
  variables['params']['gamma'] = jnp.float32(0.7)
  spectral_norms = [variables['spectral'][name] for name in sorted(variables['spectral'])]
  kernels = [variables['params'][f'Conv_{i}']['kernel'][0, 0] for i in range(4)]
  sigmas = [next(v for k, v in norms.items() if k.endswith('sigma')) for norms in spectral_norms]
  query, key, value, out = (np.asarray(kernel / sigma) for kernel, sigma in zip(kernels, sigmas, strict=True))
  for image, actual in zip(np.asarray(x), np.asarray(block.apply(variables, x)), strict=True):
    scores = (image @ query).reshape(side * side, -1) @ pool(image @ key).T
    weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    expected = image + 0.7 * ((weights @ pool(image @ value)) @ out).reshape(image.shape)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_images_that_cannot_be_halved_are_refused():
  for generator, _ in PAIRS:
    odd = generator.clone(image_shape=(9, 9, 1))
    more = (KEYS[:2],) if getattr(generator, 'has_noise_input', False) else ()
    with pytest.raises(UsageError, match='needs square images with an even side of 8 or more'):
      jax.eval_shape(lambda odd=odd, more=more: odd.init(jax.random.key(0), jnp.zeros((2, odd.z_dim)), {}, True, *more))
  with pytest.raises(UsageError, match=r"DCGANDiscriminator: norm='instance' .*batch, layer, spectral, none"):
    dcgan.DCGANDiscriminator(norm='instance').init(jax.random.key(0), jnp.zeros((2, 8, 8, 1)), {}, True)


def test_attention_must_match_the_sides_of_feature_maps():
  x, z, key = jnp.zeros((2, 28, 28, 1)), jnp.zeros((2, 8)), jax.random.key(0)
  for side in (14, 7):  # 7 is pooled to 4
    net = sngan.ResNetDiscriminator(width=8, attention=(side,))
    assert 'SelfAttention_0' in jax.eval_shape(lambda: net.init(key, x, {}, True))['params']
  with pytest.raises(UsageError, match=r'objective.discriminator.attention=\(16,\): .* 7, 14'):
    sngan.ResNetDiscriminator(width=8, attention=(16,)).init(key, x, {}, True)
  generator = sngan.ResNetGenerator((28, 28, 1), z_dim=8, width=8, attention=(7,))
  with pytest.raises(UsageError, match=r'objective.generator.attention=\(7,\): .* 14, 28'):
    generator.init(key, z, {}, True)
