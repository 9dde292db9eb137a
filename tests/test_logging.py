"""metrics.jsonl and its mirrors never go back."""

import json
import math
import struct
import sys
import types

import pytest
from tensorboardX.proto.event_pb2 import Event

from genjax.errors import UsageError
from genjax.logging import MetricWriter


def test_metrics_after_the_resumed_step_are_cut(tmp_path):
  log = MetricWriter(tmp_path, 0, 8, {})
  for step in (5, 10, 15):
    log.write(step, {'loss': float(step)})
  log.close()
  with open(tmp_path / 'metrics.jsonl', 'a') as file:
    file.write('[]\n{"step": "a", "kimg": 1}\n\x00\n{"step": 2')  # what others wrote; a kill in the middle of a line
  with open(tmp_path / 'metrics.jsonl', 'ab') as file:
    file.write(b'\xff\xfe\n')
  log = MetricWriter(tmp_path, 10, 8, {})
  log.write(15, {'loss': float('nan')})
  log.close()
  lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert [line['step'] for line in lines] == [5, 10, 15]
  assert lines[-1]['loss'] is None


def points(folder):
  """The scalars in TensorBoard's files: (tag, step, value), in order."""
  found = []
  for path in sorted(folder.iterdir()):
    data, at = path.read_bytes(), 0
    while at < len(data):  # length, checksum, event, checksum
      (length,) = struct.unpack('<Q', data[at : at + 8])
      event = Event.FromString(data[at + 12 : at + 12 + length])
      found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
      at += 16 + length
  return found


def test_tensorboard_has_all_points_after_a_kill(tmp_path):
  killed = MetricWriter(tmp_path, 0, 8, {})
  for step in (5, 10, 15):
    killed.write(step, {'loss': math.inf if step == 10 else float(step)})
  assert len(points(tmp_path / 'tensorboard')) < 9  # as a kill would leave it
  (tmp_path / 'tensorboard' / 'of mine').mkdir()
  log = MetricWriter(tmp_path, 10, 8, {})
  log.write(15, {'loss': 16.0})
  log.close()
  (tmp_path / 'tensorboard' / 'of mine').rmdir()  # was not touched
  found = points(tmp_path / 'tensorboard')
  losses = [(step, value) for tag, step, value in found if tag == 'loss']
  assert [step for step, _ in losses] == [40, 80, 120]
  assert [value for _, value in losses][::2] == [5.0, 16.0]
  assert math.isnan(losses[1][1])
  assert [(step, value) for tag, step, value in found if tag == 'step'] == [(40, 5), (80, 10), (120, 15)]
  killed.close()


def test_a_full_disk_names_the_file(tmp_path):
  log = MetricWriter(tmp_path, 0, 8, {})
  (tmp_path / 'metrics.jsonl').symlink_to('/dev/full')
  with pytest.raises(UsageError, match=r'metrics.jsonl cannot be written \(No space left on device\): '):
    log.write(5, {'loss': 1.0})
  log.close()


def test_wandb_goes_on_in_a_resumed_run_and_never_back(tmp_path, monkeypatch):
  sessions = []

  class Session:  # in place of the service's client
    def __init__(self, **options):
      self.options, self.steps = options, []
      sessions.append(self)

    def log(self, values, step):
      self.steps.append((step, values['kimg']))

    def finish(self):
      self.steps.append('finished')

  monkeypatch.setitem(sys.modules, 'wandb', types.SimpleNamespace(init=Session))
  for workdir, start in (('a', 0), ('a', 10), ('b', 0)):
    (tmp_path / workdir).mkdir(exist_ok=True)
    log = MetricWriter(tmp_path / workdir, start, 8, {'seed': 0}, 'project')
    for step in (start + 5, start + 10):
      log.write(step, {'loss': 1.0})
    log.close()
  first, resumed, other = sessions
  assert first.options == resumed.options
  assert first.options['resume'] == 'allow'
  assert first.options['id'] != other.options['id']
  assert first.steps + resumed.steps == [(40, 0.04), (80, 0.08), 'finished', (120, 0.12), (160, 0.16), 'finished']


def test_wandb_that_is_not_installed(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  with pytest.raises(UsageError, match='--wandb needs the package: pip install wandb'):
    MetricWriter(tmp_path, 0, 8, {}, 'project')
