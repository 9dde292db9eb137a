"""Whose a run directory is, and which config it goes on with."""

import json
import os

import pytest

from genjax.errors import UsageError
from genjax.workdir import open_workdir, read_config, section_defaults, write_environment
from tests.conftest import config_of


def test_a_workdir_of_another_config_is_refused_with_the_difference(tmp_path, capsys):
  config = section_defaults() | {'objective': {'beta': 1.0}, 'optim': {'model': {'steps': 5}}}
  config['train'] |= {'steps': 5}
  longer = config | {'train': config['train'] | {'steps': 9}, 'optim': {'model': {'steps': 9}}}
  other = config | {'train': config['train'] | {'steps': 9, 'seed': 1}, 'objective': {'beta': 2.0}}
  os.close(open_workdir(tmp_path / 'run', config))
  os.close(open_workdir(tmp_path / 'run', other))  # nothing is trained yet
  held = open_workdir(tmp_path / 'run', config)
  with pytest.raises(UsageError, match=rf'run is in use by process {os.getpid()} on .*: wait for it'):
    open_workdir(tmp_path / 'run', config)
  os.close(held)
  (tmp_path / 'run' / 'checkpoints' / '5').mkdir(parents=True)
  with pytest.raises(UsageError, match=r'belongs to another config \(objective.beta: 1.0 -> 2.0; train.seed: 0 -> 1\)'):
    open_workdir(tmp_path / 'run', other)
  os.close(open_workdir(tmp_path / 'run', longer))
  assert 'optim.model.steps goes from 5 to 9 with train.steps: the schedule follows' in capsys.readouterr().out
  assert read_config(tmp_path / 'run') == longer
  (tmp_path / 'other').mkdir()
  (tmp_path / 'other' / 'thesis.tex').write_text('mine')
  with pytest.raises(UsageError, match='is not empty and not a run directory'):
    open_workdir(tmp_path / 'other', {'objective': {}})
  assert [p.name for p in (tmp_path / 'other').iterdir()] == ['thesis.tex']


def test_odd_files_in_a_run_directory(tmp_path):
  config = json.loads(json.dumps(config_of('digits_flow')))
  (tmp_path / 'config.json').write_text(json.dumps(config))
  (tmp_path / 'checkpoints' / '²').mkdir(parents=True)  # a digit, and no number
  os.close(open_workdir(tmp_path, config))
  (tmp_path / 'environment.json').write_text('{"earlier": null}')
  write_environment(tmp_path)
  assert json.loads((tmp_path / 'environment.json').read_text())['earlier'] == []


def test_an_option_that_came_later_counts_as_its_default(tmp_path):
  config = json.loads(json.dumps(config_of('digits_flow')))
  older = json.loads(json.dumps(config))
  for section, option in (('train', 'accumulate'), ('data', 'flip')):
    del older[section][option]
  for option in ('patch', 'remat'):
    del older['objective']['network'][option]
  os.close(open_workdir(tmp_path, older))
  (tmp_path / 'checkpoints' / '5').mkdir(parents=True)
  other = json.loads(json.dumps(config))
  other['objective']['network']['patch'] = 2
  with pytest.raises(UsageError, match=r'belongs to another config \(objective.network.patch: 1 -> 2\)'):
    open_workdir(tmp_path, other)
  config['objective']['network']['remat'] = True  # changes how, not what
  os.close(open_workdir(tmp_path, config))
  assert read_config(tmp_path) == config
