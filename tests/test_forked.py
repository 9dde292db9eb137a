"""A package outside genjax adds each kind of part in one file and a config, and nothing inside genjax is edited.

The parts are in tests/forked/. Each config trains three steps, samples, and is evaluated.
"""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import evaluate
import genjax
import sample
from genjax import rng
from genjax.data.sources.base import Arrays, labeled
from genjax.data.sources.open import check_examples, open_section
from genjax.errors import UsageError, UsageWarning
from tests.conftest import ROOT, sometimes
from tests.programs import ENV

ALLOW = '--allow_package=forked'
PARTS = {  # config -> the class of the user's that config.json names
  'pairs': 'forked.pairs.Pairs',
  'solver': 'forked.solver.Damped',
  'weighting': 'forked.weighting.Constant',
  'loss': 'forked.loss.Symmetric',
  'discriminator': 'forked.discriminator.Small',
  'noise_path': 'forked.noise_path.Squared',
  'average': 'forked.average.Mean',
}


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """`runs(name)`: the run directory of a config of tests/forked/, trained once."""
  folder, env = tmp_path_factory.mktemp('forked'), ENV | {'PYTHONPATH': f'{ROOT}:{ROOT / "tests"}'}

  def run(name):
    path = folder / name
    if not path.exists():
      words = [f'--config=tests/forked/configs/{name}.py', f'--workdir={path}', ALLOW]
      done = subprocess.run([sys.executable, 'train.py', *words], cwd=ROOT, env=env, capture_output=True, text=True)
      assert done.returncode == 0, done.stdout + done.stderr
    return path

  return run


@pytest.fixture(autouse=True)
def importable(monkeypatch):
  monkeypatch.syspath_prepend(str(ROOT / 'tests'))


@pytest.mark.parametrize('name', sometimes(PARTS, 0, 1))
def test_a_part_of_the_user_s_trains_samples_and_is_evaluated(name, runs, cache, monkeypatch):
  path = runs(name)
  assert PARTS[name] in (path / 'config.json').read_text()
  run = genjax.load(path, allow_package=['forked'])
  assert run.step == 3
  cond = {} if name != 'pairs' else {'source': np.full((8, 8, 1), 0.5)}
  images = np.asarray(run.sample(jax.random.key(0), 4, **cond))
  assert images.shape == (4, 8, 8, 1)
  assert np.isfinite(images).all()
  features = ['--features', 'forked.features.projections'] if name == 'pairs' else []
  metric = 'forked.sharpness.relative_sharpness'
  evaluate.main(['--run', str(path), '--samples', '120', ALLOW, '--metric', metric, *features])
  (card,) = [json.loads(file.read_text()) for file in (path / 'evaluation').glob('*.json')]
  assert card['metrics'][metric] > 0
  assert card['custom_metrics'][metric]
  assert np.isfinite(card['metrics']['fid'])
  if name == 'pairs':
    assert card['protocol']['labels'] == 'those of the examples of the train split, in random order'
  if name == 'solver':
    assert card['model']['options']['solver'] == {'cls': 'forked.solver.Damped', 'fraction': 0.9}
    assert card['model']['evaluations'] == 4


def test_options_of_a_user_s_solver_are_written_and_another_solver_takes_its_place(runs, tmp_path):
  words = ['--run', str(runs('solver')), ALLOW, '--n', '2', '--npz', str(tmp_path / 'x.npz')]
  written = []
  for more in ([], ['--solver', 'heun']):
    sample.main([*words, *more])
    with np.load(tmp_path / 'x.npz') as file:
      written.append(json.loads(str(file['options']))['solver'])
  assert written == [{'cls': 'forked.solver.Damped', 'fraction': 0.9}, 'heun']


def test_help_names_the_conditions(runs, capsys):
  sample.main(['--run', str(runs('pairs')), ALLOW, '--help'])
  assert '--source' in capsys.readouterr().out


def test_a_user_s_data_set_has_its_own_resolution(runs):
  config = json.loads((runs('pairs') / 'config.json').read_text())['data']
  with pytest.raises(UsageError, match=r'data.resolution=16.*8'):
    open_section(['forked'], config['source'], name='', resolution=16)


def test_options_that_do_not_reach_a_user_s_data_set_are_refused(runs):
  config = json.loads((runs('pairs') / 'config.json').read_text())['data']
  with pytest.raises(UsageError, match=r'data\.channels'):
    open_section(['forked'], config['source'], name='', resolution=8, channels=3)
  with pytest.raises(UsageError, match='--data_dir'):
    evaluate.main(['--run', str(runs('pairs')), ALLOW, '--data_dir', 'elsewhere'])


def test_source_images_cannot_be_drawn(runs):
  run = genjax.load(runs('pairs'), allow_package=['forked'])
  with pytest.raises(UsageError, match='source'):
    run.sample(jax.random.key(0), 2)
  with pytest.raises(UsageError, match=r'source.*\[8, 8, 1\]'):
    run.sample(jax.random.key(0), 2, source=np.zeros((8, 8)))


