"""Modes that are counted, and collapse that is flagged where it is and not where it is not."""

import dataclasses
import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.stats import norm

import genjax
from genjax import rng
from genjax.conditioners import ClassLabel
from genjax.data.pipeline import epoch_order
from genjax.data.prepare import prepare
from genjax.data.sources import modes as data_modes
from genjax.data.sources.base import Subset, labeled
from genjax.data.sources.open import open_data
from genjax.errors import UsageError
from genjax.latents import slerp
from genjax.metrics import collapse, modes
from genjax.metrics.extractors import custom_extractor
from genjax.networks.mlp import MLPDiscriminator, MLPGenerator
from genjax.objectives.gan.augment import AdaptiveAugment
from genjax.objectives.gan.gan import GAN
from genjax.parallel import make_mesh, replicated
from genjax.types import Variables, example_batch
from tests.conftest import ROOT, batch_of, labeled_example
from tests.programs import ENV, UNCONDITIONAL, command


def test_the_gaussians_cover_their_own_modes():
  source = open_data('gaussians_25', 1)
  assert source.image_shape == (1, 1, 2)
  actual = modes.count_modes(source.images[:10_000], {'name': 'gaussians_25'})
  assert actual['modes'] == 25
  # Within three deviations in two dimensions were 0.989; centers are between levels, so that distances are of a lattice.
  steps = np.arange(-10, 10)
  chance = np.diff(norm.cdf(np.arange(-10, 11) / data_modes.DEVIATION))
  within = np.hypot(steps[:, None] + 0.5, steps[None] + 0.5) <= 3 * np.sqrt(data_modes.DEVIATION**2 + 1 / 12)
  assert actual['high_quality'] == pytest.approx((np.outer(chance, chance) * within).sum(), abs=3e-3)
  points, labels = data_modes.gaussians('train')
  own = np.array([points[labels == i].reshape(-1, 2).mean(axis=0) for i in range(25)])
  np.testing.assert_allclose(own, data_modes.centers(), atol=0.1)
  spread = np.array([points[labels == i].reshape(-1, 2).std(axis=0) for i in range(25)])
  np.testing.assert_allclose(spread, np.sqrt(1.275**2 + 1 / 12), rtol=0.05)  # rounding adds a twelfth


def test_points_that_miss_are_counted_as_such():
  centers = np.rint(data_modes.centers()).astype(np.uint8).reshape(25, 1, 1, 2)
  three = np.repeat(centers[[0, 7, 24]], 10, axis=0)
  assert modes.gaussian_modes(three) == {'modes': 3.0, 'high_quality': 1.0}
  between = np.full((10, 1, 1, 2), 100, np.uint8)
  actual = modes.gaussian_modes(np.concatenate([three, between]))
  assert actual == {'modes': 3.0, 'high_quality': 0.75}


def test_modes_of_digits_and_their_divergence():
  all_of_them = np.stack(np.unravel_index(np.arange(1000), (10, 10, 10)), axis=1)
  assert modes.stacked_mnist_modes(all_of_them) == {'modes': 1000.0, 'modes_kl': pytest.approx(0, abs=1e-9)}
  actual = modes.stacked_mnist_modes(all_of_them[:10].repeat(5, axis=0))
  assert actual == {'modes': 10.0, 'modes_kl': pytest.approx(np.log(100))}
  random = np.random.default_rng(0).integers(10, size=(10_000, 3))
  assert modes.stacked_mnist_modes(random)['modes_kl'] == pytest.approx(999 / 20_000, rel=0.1)


def test_stacks_are_of_three_digits_each():
  images = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((10, 4, 4, 1), np.uint8)
  stacks, labels = data_modes.stacked(images, np.arange(10, dtype=np.int32), seed=0)
  assert stacks.shape == (10, 4, 4, 3)
  np.testing.assert_array_equal(stacks[:, 0, 0] @ [100, 10, 1], labels)
  again, _ = data_modes.stacked(images, np.arange(10, dtype=np.int32), seed=0)
  np.testing.assert_array_equal(stacks, again)


