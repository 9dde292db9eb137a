"""Runs and config files of earlier versions, rewritten for this one."""

import importlib
import json
import runpy
import subprocess
import sys
import tarfile

import pytest

from genjax import migrate, schema
from genjax.build import resolve, spec
from genjax.errors import UsageError
from genjax.workdir import raw_config, read_config
from tests.conftest import ROOT


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
  assert len(before) == len(after) > 5
  assert before != after
  for name in after:
    resolve(name)


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
  for said in ('1 -> 2', 'already'):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
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
  made = runpy.run_path(str(path))['get_config']()
  assert made == {'é': spec('objectives.gan.penalties.R1', weight=3.0), 'loss': spec('objectives.gan.losses.Hinge')}
  path.write_text('def broken(')
  with pytest.raises(UsageError, match='not a Python file'):
    migrate.main([str(path)])


def test_an_old_name_in_a_config_file_is_told_its_new_one():
  with pytest.raises(UsageError, match=r'objectives\.gan\.losses\.Hinge'):
    resolve('objectives.adversarial.Hinge')