def test_a_source_image_is_read_from_a_file(runs, tmp_path):
  Image.new('L', (8, 8), 255).save(tmp_path / 'white.png')
  words = ['--run', str(runs('pairs')), ALLOW, '--n', '2', '--source', str(tmp_path / 'white.png')]
  sample.main([*words, '--npz', str(tmp_path / 'x.npz')])
  with np.load(tmp_path / 'x.npz') as file:
    np.testing.assert_array_equal(file['source'], np.ones((2, 8, 8, 1), np.float32))


@pytest.mark.parametrize(
  ('change', 'named'),
  [
    (lambda images, cond: (images / 127.5 - 1, cond), 'uint8'),
    (lambda images, cond: (images[1:], cond), r'\[10, 8, 8, 1\]'),
    (lambda images, cond: (images, {}), 'source'),
    (lambda images, cond: (images, {'source': None}), 'source'),
    (lambda images, cond: (images, {'source': cond['source'].astype(str)}), 'source'),
    (lambda images, cond: (images, {'source': cond['source'][:, :4]}), 'source'),
  ],
)
def test_examples_that_differ_from_what_is_promised_are_named(change, named):
  import forked.pairs

  source = forked.pairs.Pairs(10)
  read = source.read
  source.read = lambda rows: change(*read(rows))
  with pytest.raises(UsageError, match=f'mine.Pairs.*{named}'):
    check_examples(source, 'mine.Pairs')


def test_labels_beyond_the_names_of_classes_are_named():
  images = np.zeros((4, 8, 8, 1), np.uint8)
  for labels in ([0, 1, 2, 3], [-1, 0, 1, 2]):
    with pytest.raises(UsageError, match=f'mine.X.*{min(labels)} to {max(labels)}'):
      check_examples(labeled('x', images, labels, 3), 'mine.X')
  check_examples(labeled('x', images, [0, 1, 2, 2], 3), 'mine.X')
  with pytest.raises(UsageError, match=r'mine.X.*size=0'):
    check_examples(Arrays('x', images[:0]), 'mine.X')


def test_a_solver_of_the_user_s_is_named_on_the_command_line(runs, tmp_path):
  words = ['--run', str(runs('weighting')), ALLOW, '--n', '2', '--npz', str(tmp_path / 'x.npz')]
  sample.main([*words, '--solver', 'forked.solver.Damped', '--solver.fraction', '0.5'])
  with np.load(tmp_path / 'x.npz') as file:
    assert json.loads(str(file['options']))['solver'] == {'cls': 'forked.solver.Damped', 'fraction': 0.5}
  sample.main(['--run', str(runs('solver')), *words[2:], '--solver.fraction', '0.25'])
  with np.load(tmp_path / 'x.npz') as file:
    assert json.loads(str(file['options']))['solver'] == {'cls': 'forked.solver.Damped', 'fraction': 0.25}
  for more, named in (
    (['--solver', 'forked.solver.Damped', '--solver.fractoin', '0.5'], 'fractoin'),
    (['--solver', 'heun', '--solver.fraction', '0.5'], 'solver.fraction'),
    (['--solver', 'forked.solver.Damped', '--solver.fraction', '2'], 'fraction'),
  ):
    with pytest.raises(UsageError, match=named):
      sample.main([*words, *more])


def test_a_custom_metric_that_fails_does_not_affect_the_others(runs, cache):
  import forked.sharpness

  for value, named in ((float('nan'), 'nan'), (None, 'TypeError')):
    forked.sharpness.constant = lambda samples, real, value=value: value
    forked.sharpness.constant.__module__ = 'forked.sharpness'
    with pytest.warns(UsageWarning, match=f'forked.sharpness.constant.*{named}'):
      evaluate.main(['--run', str(runs('weighting')), '--samples', '120', ALLOW, '--metric', 'forked.sharpness.constant'])
    cards = [json.loads(file.read_text()) for file in (runs('weighting') / 'evaluation').glob('*.json')]
    assert all(np.isfinite(card['metrics']['fid']) and 'forked.sharpness.constant' not in card['metrics'] for card in cards)


def test_the_card_names_an_average_of_the_user_s(runs, cache):
  evaluate.main(['--run', str(runs('average')), '--samples', '120', ALLOW])
  (card,) = [json.loads(file.read_text()) for file in (runs('average') / 'evaluation').glob('*.json')]
  assert card['model']['average']['cls'] == 'forked.average.Mean'
  assert card['model']['ema_halflife_kimg'] is None


def test_a_source_image_decides_the_sample(runs):
  run = genjax.load(runs('pairs'), allow_package=['forked'])
  sources = np.stack([np.zeros((8, 8, 1)), np.ones((8, 8, 1))])
  both = run.sample(rng.key(0), 2, source=sources)
  np.testing.assert_allclose(both[1:], run.sample(rng.key(0), 1, source=sources[1]), atol=1e-5)
  assert np.abs(both[0] - both[1]).max() > 1e-3


def test_custom_code_runs_only_if_it_is_allowed(runs):
  with pytest.raises(UsageError, match=r'--allow_package forked'):
    genjax.load(runs('solver'))