def test_features_of_digits_on_digits_are_those_of_each_color(monkeypatch):
  one = custom_extractor('classifier', lambda x: x.astype(jnp.float32).mean(axis=(1, 2)), '1')
  monkeypatch.setattr(modes, 'mnist_classifier', lambda data: one)
  images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3)), jnp.uint8)
  extractor = modes.open_features('classifier', '', None, None, {'name': 'stacked_mnist'})
  features, probabilities = extractor.function(extractor.params, images)
  np.testing.assert_allclose(features, images.mean(axis=(1, 2)), rtol=1e-6)
  assert probabilities is None
  assert (extractor.hash, extractor.resizer) == ('1', 'none, color by color')


def test_what_these_sets_do_not_have_is_refused():
  with pytest.raises(UsageError, match=r'data.resolution=8: .* set it to 1'):
    open_data('gaussians_25', 8)
  with pytest.raises(UsageError, match=r"gaussians_25 has no split 'valid': use data.split=train or test"):
    open_data('gaussians_25', 1, split='valid')
  with pytest.raises(UsageError, match=r'data.channels=1: .* stacked_mnist .* set it to 0'):
    open_data('stacked_mnist', 28, channels=1)


# The panel. Fixtures that collapse, and one that does not: the data themselves.


@dataclasses.dataclass(frozen=True)
class Given(GAN):
  """A GAN whose samples are given."""

  kind: str = 'real'

  def sample(self, variables, keys, cond, *, truncation=1.0):
    images = variables.params['images']
    if self.kind == 'stuck':
      return jnp.broadcast_to(images[:1], images.shape) + 0.01 * rng.normal(keys, images.shape[1:])
    images = truncation * images
    if self.kind == 'copies':
      return variables.params['training']
    if self.kind == 'five':
      return variables.params['five']
    if self.kind == 'few':  # eight images again and again
      return images[jnp.arange(len(images)) % 8] + 0.001 * rng.normal(keys, images.shape[1:])
    return images


def looked_at(kind: str, devices: int = 1, **options):
  source = open_data('digits', 8)
  train, other = Subset(source, np.arange(1000)), Subset(source, np.arange(1000, 1500))
  game = Given(MLPGenerator((8, 8, 1), z_dim=8, width=16), MLPDiscriminator(width=16), kind=kind)
  pixels, cond = other.read(np.arange(256))
  batch = batch_of(pixels / np.float32(127.5) - 1, cond['label'])
  variables = game.init(jax.random.key(0), batch)
  variables.params['images'] = batch.image
  variables.params['five'] = (
    jnp.asarray(np.resize(source.images[1000:][source.cond['label'][1000:] < 5], batch.image.shape)) / 127.5 - 1
  )
  variables.params['training'] = train.read(epoch_order(0, 0, 1000)[500:756])[0] / np.float32(127.5) - 1
  mesh = make_mesh(jax.devices()[:devices])
  return collapse.CollapseMonitor(game, train, other, mesh, options=options)(jax.device_put(variables, replicated(mesh)))


def test_the_data_themselves_are_not_flagged():
  actual = looked_at('real')
  assert actual['pairwise'] == pytest.approx(1, abs=0.05)
  assert actual['nearest'] == pytest.approx(1, abs=0.2)
  assert collapse.flags(actual, is_gan=True) == []
  assert looked_at('real', devices=8) == pytest.approx(actual, rel=1e-4, abs=1e-5)


def test_the_panel_uses_the_sampling_options_of_the_evaluation():
  assert looked_at('real', truncation=0.25)['pairwise'] == pytest.approx(looked_at('real')['pairwise'] / 4, rel=1e-4)


def test_what_has_no_value_is_left_out():
  # No two images of a class: no distance in one, and nothing else is lost.
  source, game = open_data('digits', 8), GAN(MLPGenerator((8, 8, 1), 8, 16), MLPDiscriminator(16), conditioner=ClassLabel(60))
  alone = labeled('few', source.images[:60], np.arange(60, dtype=np.int32), 60)
  variables = game.init(jax.random.key(0), example_batch(alone.example))
  actual = collapse.CollapseMonitor(game, alone, None, make_mesh(jax.devices()[:1]), images=60)(variables)
  assert actual.keys().isdisjoint({'pairwise', 'nearest'})
  assert {'rank', 'labels', 'precision'} < set(actual)
  assert all(map(np.isfinite, actual.values()))
  collapse.flags(actual, is_gan=True)


