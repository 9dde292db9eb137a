"""Runs and config files of earlier versions, rewritten for this one.

`tests/runs/schema_1.json.xz` holds the resolved configs of commit 04d60f7, the last of schema 1: name -> config.
"""

import copy
import importlib
import json
import lzma
import runpy
import subprocess
import sys
import tarfile

import pytest

from genjax import migrate, schema
from genjax.build import build, resolve, spec
from genjax.conditioners import ClassLabel, Unconditional, num_classes
from genjax.errors import UsageError
from genjax.objectives.vae.beta_tc import BetaTCVAE
from genjax.objectives.vae.capacity import CapacityVAE
from genjax.objectives.vae.iwae import IWAE
from genjax.run import sampling_options
from genjax.workdir import raw_config, read_config
from tests.conftest import ROOT

SCHEMA_1 = json.loads(lzma.decompress((ROOT / 'tests' / 'runs' / 'schema_1.json.xz').read_bytes()))


def earlier_run(tmp_path):
  with tarfile.open(ROOT / 'tests' / 'runs' / '98d0618.tar.xz') as archive:
    archive.extractall(tmp_path, filter='data')
  return tmp_path / 'run'


def classes(tree):
  """All names of classes in a tree of specs."""
  if isinstance(tree, list | tuple):
    return {name for item in tree for name in classes(item)}
  if not isinstance(tree, dict):
    return set()
  own = {tree['cls']} if 'cls' in tree else set()
  return own | {name for item in tree.values() for name in classes(item)}


def test_every_class_of_an_earlier_run_exists(tmp_path):
  run = earlier_run(tmp_path)
  before, after = classes(raw_config(run)), classes(read_config(run))
  assert len(before) == len(after - {'conditioners.ClassLabel'}) > 5  # `num_classes` before
  assert before != after
  for name in after:
    resolve(name)


@pytest.mark.parametrize('name', sorted(SCHEMA_1))
def test_every_config_of_schema_1_builds(name):
  before = SCHEMA_1[name]
  kept = copy.deepcopy(before)
  after = schema.migrate(before)
  assert before == kept
  assert after['schema'] == schema.SCHEMA
  assert {'data': after['data'], 'train': after['train']} == {'data': before['data'], 'train': before['train']}
  objective, optimizers = build(after['objective']), build(after['optim'])
  assert set(optimizers) == set(objective.players)
  old = before['objective']
  assert num_classes(objective.conditioner) == old['num_classes']
  assert getattr(objective, 'cond_dropout', None) == old.get('label_dropout')
  assert None not in sampling_options(objective).values()
  assert schema.migrate(after) is after


def earlier(name, **fields):
  """The objective of a config of schema 1 with other fields, as migrated."""
  config = SCHEMA_1[name] | {'objective': SCHEMA_1[name]['objective'] | fields}
  return schema.migrate(config)['objective']


@pytest.mark.parametrize(
  ('classes', 'spec', 'conditioner'),
  [
    (10, {'cls': 'conditioners.ClassLabel', 'classes': 10}, ClassLabel(10)),
    (1, {'cls': 'conditioners.ClassLabel', 'classes': 1}, ClassLabel(1)),
    (0, {'cls': 'conditioners.Unconditional'}, Unconditional()),
  ],
)
@pytest.mark.parametrize('name', ['digits_vae', 'digits_gan', 'digits_flow', 'digits_vq'])
def test_the_number_of_classes_becomes_a_conditioner(name, classes, spec, conditioner):
  now = earlier(name, num_classes=classes)
  assert 'num_classes' not in now
  assert now['conditioner'] == spec
  assert build(now).conditioner == conditioner


@pytest.mark.parametrize('rate', [0.0, 0.25])
@pytest.mark.parametrize('name', ['digits_flow', 'digits_consistency', 'digits_meanflow', 'digits_vdm'])
def test_the_rate_of_hidden_labels_becomes_that_of_conditions(name, rate):
  now = earlier(name, label_dropout=rate)
  assert 'label_dropout' not in now
  assert build(now).cond_dropout == rate


@pytest.mark.parametrize('name', ['digits_vq', 'digits_fsq', 'digits_vqgan'])
def test_a_quantiser_becomes_a_quantizer(name):
  before, now = SCHEMA_1[name]['objective'], earlier(name)
  assert 'quantiser' not in now
  assert now['quantizer']['cls'].startswith('objectives.codes.quantizers.')
  fields = {key: value for key, value in before['quantiser'].items() if key != 'cls'}
  assert {key: value for key, value in now['quantizer'].items() if key != 'cls'} == fields
  assert build(now).quantizer == build(now['quantizer'])


def test_removed_fields_are_dropped():
  """Of which schema 1 allowed no value but the default, or whose value follows from the data."""
  beta_tc = earlier('fashion_mnist_beta_tc', images=60_000, free_bits=0.0, beta=4.0, warmup=100)
  assert not {'images', 'free_bits'} & beta_tc.keys()
  built = build(beta_tc)
  assert isinstance(built, BetaTCVAE)
  assert (built.beta, built.warmup) == (4.0, 100)
  iwae = earlier('digits_iwae', beta=1.0, warmup=0, free_bits=0.0, k=7)
  assert not {'beta', 'warmup', 'free_bits'} & iwae.keys()
  built = build(iwae)
  assert isinstance(built, IWAE)
  assert built.k == 7
  capacity = earlier('digits_capacity', beta=1.0, free_bits=0.0, warmup=200)
  assert not {'beta', 'free_bits'} & capacity.keys()
  built = build(capacity)
  assert isinstance(built, CapacityVAE)
  assert built.warmup == 200
  vae = earlier('digits_vae', beta=2.0, warmup=3, free_bits=0.5)  # which has them all
  assert [build(vae).beta, build(vae).warmup, build(vae).free_bits] == [2.0, 3, 0.5]


