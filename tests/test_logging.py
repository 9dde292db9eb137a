"""Steps in metrics.jsonl and its mirrors never decrease; progress bars."""

import io
import json
import math
import resource
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

import genjax.logging
from genjax.errors import UsageError
from genjax.images import save_image
from genjax.logging import MAX_REWRITTEN, MetricWriter, Progress, duration, reading_bar, saved_pictures, say
from tests.conftest import noise


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


def summaries(folder):
  """What is in TensorBoard's files: (step, summary), in order."""
  results = []
  for path in sorted(folder.iterdir()):
    data, at = path.read_bytes(), 0
    while at < len(data):  # length, checksum, event, checksum
      (length,) = struct.unpack('<Q', data[at : at + 8])
      event = Event.FromString(data[at + 12 : at + 12 + length])
      results += [(event.step, value) for value in event.summary.value]
      at += 16 + length
  return results


def points(folder):
  """The scalars in TensorBoard's files: (tag, step, value), in order."""
  values = [(step, value) for step, value in summaries(folder) if value.WhichOneof('value') == 'simple_value']
  return [(value.tag, step, value.simple_value) for step, value in values]


def pictures(folder):
  """The images in TensorBoard's files: (tag, step) -> pixels. Their recorded sizes are checked."""
  results = {}
  for step, value in summaries(folder):
    if value.WhichOneof('value') == 'image':
      image = Image.open(io.BytesIO(value.image.encoded_image_string), formats=('PNG',))
      assert image.size == (value.image.width, value.image.height)
      assert len(image.getbands()) == value.image.colorspace
      assert (value.tag, step) not in results
      results[value.tag, step] = np.asarray(image)
  return results


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
  actual = points(tmp_path / 'tensorboard')
  losses = [(step, value) for tag, step, value in actual if tag == 'loss']
  assert [step for step, _ in losses] == [40, 80, 120]
  assert [value for _, value in losses][::2] == [5.0, 16.0]
  assert math.isnan(losses[1][1])
  assert [(step, value) for tag, step, value in actual if tag == 'step'] == [(40, 5), (80, 10), (120, 15)]
  killed.close()


def test_a_full_disk_names_the_file(tmp_path):
  log = MetricWriter(tmp_path, 0, 8, {})
  (tmp_path / 'metrics.jsonl').symlink_to('/dev/full')
  with pytest.raises(UsageError, match=r'metrics.jsonl cannot be written \(No space left on device\): '):
    log.write(5, {'loss': 1.0})
  log.close()


def test_tensorboard_shows_pictures_also_after_a_kill(tmp_path):
  images = {
    (folder, step): noise(shape=(height, 9, channels), seed=step)[0]
    for folder, height, channels in (('samples', 7, 3), ('previews/reconstructions', 5, 1))
    for step in (5, 10, 15)
  }
  path = lambda folder, step: tmp_path / folder / f'step_{step:08d}.png'  # noqa: E731

  def write(log, steps):
    for (folder, step), image in images.items():
      if step in steps:
        save_image(path(folder, step), image)
        log.write_picture(step, path(folder, step))

  def expected(steps):
    return {(folder, step * 8): image.squeeze() for (folder, step), image in images.items() if step in steps}

  log = MetricWriter(tmp_path, 0, 8, {})
  write(log, (5, 10, 15))
  log.close()
  actual = pictures(tmp_path / 'tensorboard')
  assert actual.keys() == expected((5, 10, 15)).keys()
  assert all(np.array_equal(actual[key], image) for key, image in expected((5, 10, 15)).items())

  (tmp_path / 'samples' / 'step_x.png').write_bytes(path('samples', 5).read_bytes())  # not pictures of the run
  (tmp_path / 'samples' / 'step_00000006.png').write_text('text')
  (tmp_path / 'samples' / 'step_00000007.png').symlink_to(path('samples', 5))
  (tmp_path / 'samples' / 'step_00000008.png').mkdir()
  log = MetricWriter(tmp_path, 10, 8, {})
  assert pictures(tmp_path / 'tensorboard').keys() == expected((5, 10)).keys()  # that of step 15 is made again
  write(log, (15,))
  log.close()
  actual = pictures(tmp_path / 'tensorboard')
  assert actual.keys() == expected((5, 10, 15)).keys()
  assert all(np.array_equal(actual[key], image) for key, image in expected((5, 10, 15)).items())


def test_of_many_pictures_some_are_rewritten(tmp_path):
  (tmp_path / 'samples').mkdir()
  steps = range(10, 10 * (3 * MAX_REWRITTEN + 2), 10)
  for step in steps:
    (tmp_path / 'samples' / f'step_{step:08d}.png').touch()
  kept = [picture.step for picture in saved_pictures(tmp_path, steps[-1])]
  assert MAX_REWRITTEN / 2 < len(kept) <= MAX_REWRITTEN
  assert len(set(np.diff(kept))) == 1
  assert [picture.step for picture in saved_pictures(tmp_path, 30)] == [10, 20, 30]