@pytest.mark.parametrize(
  ('kind', 'text'),
  [
    ('stuck', 'the generator has collapsed'),
    ('few', 'near duplicates'),
    ('copies', 'held-out images are: copies'),
    ('five', 'some are missing'),
  ],
)
def test_what_has_collapsed_is_flagged(kind, text):
  flags = collapse.flags(looked_at(kind), is_gan=True)
  assert len(flags) == 1
  assert text in flags[0]


def test_a_class_whose_samples_are_alike_is_flagged_though_classes_differ():
  # Samples with labels: the mean distance within classes counts, not that between them.
  images, cond = open_data('digits', 8).read(np.arange(400))
  labels = cond['label']
  one = np.stack([images[np.argmax(labels == label)] for label in labels]).astype(np.float32)
  apart, _ = collapse.distances(jnp.asarray(one), jnp.asarray(labels))
  real, _ = collapse.distances(jnp.asarray(images, jnp.float32), jnp.asarray(labels))
  assert float(apart) == 0.0
  assert float(real) > 100


def test_ignored_labels_are_flagged():
  source = open_data('digits', 8)

  class Deaf(MLPGenerator):
    def __call__(self, z, cond, train=True):
      return super().__call__(z, {'label': 0 * cond['label']}, train)

  for kind, flagged in ((MLPGenerator, False), (Deaf, True)):
    game = GAN(kind((8, 8, 1), z_dim=8, width=16), MLPDiscriminator(width=16), conditioner=ClassLabel(10))
    variables = game.init(jax.random.key(0), example_batch(source.example))
    actual = collapse.CollapseMonitor(game, source, None, make_mesh(jax.devices()[:1]), images=64)(variables)
    assert any('labels are ignored' in flag for flag in collapse.flags(actual, is_gan=True)) == flagged


def test_an_overfitted_discriminator_is_noticed_and_is_no_collapse():
  actual = {'pairwise': 1.0, 'nearest': 1.0, 'rank': 5.0, 'directions': 8.0, 'overfitting': 0.9}
  actual |= {'d_train': 1.0, 'd_held_out': 0.2, 'd_error': 0.1}
  assert collapse.flags(actual, is_gan=True) == []
  assert collapse.overfitting_warning(actual).startswith(
    'the discriminator has memorized the training images (overfitting 0.9)'
  )
  assert collapse.overfitting_warning(actual | {'d_error': 0.3}) == ''  # a quotient of two numbers that are nearly 0


def test_the_spectrum_is_that_of_the_generators_matrix():
  # tanh of small numbers is straight: G(z) = A z with singular values 3, 2, 1 (times 1e-3).
  values = np.array([3.0, 2.0, 1.0]) * 1e-3
  u, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 3)))
  matrix = jnp.asarray((u * values).T, jnp.float32)

  class Straight(MLPGenerator):
    def __call__(self, z, cond=None, train=True):
      return (z @ matrix).reshape(-1, 8, 8, 1)

  game = GAN(Straight((8, 8, 1), z_dim=3), MLPDiscriminator(width=8))
  source = open_data('digits', 8)
  variables = Variables({'generator': {}, 'discriminator': None}, {})
  x = jnp.zeros((1, 8, 8, 1))
  variables.params['discriminator'] = game.discriminator.init(jax.random.key(0), x, {}, True)['params']
  actual = collapse.CollapseMonitor(game, source, None, make_mesh(jax.devices()[:1]), images=32)(variables)
  assert actual['largest'] == pytest.approx(values[0], rel=1e-3)
  assert actual['smallest'] == pytest.approx(values[2], rel=1e-3)
  assert actual['rank'] == pytest.approx((values**2).sum() ** 2 / (values**4).sum(), rel=1e-3)
  assert 'overfitting' not in actual


def test_no_device_takes_a_decomposition():
  # Eight CPU devices that wait for each other's: how the suite hung.
  game = GAN(MLPGenerator((8, 8, 1), z_dim=4, width=8), MLPDiscriminator(width=8), augment=AdaptiveAugment())
  batch = example_batch(labeled_example((8, 8, 1)), 8)
  variables = game.init(jax.random.key(0), batch)
  program = jax.jit(functools.partial(collapse.panel, game)).lower(variables, jax.random.key(0), batch, batch).as_text()
  keys = rng.image_keys(jax.random.key(0), batch.index)
  program += jax.jit(game.augment).lower(keys, batch.image, variables.buffers['augment']).as_text()
  assert 'lapack' not in program