@pytest.mark.parametrize('name', sorted(schema.MODULES))
def test_modules_have_moved(name):
  importlib.import_module(f'genjax.{schema.MODULES[name]}')
  assert not (ROOT / 'genjax' / f'{name.replace(".", "/")}.py').exists()


def test_a_config_of_this_schema_stays_as_it_is():
  config = {'schema': schema.SCHEMA, 'objective': {'cls': 'objectives.vae.VAE'}}
  assert schema.migrate(config) is config


@pytest.mark.parametrize('number', [0, 3, True, '1', None, 1.0])
def test_another_schema_is_refused(tmp_path, number):
  run = earlier_run(tmp_path)
  (run / 'config.json').write_text(json.dumps(raw_config(run) | {'schema': number}))
  with pytest.raises(UsageError, match='schema'):
    read_config(run)


def test_the_command_rewrites_a_run(tmp_path):
  run = earlier_run(tmp_path)
  expected = read_config(run)
  command = [sys.executable, '-m', 'genjax.migrate', str(run)]
  for message in ('1 -> 2', 'already'):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert message in done.stdout
    assert raw_config(run) == expected
  done = subprocess.run([*command[:-1], str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 1
  assert done.stderr.startswith('error: ')
  assert 'config.json' in done.stderr


def test_the_command_rewrites_a_config_file(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(
    '# Größe\nfrom genjax.build import spec\n\n\ndef get_config():\n'
    "  return {'é': spec('objectives.penalties.R1', weight=3.0), 'loss': spec('objectives.adversarial.Hinge')}\n"
  )
  migrate.main([str(path)])
  assert path.read_text().startswith('# Größe')
  built = runpy.run_path(str(path))['get_config']()
  assert built == {'é': spec('objectives.gan.penalties.R1', weight=3.0), 'loss': spec('objectives.gan.losses.Hinge')}
  path.write_text('def broken(')
  with pytest.raises(UsageError, match='not a Python file'):
    migrate.main([str(path)])


def test_the_command_says_what_it_cannot_rewrite(tmp_path, capsys):
  path = tmp_path / 'mine.py'
  path.write_text(
    'from genjax.build import spec\n\n\ndef get_config():\n'
    "  vq = spec('objectives.vqvae.VQVAE', num_classes=10, quantiser=spec('objectives.quantisers.FSQ'))\n"
    "  vq.quantiser = spec('objectives.quantisers.Codebook')\n"
    "  return vq, spec('objectives.diffusion.Diffusion', label_dropout=0.2), spec('objectives.beta_tc.BetaTCVAE', images=9)\n"
  )
  migrate.main([str(path)])
  text = path.read_text()
  assert "spec('objectives.codes.vqvae.VQVAE', num_classes=10, quantizer=spec('objectives.codes.quantizers.FSQ'))" in text
  assert "vq.quantiser = spec('objectives.codes.quantizers.Codebook')" in text
  notes = capsys.readouterr().out.splitlines()
  for line, words in (
    (5, ('num_classes', 'conditioners.ClassLabel')),
    (6, ('quantiser',)),
    (7, ('label_dropout', 'cond_dropout')),
    (7, ('BetaTCVAE', "'images'")),
  ):
    assert any(f'line {line}: ' in note and all(word in note for word in words) for note in notes), (line, words, notes)
  assert len(notes) == 5


def test_options_of_a_child_config_are_named_however_they_are_set(tmp_path, capsys):
  path = tmp_path / 'mine.py'
  path.write_text(
    'from configs import digits_flow\nimport genjax.objectives.predictions\n\n\ndef get_config():\n'
    '  config = digits_flow.get_config()\n'
    '  config.objective.num_classes = 0\n'
    "  config.objective['label_dropout'] = 0.2\n"
    "  config.objective.update({'prediction': None})\n"
    "  config.objective.sampler.solver = 'langevin'\n"
    '  return config\n'
  )
  migrate.main([str(path)])
  text = capsys.readouterr().out
  for line, word in (
    (2, 'parameterizations'),
    (7, 'num_classes'),
    (8, 'cond_dropout'),
    (9, 'prediction'),
    (10, 'predictor_corrector'),
  ):
    assert any(f'line {line}: ' in note and word in note for note in text.splitlines()), (line, word, text)


def test_classes_that_genjax_does_not_have_are_named(tmp_path, capsys):
  run = earlier_run(tmp_path)
  config = json.loads((run / 'config.json').read_text())
  config['objective']['network']['cls'] = 'networks.nothing.Here'
  (run / 'config.json').write_text(json.dumps(config))
  migrate.main([str(run / 'config.json')])
  assert 'networks.nothing.Here' in capsys.readouterr().out


def test_an_old_name_in_a_config_file_names_the_new_one():
  with pytest.raises(UsageError, match=r'objectives\.gan\.losses\.Hinge'):
    resolve('objectives.adversarial.Hinge')