def test_tensorboard_has_the_config_as_text_and_as_hyperparameters(tmp_path):
  config = {
    'data': {'name': 'x', 'hash': 'abc', 'flip': True},
    'objective': {'network': {'cls': 'networks.unet.UNet', 'attention': (4, 8), 'width': 32}},
    'train': {'average': None, 'ema_halflife': 1e4},
    'frozen': {'teacher': {'run': 'x'}},
  }
  MetricWriter(tmp_path, 0, 8, config).close()
  actual = {value.tag: value for _, value in summaries(tmp_path / 'tensorboard')}
  assert actual['config'].metadata.plugin_data.plugin_name == 'text'
  assert json.loads(actual['config'].tensor.string_val[0]) == json.loads(json.dumps(config))
  data = actual['_hparams_/session_start_info'].metadata.plugin_data
  assert data.plugin_name == 'hparams'
  options = HParamsPluginData.FromString(data.content).session_start_info.hparams
  values = {name: getattr(value, value.WhichOneof('kind')) for name, value in options.items()}
  assert values == {
    'data.name': 'x',
    'data.flip': True,
    'objective.network.cls': 'networks.unet.UNet',
    'objective.network.attention': '[4, 8]',
    'objective.network.width': 32,
    'train.average': 'null',
    'train.ema_halflife': 1e4,
  }


def test_a_picture_on_a_full_disk_names_the_folder(tmp_path):
  log = MetricWriter(tmp_path, 0, 8, {})
  path = tmp_path / 'samples' / 'step_00000005.png'
  save_image(path, noise(shape=(200, 200, 3))[0])  # more than a buffer
  limit = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
  try:
    with pytest.raises(UsageError, match=r'tensorboard cannot be written \(File too large\): free space'):
      log.write_picture(5, path)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
  log.close()


def test_durations():
  assert [duration(seconds) for seconds in (0.04, 9.4, 42, 99, 186, 5400, 18_720)] == [
    '0.0 s', '9.4 s', '42 s', '99 s', '3.1 min', '90.0 min', '5.2 h'
  ]  # fmt: skip


def test_the_bar_on_a_terminal_has_losses_and_speed_and_lines_appear_above_it(monkeypatch, capsys):
  values = {'model/loss': 0.123456, 'model/grad_norm': 2.0, 'images_per_second': 987.0, 'compile_seconds': 3.0}
  progress = Progress(4, 10, 8)
  progress.show(7, values)
  progress.show(10, values)
  progress.close()
  out, err = capsys.readouterr()
  first, last = out.splitlines()
  assert all(part in first for part in ('7/10', '987 images/s', '0.0 s left', 'model/loss 0.1235', '3.0 s'))
  assert 'left' not in last
  assert not err
  monkeypatch.setattr(genjax.logging, 'on_terminal', lambda: True)
  progress = Progress(4, 10, 8)
  progress.advance()
  progress.show(5, values)
  say('a line')
  progress.close()
  out, err = capsys.readouterr()
  assert out == 'a line\n'
  assert all(part in err for part in ('5/10', '987 images/s', 'model/loss 0.1235'))


def test_reading_is_silent_unless_on_a_terminal_and_slow(monkeypatch, capsys):
  assert list(reading_bar(range(3))) == [0, 1, 2]
  assert capsys.readouterr() == ('', '')
  monkeypatch.setattr(genjax.logging, 'on_terminal', lambda: True)
  assert list(reading_bar(range(3))) == [0, 1, 2]
  assert capsys.readouterr() == ('', '')
  with reading_bar(total=5000) as progress:
    progress.start_t -= 3  # seconds ago
    progress.update(1000)
    progress.refresh()
  assert '1000/5000' in capsys.readouterr().err


def test_the_remaining_time_is_estimated_once_before_the_first_line(monkeypatch, capsys):
  now = [0.0]
  monkeypatch.setattr(genjax.logging.time, 'perf_counter', lambda: now[0])
  progress = Progress(step=100, steps=200, batch_size=8)
  for _ in range(6):
    progress.advance()  # the first step is compiled
    now[0] += 3.0
  progress.close()
  assert capsys.readouterr().out == f'about {duration(95 * 3.0)} left\n'
  silent = Progress(step=100, steps=200, batch_size=8)
  silent.show(101, {'images_per_second': 8.0, 'model/loss': 1.0})
  capsys.readouterr()
  for _ in range(9):
    silent.advance()
    now[0] += 3.0
  assert not capsys.readouterr().out


def test_wandb_steps_continue_in_a_resumed_run(tmp_path, monkeypatch):
  sessions = []

  class Session:  # in place of the service's client
    def __init__(self, **options):
      self.options, self.steps = options, []
      sessions.append(self)

    def log(self, values, step):
      self.steps.append((step, values.get('kimg', values.get('samples'))))

    def finish(self):
      self.steps.append('finished')

  monkeypatch.setitem(sys.modules, 'wandb', types.SimpleNamespace(init=Session, Image=lambda path: Path(path).name))
  for workdir, start in (('a', 0), ('a', 10), ('b', 0)):
    (tmp_path / workdir).mkdir(exist_ok=True)
    log = MetricWriter(tmp_path / workdir, start, 8, {'seed': 0}, 'project')
    for step in (start + 5, start + 10):
      log.write(step, {'loss': 1.0})
    path = tmp_path / workdir / 'samples' / f'step_{step}.png'
    save_image(path, np.zeros((2, 2, 1), np.uint8))
    log.write_picture(step, path)
    log.close()
  first, resumed, other = sessions
  assert first.options == resumed.options
  assert first.options['resume'] == 'allow'
  assert first.options['id'] != other.options['id']
  assert first.steps + resumed.steps == [
    *((40, 0.04), (80, 0.08), (80, 'step_10.png'), 'finished'),
    *((120, 0.12), (160, 0.16), (160, 'step_20.png'), 'finished'),
  ]


def test_wandb_that_is_not_installed(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  with pytest.raises(UsageError, match='--wandb needs the package: pip install wandb'):
    MetricWriter(tmp_path, 0, 8, {}, 'project')