def test_a_generator_of_one_direction_is_flagged():
  actual = {'pairwise': 1.0, 'nearest': 1.0, 'rank': 1.1}
  assert collapse.flags(actual | {'directions': 2.0}, is_gan=True) == []  # points within a mode
  assert collapse.flags(actual | {'directions': 100.0}, is_gan=True) == [
    'the generator uses 1.1 of 100 directions of its latent'
  ]


@pytest.mark.slow
def test_a_game_without_a_discriminator_collapses_and_is_flagged(tmp_path):
  # Its discriminator never learns: the generator goes where that happens to like it most.
  off = ['--config.train.steps=600', '--config.train.sample_every=300', '--config.optim.discriminator.learning_rate=0.0']
  small = [
    '--config.objective.generator.width=64',
    '--config.objective.discriminator.width=64',
    UNCONDITIONAL,
  ]
  rate = ['--config.optim.generator.learning_rate=1e-2']
  out = subprocess.run(
    command('digits_gan', tmp_path / 'x', *off, *small, *rate), cwd=ROOT, env=ENV, check=True, capture_output=True, text=True
  ).stdout
  assert 'step 600: ' in out
  assert 'the generator has collapsed' in out
  lines = [json.loads(line) for line in (tmp_path / 'x' / 'metrics.jsonl').read_text().splitlines()]
  watched = [line for line in lines if 'collapse/pairwise' in line]
  assert [line['step'] for line in watched] == [300, 600]
  assert watched[-1]['collapse/pairwise'] < 0.5
  assert 'collapse/overfitting' in watched[-1]


# Flags by features: real images in classes around centers, and samples that each fail in one way.


def class_features(n: int, seed: int, classes: int = 5):
  """Features [n, 8] of images of `classes` classes, and their labels."""
  random = np.random.default_rng(seed)
  labels = random.integers(classes, size=n).astype(np.int32)
  centers = 6 * np.random.default_rng(0).normal(size=(classes, 8))
  return (centers[labels] + random.normal(size=(n, 8))).astype(np.float32), labels


def failing(kind: str):
  """Samples' features and labels; labels are None for an unconditional model."""
  random = np.random.default_rng(2)
  features, labels = class_features(1000, 1)
  mean = np.stack([features[labels == c].mean(axis=0) for c in range(5)])
  match kind:
    case 'unconditional':
      return features, None
    case 'duplicates':
      return np.resize(features[:30], features.shape), np.resize(labels[:30], labels.shape)
    case 'one of each class':
      return mean[labels] + 1e-3 * features, labels
    case 'less variety':
      return mean[labels] + 0.3 * (features - mean[labels]), labels
    case 'blur':
      return mean[labels] + 0.6 * (features - mean[labels]), labels
    case 'one class has collapsed':
      return np.where((labels == 3)[:, None], mean[3] + 0.1 * (features - mean[3]), features), labels
    case 'a class is missing':
      return features[labels != 3], None
    case 'a requested class is missing':
      return features[labels != 3], labels[labels != 3]
    case 'labels are ignored':
      return features, random.permutation(labels)
    case _:
      return features, labels


@pytest.mark.parametrize('kind', ['real', 'unconditional'])
@pytest.mark.parametrize('n', [100, 400, 3000])
def test_real_features_are_not_flagged(kind, n):
  real, real_labels = class_features(n, 0)
  actual = collapse.compare_with_real(*failing(kind), real, real_labels)
  assert collapse.flags(actual, is_gan=True) == []
  assert actual['relative_recall'] == pytest.approx(1, abs=0.25)
  assert actual.get('class_variety', 1) == pytest.approx(1, abs=0.1)
  assert actual.get('label_agreement', 1) == pytest.approx(1, abs=0.1)
  assert ('class_variety' in actual) == (n > 100)  # else classes are too small


