"""Exports: opened like a run, with the same images; and the sampler alone, without genjax."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import evaluate
import export
import genjax
import sample
from genjax.errors import UsageError
from genjax.export import serialized_sampler
from genjax.run import Run, abstract_state
from genjax.weights import flatten
from tests.conftest import OBJECTIVES, config_of, example_of, image_shape, objects, one_level
from tests.programs import ENV, train

WITHOUT_GENJAX = """
import sys
sys.path[:] = [path for path in sys.path if 'site-packages' in path or 'lib' in path]
{code}
assert 'genjax' not in sys.modules
np.save('images.npy', np.asarray(images))
"""


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  made = {}

  def run(name):
    if name not in made:
      made[name] = tmp_path_factory.mktemp(name) / 'run'
      train(name, made[name], '--config.train.steps=5', '--config.train.checkpoint_every=5')
    return made[name]

  return run


@pytest.fixture(scope='module')
def exported(runs, tmp_path_factory):
  """An export of the VAE, with the sampler."""
  folder = tmp_path_factory.mktemp('export') / 'vae'
  export.main(['--run', str(runs('digits_vae')), '--out', str(folder), '--stablehlo'])
  return folder


def test_an_export_opens_like_its_run(runs, exported):
  run, copy = genjax.load(runs('digits_vae')), genjax.load(exported)
  assert copy.step == run.step
  assert copy.classes == run.classes
  assert jax.tree.structure(copy.variables) == jax.tree.structure(run.variables)
  key = jax.random.key(0)
  np.testing.assert_array_equal(copy.sample(key, 4, label=3), run.sample(key, 4, label=3))


@pytest.mark.parametrize(
  'name', ['digits_vq', *(pytest.param(name, marks=pytest.mark.slow) for name in ('digits_flow', 'digits_gan', 'digits_ve'))]
)
def test_exports_of_other_families_have_the_same_images(name, runs, tmp_path):
  run = genjax.load(runs(name))
  copy = genjax.load(run.export(tmp_path / 'copy'))
  key = jax.random.key(0)
  np.testing.assert_array_equal(copy.sample(key, 2), run.sample(key, 2))


def test_half_the_space_nearly_the_same_images(runs, exported, tmp_path):
  run = genjax.load(runs('digits_vae'))
  folder = run.export(tmp_path / 'half', half=True, stablehlo=True)
  sizes = [(path / 'weights.safetensors').stat().st_size for path in (folder, exported)]
  assert 0.45 < sizes[0] / sizes[1] < 0.6
  copy = genjax.load(folder)
  assert {x.dtype for x in jax.tree.leaves(copy.variables)} == {x.dtype for x in jax.tree.leaves(run.variables)}
  images = copy.sample(jax.random.key(0), 4, label=3)
  np.testing.assert_allclose(images, run.sample(jax.random.key(0), 4, label=3), atol=0.02)
  sampler = jax.export.deserialize((folder / 'sampler.stablehlo').read_bytes())
  key, labels = jax.random.key_data(jax.random.key(0)), np.full(4, 3, np.int32)
  made = sampler.call(load_file(folder / 'weights.safetensors'), key, np.arange(4, dtype=np.int32), {'label': labels})
  np.testing.assert_allclose(made, images, atol=1e-5)


def test_the_sampler_runs_without_genjax(exported, tmp_path):
  text = (exported / 'README.md').read_text()
  (code,) = [part.removeprefix('python\n').split('```')[0] for part in text.split('```') if 'export.deserialize' in part]
  assert len(code.strip().splitlines()) <= 10
  folder = shutil.copytree(exported, tmp_path / 'elsewhere')
  done = subprocess.run(
    [sys.executable, '-c', WITHOUT_GENJAX.format(code=code)], cwd=folder, env=ENV, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  expected = genjax.load(exported).sample(jax.random.key(0), 16, label=list(np.arange(16) % 10))
  np.testing.assert_allclose(np.load(folder / 'images.npy'), expected, atol=1e-5)


@pytest.mark.parametrize('name', OBJECTIVES)
def test_every_sampler_lowers_for_any_number_of_images_on_all_platforms(name):
  objective, example = one_level(objects(name)[0]), example_of(config_of(name))
  variables = abstract_state(objective, example).variables()
  data = {'image_shape': image_shape(config_of(name)), 'classes': list(example.classes), 'cond': None, 'size': 100}
  run = Run(Path('x'), {'data': data, 'train': {}}, objective, variables, 1)
  found = jax.export.deserialize(serialized_sampler(run, flatten(variables._asdict()), run.options))
  assert set(found.platforms) == {'cpu', 'cuda', 'tpu'}
  (images,) = found.out_avals
  assert images.shape[1:] == image_shape(config_of(name))
  assert not isinstance(images.shape[0], int)


def test_an_export_is_evaluated_and_takes_its_cards_along(runs, exported, cache, tmp_path):
  evaluate.main(['--run', str(runs('digits_vae')), '--samples', '100', '--likelihood', '0'])
  evaluate.main(['--run', str(runs('digits_vae')), '--metrics', 'likelihood', '--likelihood', '50'])
  folder = genjax.load(runs('digits_vae')).export(tmp_path / 'copy')
  (nats,) = [json.loads(path.read_text())['metrics'] for path in (folder / 'evaluation' / 'likelihood').glob('*.json')]
  assert f'| 50 of digits test | {nats["nll_nats"]:.5g} [' in (folder / 'README.md').read_text()
  (card,) = [json.loads(path.read_text()) for path in (folder / 'evaluation').glob('*.json')]
  assert f'| fid | {card["metrics"]["fid"]:.4g} |' in (folder / 'README.md').read_text()
  assert card['cost']['training_kimg'] == 0.04
  evaluate.main(['--run', str(folder), '--samples', '100', '--likelihood', '0'])
  (again,) = [json.loads(path.read_text()) for path in (folder / 'evaluation').glob('*.json')]
  assert again['metrics'] == card['metrics']
  assert again['cost']['training_kimg'] == 0.04


def test_no_path_of_the_machine_is_exported(runs, exported):
  for path in exported.iterdir():
    if path.suffix in ('.json', '.md'):
      assert str(runs('digits_vae').parent) not in path.read_text()


def test_sampling_from_an_export_writes_a_grid(exported, capsys, tmp_path):
  sample.main(['--run', str(exported), '--n', '4', '--out', str(tmp_path / 'grid.png')])
  assert (tmp_path / 'grid.png').is_file()


def test_what_does_not_fit_is_refused(runs, exported, tmp_path):
  run = genjax.load(runs('digits_vae'))
  with pytest.raises(UsageError, match='not empty'):
    run.export(exported)
  with pytest.raises(UsageError, match='stablehlo'):
    run.export(tmp_path / 'x', truncation=0.7)
  with pytest.raises(UsageError, match='truncatoin'):
    run.export(tmp_path / 'x', stablehlo=True, truncatoin=0.7)
  assert not (tmp_path / 'x').exists()
  for options in ({'step': 3}, {'ema': False}, {'best': True}):
    with pytest.raises(UsageError, match='export'):
      genjax.load(exported, **options)
  assert 'train.init_from' in train('digits_vae', exported, status=1)


@pytest.mark.parametrize('damage', ['bytes', 'value', 'shape', 'missing', 'record'])
def test_damage_is_named(damage, exported, tmp_path):
  folder = shutil.copytree(exported, tmp_path / 'copy')
  weights = folder / 'weights.safetensors'
  arrays = load_file(weights)
  name = sorted(arrays)[0]
  if damage == 'bytes':
    weights.write_bytes(weights.read_bytes()[:-9])
  elif damage == 'record':
    config = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps({key: value for key, value in config.items() if key != 'export'}))
  else:
    changed = {'value': arrays[name] + 1, 'shape': arrays[name][:1], 'missing': None}[damage]
    arrays = {key: value for key, value in arrays.items() if key != name} | ({name: changed} if changed is not None else {})
    save_file(arrays, weights)
  with pytest.raises(UsageError, match='copy'):
    genjax.load(folder)
