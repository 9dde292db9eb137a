"""External images: reading them, matching their labels, and evaluating them like samples of a run."""

import json

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import evaluate
from benchmarks.corruptions import DISTANCES, LEVELS, cases
from genjax.data.generated import class_table, match, open_generated
from genjax.data.sources.base import labeled
from genjax.data.sources.open import open_data
from genjax.errors import UsageError
from genjax.images import encode_image, save_image
from genjax.metrics import card_files, compare, extractors
from genjax.metrics.evaluation import compare_sets, read_samples
from genjax.metrics.evaluator import class_notes
from genjax.metrics.reference import real_images, reference
from genjax.parallel import make_mesh
from tests.conftest import RECIPE, noise, write_folder

TEST = open_data('digits', 8, split='test')
LABELS = TEST.cond['label']


def evaluate_images(path, out, *words):
  """The card that evaluate.py writes."""
  evaluate.main(['--images', str(path), '--data', 'digits', '--out', str(out), '--batch_size', '64', *words])
  return json.loads(max(out.glob('*.json'), key=lambda file: file.stat().st_mtime).read_text())


@pytest.mark.slow
def test_images_alone_are_compared_and_several_in_one_folder_have_names(tmp_path, cache):
  for name, images in (('a', TEST.images), ('b', 255 - TEST.images)):
    np.savez(tmp_path / f'{name}.npz', image=images[:200])
    evaluate_images(tmp_path / f'{name}.npz', tmp_path / 'cards')
  evaluate.main(['compare', str(tmp_path / 'cards'), '--out', str(tmp_path / 'out')])
  rows = compare.make_rows([tmp_path / 'cards'])
  assert sorted(row.name for row in rows) == ['cards (a.npz)', 'cards (b.npz)']
  assert len(list((tmp_path / 'out').glob('grid_*.png'))) == 2
  evaluate_images(tmp_path / 'a.npz', tmp_path / 'cards')
  assert len(card_files.load(tmp_path / 'cards')) == 2  # the same again replaces its card


@pytest.mark.slow
def test_a_part_of_many_images_is_taken_and_cards_of_unequal_numbers_are_not_compared(tmp_path, cache):
  np.savez(tmp_path / 'x.npz', image=np.concatenate([TEST.images, 255 - TEST.images]))
  actual = evaluate_images(tmp_path / 'x.npz', tmp_path / 'part', '--samples', '300')
  assert (actual['protocol']['samples'], actual['model']['count']) == (300, 594)
  whole = evaluate_images(tmp_path / 'x.npz', tmp_path / 'all')
  assert (whole['protocol']['samples'], whole['model']['count']) == (594, 594)
  assert actual['model']['hash'] == whole['model']['hash']
  with pytest.raises(UsageError, match='samples: 300 and 594'):
    compare.make_rows([tmp_path / 'part', tmp_path / 'all'])
  whole['protocol'] |= {'samples': 300, 'reference': whole['protocol']['reference'] | {'hash': 'f00'}}
  card_files.save_in(tmp_path / 'other', whole)
  with pytest.raises(UsageError, match=r'reference\.hash.*f00'):
    compare.make_rows([tmp_path / 'part', tmp_path / 'other'])


