"""genjax.runs: the status of run directories, and in what they differ."""

import json

import pytest

from genjax import runs
from genjax.errors import UsageError
from genjax.workdir import lock
from tests.conftest import config_of


def made(path, name='digits_vae', steps=100, checkpoint=0, fid=None, **objective):
  config = config_of(name)
  config['train']['steps'] = steps
  config['objective'] |= objective
  (path / 'evaluation').mkdir(parents=True)
  (path / 'config.json').write_text(json.dumps({'schema': 2} | config))
  if checkpoint:
    (path / 'checkpoints' / str(checkpoint)).mkdir(parents=True)
  if fid:
    (path / 'evaluation' / 'card.json').write_text(json.dumps({'metrics': {'fid': fid}}))
  return path


@pytest.fixture
def folder(tmp_path):
  made(tmp_path / 'a', checkpoint=100, fid=3.25, beta=1.0)
  made(tmp_path / 'sweep' / 'b', checkpoint=40, beta=2.0)
  made(tmp_path / 'c', 'digits_gan')
  (made(tmp_path / 'd', checkpoint=60, beta=1.0) / 'nan' / 'step_00000061').mkdir(parents=True)
  (tmp_path / 'a' / 'evaluation' / 'notes.json').write_text('{')
  (tmp_path / 'notes').mkdir()
  return tmp_path


def test_each_run_is_listed_with_its_status_step_and_lowest_fid(folder, capsys):
  runs.main([str(folder), '--json'])
  actual = {row['path'].rpartition('/')[2]: row for row in json.loads(capsys.readouterr().out)}
  assert {name: (row['status'], row['step'], row['fid']) for name, row in actual.items()} == {
    'a': ('done', 100, 3.25), 'b': ('stopped', 40, None), 'c': ('new', 0, None), 'd': ('not finite', 60, None)
  }  # fmt: skip
  assert actual['b']['differs'] == {'objective.beta': 2.0}
  assert actual['c']['differs'] == {}  # no other GAN


def test_a_run_that_a_process_trains_is_known_by_its_lock(folder, capsys):
  descriptor = lock(folder / 'sweep' / 'b')
  runs.main([str(folder)])
  (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f'| {folder}/sweep/b |')]
  assert '| training | 40 of 100 |  | objective.beta=2.0 |' in line
  assert descriptor


def test_what_cannot_be_read_is_named(folder, capsys):
  (folder / 'c' / 'config.json').write_text('{')
  runs.main([str(folder)])
  assert str(folder / 'c') in capsys.readouterr().err
  for wrong in (folder / 'notes', folder / 'nowhere'):
    with pytest.raises(UsageError, match=wrong.name):
      runs.main([str(wrong)])