@pytest.mark.parametrize(
  ('kind', 'names'),
  [
    ('duplicates', {'relative_recall', 'relative_coverage'}),
    ('one of each class', {'relative_recall', 'relative_coverage', 'class_variety'}),
    ('less variety', {'relative_recall', 'class_variety'}),
    ('one class has collapsed', {'class_variety_lowest'}),
    ('a class is missing', {'class_share_lowest'}),
    ('a requested class is missing', {'class_share_lowest'}),
    ('labels are ignored', {'label_agreement'}),
  ],
)
def test_features_that_have_collapsed_are_flagged(kind, names):
  real, real_labels = class_features(1000, 0)
  actual = collapse.compare_with_real(*failing(kind), real, real_labels)
  flags = collapse.flags(actual, is_gan=False)
  # Each flag depends on one metric: with the value of real images there is no flag.
  numbers = [name for name in actual if not name.endswith('_class')]
  assert {name for name in numbers if collapse.flags(actual | {name: 1.0}, is_gan=False) != flags} == names


def test_thresholds_of_variety_are_higher_for_gans():
  real, real_labels = class_features(1000, 0)
  actual = collapse.compare_with_real(*failing('blur'), real, real_labels)
  assert actual['class_variety'] == pytest.approx(0.6, abs=0.02)
  messages = collapse.flags(actual, is_gan=False)
  assert not any('vary' in flag for flag in messages)
  (flag,) = set(collapse.flags(actual, is_gan=True)) - set(messages)
  assert flag.startswith('samples of a class vary 0.6')
  for is_gan in (False, True):  # wherever the panel's numbers are at hand, as in evaluate.py, or are not, as in train.py
    panel = {'pairwise': 0.6, 'nearest': 0.6}
    assert collapse.flags(actual | panel, is_gan) == collapse.flags(actual, is_gan)


def test_flags_name_the_failing_class():
  real, real_labels = class_features(1000, 0)
  for kind, name in (('one class has collapsed', 'class_variety'), ('a class is missing', 'class_share')):
    actual = collapse.compare_with_real(*failing(kind), real, real_labels)
    assert actual[f'{name}_class'] == 3
    assert any('class 3 ' in flag for flag in collapse.flags(actual, is_gan=False))


def test_features_without_labels_or_with_classes_that_they_do_not_distinguish():
  real, real_labels = class_features(1000, 0)
  features, labels = failing('real')
  assert set(collapse.compare_with_real(features, None, real, None)) == {
    'relative_precision', 'relative_recall', 'relative_coverage'
  }  # fmt: skip
  labels, mixed_labels = map(np.random.default_rng(3).permutation, (labels, real_labels))  # features know nothing of them
  actual = collapse.compare_with_real(features, labels, real, mixed_labels)
  assert 'label_agreement' not in actual
  assert collapse.flags(actual, is_gan=True) == []
  constant = np.where((real_labels == 1)[:, None], 0, real)  # a class without any variety
  assert all(map(np.isfinite, collapse.compare_with_real(features, labels, constant, real_labels).values()))


def test_features_decide_whether_images_are_missing():
  # Pixels: precision as of held-out images, coverage lower. Features: no image is left out.
  pixels = {'precision': 0.6, 'coverage': 0.5, 'precision_held_out': 0.6, 'coverage_held_out': 0.8}
  assert len(collapse.flags(pixels, is_gan=False)) == 1
  features = {'relative_precision': 0.4, 'relative_recall': 1.0, 'relative_coverage': 0.9}
  assert collapse.flags(pixels | features, is_gan=False) == []


# Walks and mixes.


def test_slerp_keeps_lengths_and_meets_its_ends():
  a, b = jnp.array([2.0, 0, 0]), jnp.array([0, 4.0, 0])
  np.testing.assert_allclose(slerp(a, b, jnp.asarray(0.0)), a, atol=1e-6)
  np.testing.assert_allclose(slerp(a, b, jnp.asarray(1.0)), b, atol=1e-6)
  middle = slerp(a, b, jnp.asarray(0.5))
  np.testing.assert_allclose(middle, np.array([1, 1, 0]) * 3 / np.sqrt(2), atol=1e-6)
  np.testing.assert_allclose(slerp(a, 2 * a, jnp.asarray(0.5)), 1.5 * a, atol=1e-6)