def test_cards_of_images_go_to_a_folder_of_their_name(tmp_path, cache, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  folder = write_folder(tmp_path / 'made' / 'ddpm', TEST.images[:100])
  evaluate.main(['--images', str(folder), '--data', 'digits'])
  (path,) = (tmp_path / 'evaluation' / 'ddpm').glob('*.json')
  assert str(path.relative_to(tmp_path)) in capsys.readouterr().out
  for words in (['--out', str(folder / 'cards')], ['--out', str(folder)]):
    with pytest.raises(UsageError, match='--out'):
      evaluate.main(['--images', str(folder), '--data', 'digits', *words])
  monkeypatch.chdir(folder)
  with pytest.raises(UsageError, match='--out'):
    evaluate.main(['--images', '.', '--data', 'digits'])


@pytest.mark.parametrize(
  ('words', 'option'),
  [
    (['--step', '3'], '--step'),
    (['--best'], '--best'),
    (['--no_ema'], '--no_ema'),
    (['--guide', 'x'], '--guide'),
    (['--seeds', '0,1'], '--seeds'),
    (['--likelihood', '5'], '--likelihood'),
    (['--metrics', 'likelihood'], '--metrics'),
    (['--steps', '25'], '--steps'),
    (['--run', 'runs/x'], '--run'),
    (['--samples', '5'], '--samples 5'),
    (['--samples', '298'], '--samples 298'),
    (['--resolution', '0'], '--resolution 0'),
    (['--resolution', '100000'], '--resolution 100000'),
    (['--images', ''], '--images is empty'),
    (['--out', '/proc/nobody/x'], '/proc/nobody/x cannot be written .*--out'),
    (['--channels', '2'], '--channels 2'),
    (['--split', 'val'], '--split val'),
    (['--data', 'digitz'], 'digitz'),
    (['--data', ''], '--data'),
  ],
)
def test_options_that_do_not_fit_images_are_refused(words, option, tmp_path):
  np.savez(tmp_path / 'x.npz', image=TEST.images)
  with pytest.raises(UsageError, match=option):
    evaluate.main(['--images', str(tmp_path / 'x.npz'), '--data', 'digits', '--out', str(tmp_path / 'out'), *words])
  assert not (tmp_path / 'out').exists()


def odd(path, kind):
  """Writes images that cannot be evaluated without options. Returns their path."""
  images, labels = TEST.images[:120], LABELS[:120]
  arrays = {
    'floats': {'image': images / np.float32(255)},
    'channels first': {'image': images.transpose(0, 3, 1, 2)},
    'no array': {'x': images},
    'wide': {'image': np.repeat(images, 2, axis=2)},
    'ten classes and one': {'image': images, 'label': labels + 1},
    'negative labels': {'image': images, 'label': labels.astype(np.int64) - 1},
    'huge labels': {'image': images, 'label': labels.astype(np.int64) + 2**40},
    'fewer labels': {'image': images, 'label': labels[:100]},
    'labels that are not whole': {'image': images, 'label': labels / 2},
    'colored': {'image': noise(120)},
    'few': {'image': images[:7]},
    'one': {'image': images[:1]},
    'none': {'image': images[:0]},
  }
  if kind in arrays:
    np.savez(path / 'x.npz', **arrays[kind])
    return path / 'x.npz'
  if kind == 'missing':
    return path / 'nothing'
  if kind == 'empty':
    (path / 'x').mkdir()
  elif kind == 'a picture':
    (path / 'x').write_bytes(encode_image(images[0]))
  elif kind == 'an unreadable file':
    (write_folder(path / 'x', images) / '0003.png').write_bytes(b'x')
  else:
    write_folder(path / 'x', images)
    save_image(path / 'x' / 'odd.png', np.zeros({'mixed sizes': (9, 9, 1), 'mixed channels': (8, 8, 3)}[kind], np.uint8))
  return path / 'x'


@pytest.mark.parametrize(
  ('kind', 'named'),
  [
    ('floats', 'image.*float32'),
    ('channels first', 'image.*1, 8, 8'),
    ('no array', "'image'.*x"),
    ('wide', '16 x 8 .*--resolution'),
    ('ten classes and one', '10.*digits'),
    ('negative labels', '-1'),
    ('huge labels', '1099511627785'),
    ('fewer labels', 'label.*100'),
    ('labels that are not whole', 'label.*float64'),
    ('colored', '--channels'),
    ('few', '7 images'),
    ('one', '1 image'),
    ('none', '0 images|no images'),
    ('missing', 'nothing'),
    ('empty', 'no images'),
    ('a picture', 'npz'),
    ('an unreadable file', '0003.png cannot be read .* repair or remove it.$'),
    ('mixed sizes', 'odd.png.*9 x 9.*--resolution'),
    ('mixed channels', 'odd.png.*--channels'),
  ],
)
def test_images_that_do_not_fit_are_named(kind, named, tmp_path):
  with pytest.raises(UsageError, match=named):
    evaluate.main(['--images', str(odd(tmp_path, kind)), '--data', 'digits', '--out', str(tmp_path / 'out')])
  assert not (tmp_path / 'out').exists()


def test_remedies_work(tmp_path):
  for kind, words, shape in (
    ('mixed sizes', {'resolution': 8}, (8, 8, 1)),
    ('mixed channels', {'channels': 3}, (8, 8, 3)),
    ('mixed channels', {'channels': 1}, (8, 8, 1)),
    ('wide', {'resolution': 8}, (8, 8, 1)),
    ('colored', {'channels': 1}, (8, 8, 1)),
  ):
    (tmp_path / f'{kind} {shape}').mkdir()
    assert open_generated(odd(tmp_path / f'{kind} {shape}', kind), **words).source.image_shape == shape


def test_metadata_does_not_hide_the_size_of_an_image(tmp_path):
  text = PngImagePlugin.PngInfo()
  text.add_text('much', 'a' * 3_000_000, zip=True)  # Pillow: "Decompressed data too large"
  Image.fromarray(TEST.images[0, ..., 0]).save(tmp_path / 'a.png', pnginfo=text)
  assert (open_generated(tmp_path).source.images == TEST.images[:1]).all()


def test_sixteen_bits_become_eight(tmp_path):
  for i in range(3):
    Image.fromarray(TEST.images[i, ..., 0].astype(np.uint16) * 257).save(tmp_path / f'{i}.png')
  assert (open_generated(tmp_path).source.images == TEST.images[:3]).all()


def test_labels_are_those_of_the_data(tmp_path):
  images, labels = TEST.images[:60], LABELS[:60]
  kept = (labels != 3) & (labels != 9)  # two classes are missing: the others keep their numbers
  by_number = write_folder(tmp_path / 'numbers', images[kept], labels[kept])
  padded = write_folder(tmp_path / 'padded', images[kept], labels[kept], [f'{i:03}' for i in range(10)])
  np.savez(tmp_path / 'x.npz', image=images[kept], label=labels[kept].astype(np.uint8))
  np.savez(tmp_path / 'y.npz', images[kept], labels[kept].astype(np.int64))  # arr_0 and arr_1
  for path in (by_number, padded, tmp_path / 'x.npz', tmp_path / 'y.npz'):
    source, notes = match(open_generated(path), TEST)
    assert (source.example, notes) == (TEST.example._replace(size=kept.sum()), [])
    actual, cond = source.read(np.arange(len(source)))
    assert sorted((x.tobytes(), y) for x, y in zip(actual, cond['label'], strict=True)) == sorted(
      (x.tobytes(), y) for x, y in zip(images[kept], labels[kept], strict=True)
    )
  source, notes = match(open_generated(write_folder(tmp_path / 'z', images, labels, 'abcdefghij')), TEST)
  assert source.num_classes == 0
  assert source.read(np.arange(2))[1] == {}
  assert 'a, b, c' in notes[0]
  with pytest.raises(UsageError, match=r'--cas.*a, b, c'):
    evaluate.main(['--images', str(tmp_path / 'z'), '--data', 'digits', '--cas'])


def test_class_names_match_for_any_punctuation():
  names = ['T-shirt/top', 'Trouser', 'Ankle boot']
  assert class_table(['Ankle_boot', 't-shirt_top'], names, 3).tolist() == [2, 0]
  assert class_table(['2', '00'], names, 3).tolist() == [2, 0]
  assert class_table(['Trouser', 'boot'], names, 3) is None
  assert class_table(['3'], names, 3) is None
  assert class_table(['1', '10', '2'], ['1', '10', '2'], 3).tolist() == [0, 1, 2]  # names come before numbers
  assert class_table(['c#', 'c'], ['c', 'c#'], 2).tolist() == [1, 0]  # names that differ only in punctuation


def test_gray_images_saved_as_rgb_are_compared_as_gray(tmp_path):
  rgb = write_folder(tmp_path / 'rgb', np.repeat(TEST.images[:20], 3, axis=-1))
  source, _ = match(open_generated(rgb), TEST)
  assert source.image_shape == (8, 8, 1)
  assert (source.read(np.arange(20))[0] == TEST.images[:20]).all()


def test_points_are_evaluated_by_their_modes(tmp_path):
  points = open_data('gaussians_25', 1).images[:300]
  np.savez(tmp_path / 'x.npz', image=points)
  source, _ = match(open_generated(tmp_path / 'x.npz'), open_data('gaussians_25', 1))
  assert source.image_shape == (1, 1, 2)


def test_classes_that_are_missing_are_noted(tmp_path, cache):
  np.savez(tmp_path / 'x.npz', image=TEST.images, label=LABELS)
  assert not any('class' in note for note in evaluate_images(tmp_path / 'x.npz', tmp_path / 'all')['notes'])
  kept = LABELS < 6
  np.savez(tmp_path / 'x.npz', image=TEST.images[kept], label=LABELS[kept])
  assert any('class 6, 7, 8, 9' in note for note in evaluate_images(tmp_path / 'x.npz', tmp_path / 'part')['notes'])


def distances(train_set, test_set, extractor, folder):
  """Corruption -> level -> FID, FID_infinity and KID of real test images, with increasing corruption."""
  mesh, results = make_mesh(), {}
  real = reference(train_set, 'train', extractor, mesh, folder)
  images, cond = test_set.read(np.random.default_rng(0).permutation(len(test_set)))
  for kind, level, x, y in cases(images, cond['label']):
    samples = read_samples(labeled('x', x, y, 10), extractor, real, mesh, len(x))
    metrics = samples.metrics | compare_sets(samples, real)
    results.setdefault(kind, {})[level] = {name: metrics[name] for name in DISTANCES}
  return results


def assert_rise(metrics, names):
  for kind in LEVELS:
    levels = [metrics['none'][0], *(metrics[kind][level] for level in sorted(metrics[kind]))]
    assert len(levels) == 4
    for name in names:
      values = [metrics[name] for metrics in levels]
      assert values == sorted(set(values)), (kind, name, values)


def test_remedies_for_real_images_are_options_of_the_evaluation(tmp_path):
  np.savez(tmp_path / 'x.npz', image=TEST.images[:120])
  real = write_folder(tmp_path / 'real', TEST.images[:120])
  words = ['--images', str(tmp_path / 'x.npz'), '--data', str(real), '--out', str(tmp_path / 'out')]
  save_image(real / '0003.png', np.zeros((8, 8, 3), np.uint8))
  with pytest.raises(UsageError, match=r'0003.png has 3 channels.*--channels'):
    evaluate.main(words)
  (real / '0003.png').write_bytes(b'')
  with pytest.raises(UsageError, match=r'0003.png cannot be read .* repair or remove it.$'):
    evaluate.main(words)


def test_distances_rise_with_corruption_of_digits(cache):
  train_set, test_set = real_images(name='digits', resolution=8)
  actual = distances(train_set, test_set, extractors.open_classifier(train_set, test_set, RECIPE), cache)
  assert_rise(actual, ('fid', 'kid'))  # FID_infinity of 178 images is not that exact


@pytest.mark.slow
def test_distances_rise_with_corruption_of_clothes(fashion_mnist, cache):
  extractor = extractors.open_extractor('classifier', '', *fashion_mnist)
  assert_rise(distances(*fashion_mnist, extractor, cache), DISTANCES)


def test_an_absent_class_is_named_however_many_there_are():
  for classes, n in ((10, 200), (100, 3000)):
    labels = np.arange(n) % classes
    assert class_notes(labels, np.ones(classes)) == []
    (note,) = class_notes(labels[labels != 3], np.ones(classes))
    assert 'class 3)' in note
  assert class_notes(np.arange(1000) % 10, np.ones(5)) != []  # classes that the reference does not have
  assert class_notes(np.arange(50) % 9, np.ones(10)) == []  # with five images of a class chance may leave one out