@pytest.fixture(scope='module')
def style_run(tmp_path_factory):
  path = tmp_path_factory.mktemp('runs') / 'style'
  subprocess.run(
    command('digits_stylegan2', path, '--config.train.steps=2'), cwd=ROOT, env=ENV, check=True, capture_output=True
  )
  return path


@pytest.mark.slow
def test_walks_and_mixes_of_a_run(style_run, tmp_path):
  run = genjax.load(style_run)
  key = jax.random.key(0)
  frames = run.walk(key, stops=4, frames=8, label=3)
  images = run.sample(key, 4, label=3)
  assert frames.shape == (8, 8, 8, 1)
  np.testing.assert_allclose(frames[0], images[0], atol=1e-5)
  mixed = run.mix(key, n=3, layer=2, label=3)
  assert mixed.shape == (9, 8, 8, 1)
  np.testing.assert_allclose(mixed[::4], images[:3], atol=1e-5)  # each with itself

  def sample(*options):
    words = [sys.executable, 'sample.py', '--run', str(style_run), *options]
    return subprocess.run(words, cwd=ROOT, env=ENV, check=False, capture_output=True, text=True)

  for name in ('walk.gif', 'walk.png', 'walk.webp'):
    done = sample('--walk', '3', '--n', '6', '--out', str(tmp_path / name))
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / name) as picture:
      assert getattr(picture, 'n_frames', 1) == (1 if name == 'walk.png' else 6)
      if name == 'walk.png':
        assert 3 * picture.width == pytest.approx(2 * picture.height, rel=0.1)  # three stops, a row of two frames from each
  assert sample('--mix', '2', '--out', str(tmp_path / 'mix.png')).returncode == 0  # six a side
  with Image.open(tmp_path / 'mix.png') as picture:
    assert picture.width < 1000
  wrong = {
    ('--walk', '1', '--out', 'x.gif'): 'stops=1 must be an integer of at least 2',
    ('--walk', '3', '--out', 'x.mp4'): 'x.mp4: use a name that ends in',
    ('--mix', '9', '--out', 'x.png'): 'layer 9 must be from 1 to 3',
    ('--mix', '1', '--walk', '3', '--out', 'x.png'): '--walk and --mix cannot be combined',
    ('--mix', '1', '--npz', 'x.npz'): '--walk and --mix',
    ('--mix', '1', '--label', '1,2', '--out', 'x.png'): '--label 1,2: --walk and --mix need a single class',
    ('--walk', '2', '--label', 'each', '--out', 'x.gif'): '--label each: --walk and --mix need a single class',
  }
  for options, text in wrong.items():
    assert text in sample(*options).stderr


def test_what_has_no_latents_or_styles_is_refused():
  game = GAN(MLPGenerator((8, 8, 1), z_dim=4, width=8), MLPDiscriminator(width=8))
  batch = example_batch(labeled_example((8, 8, 1), 0), 4)
  run = genjax.run.Run(None, {'data': {'image_shape': [8, 8, 1]}}, game, game.init(jax.random.key(0), batch), 0)
  with pytest.raises(UsageError, match=r'MLPGenerator has no styles .*StyleGAN2Generator'):
    run.mix(jax.random.key(0))
  with pytest.raises(UsageError, match='has no latents to interpolate'):
    dataclasses.replace(run, objective=object()).walk(jax.random.key(0))
  assert run.walk(jax.random.key(0), stops=2, frames=3).shape == (3, 8, 8, 1)


@pytest.mark.slow
def test_stacks_of_real_digits_are_read_as_what_they_are(shared_data, tmp_path, cache):
  data = {'name': 'mnist', 'resolution': 28, 'data_dir': str(tmp_path)}
  prepare('mnist', str(shared_data / 'mnist'), str(tmp_path))
  stacks = open_data('stacked_mnist', 28, split='test', data_dir=str(tmp_path))
  assert stacks.image_shape == (28, 28, 3)
  assert len(stacks) == 10_000
  actual = modes.count_modes(stacks.images, data | {'name': 'stacked_mnist'})
  truth = modes.stacked_mnist_modes(np.stack(np.unravel_index(stacks.cond['label'], (10, 10, 10)), axis=1))
  assert actual['modes'] >= truth['modes'] - 5
  assert actual['modes_kl'] == pytest.approx(truth['modes_kl'], abs=0.02)
