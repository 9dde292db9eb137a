"""The overview and summary that train.py prints agree with the run."""

import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios

import pytest

import genjax
from genjax.config import TrainConfig
from genjax.experiment import build_experiment
from genjax.logging import MetricWriter, read_metrics
from genjax.overview import format_spec, overview, summary
from genjax.parallel import make_mesh
from genjax.run import abstract_state
from tests.conftest import CONFIGS, ROOT, UNCONDITIONAL, config_of, noise, write_folder
from tests.programs import ENV, command, train


def overview_of(config, tmp_path, first=0):
  """The rows of a config's overview: heading -> lines."""
  experiment = build_experiment(config, [], tmp_path / 'run')
  like = abstract_state(experiment.objective, experiment.source.example, experiment.optimizers, experiment.average)
  rows, heading = {}, ''
  for line in overview(experiment, like, make_mesh(), first).splitlines():
    heading = line[:14].strip() or heading
    rows.setdefault(heading, []).append(line[14:])
  return rows


def test_an_overview_has_model_data_length_and_optimizers(tmp_path):
  rows = overview_of(config_of('digits_vqgan'), tmp_path)
  assert all(name in rows['networks'][0] for name in ('GridEncoder', 'GridDecoder', 'PixelTransformer', 'PatchDiscriminator'))
  assert all(name in rows['objective'][0] for name in ('VQGAN', 'Codebook', 'Hinge', 'Bernoulli', 'label'))
  assert all(part in rows['data'][0] for part in ('digits', '1,500', '8 x 8 x 1', '10 classes', 'in memory'))
  assert all(part in rows['training'][0] for part in ('2,000', '64', '128 kimg'))
  one, two = rows['optimizer']  # players with the same one share a line
  assert one == 'discriminator: adam(learning_rate=0.0002, b1=0.5)'
  assert two == 'model, prior: adam(learning_rate=cosine(peak=0.002, steps=2000, warmup=100))'


def test_an_overview_of_streamed_images_without_labels_from_a_later_step(tmp_path):
  config = config_of('digits_flow')
  path = write_folder(tmp_path / 'photos', noise(shape=(8, 8, 3)))
  config['data'] |= {'name': str(path), 'memory_gib': 0.0}
  config['objective'] |= {'conditioner': UNCONDITIONAL}
  config['train'] |= {'accumulate': 2, 'evaluate_every': 30}
  rows = overview_of(config, tmp_path, first=50)
  assert 'conditioned' not in rows['objective'][0]
  assert 'classes' not in rows['data'][0]
  assert all(part in rows['data'][0] for part in (str(path), '20 images', '8 x 8 x 3', 'disk'))
  assert all(part in rows['training'][0] for part in ('2 parts', 'step 50'))
  assert '30 kimg' in rows['writes'][0]
  assert rows['optimizer'][0].startswith('adam(')


@pytest.mark.parametrize('name', CONFIGS)
def test_optimizers_are_described_by_what_differs_from_the_defaults(name):
  for spec in config_of(name)['optim'].values():
    text = format_spec(spec)
    assert text.startswith(f'{spec["cls"].rpartition(".")[2]}(')
    assert 'learning_rate=' in text
    assert 'eps=1e-08' not in text


def test_a_summary_has_the_last_losses_the_lowest_fid_and_commands_that_can_be_pasted(tmp_path):
  run = tmp_path / 'a run'
  run.mkdir()
  log = MetricWriter(run, 0, 64, {})
  log.write(10, {'model/loss': 3.0, 'images_per_second': 1.0})
  log.write(10, {'evaluation/fid': 2.5})
  log.write(20, {'model/loss': 1.25, 'images_per_second': 1.0})
  log.write(20, {'evaluation/fid': 4.5})
  log.close()
  text = summary(TrainConfig(steps=20, batch_size=64), run, run / 'samples' / 'x.png', 5, 61.0, ['mine'])
  assert all(
    part in text for part in ('20 steps', '1.28 kimg', 'last 15', '61 s', 'model/loss 1.25', '2.5 at step 10', 'x.png')
  )
  commands = [shlex.split(line) for line in re.findall(r'python .*', text)]
  assert [words[1] for words in commands] == ['sample.py', 'evaluate.py', 'export.py']
  for words in commands:
    assert words[words.index('--run') + 1] == str(run)
    assert words[words.index('--allow_package') + 1] == 'mine'


def test_training_prints_an_overview_and_its_commands_work(tmp_path):
  run = tmp_path / 'run'
  lines = train('digits_vae', run, '--config.train.steps=10', '--config.train.sample_every=5').splitlines()
  at = lambda start: next(i for i, line in enumerate(lines) if line.startswith(start))  # noqa: E731
  starts = (f'{run}: a new run', '  parameters', 'compiling', 'step 5/10', 'step 10/10', f'{run}: done')
  assert sorted(map(at, starts)) == list(map(at, starts))
  written = {line.partition(': ')[2] for line in lines if line.endswith('.png') and line.startswith('step ')}
  assert written == {str(path) for path in run.rglob('*.png')}
  assert len(written) == 8
  assert f'model/loss {read_metrics(run)[-1]["model/loss"]:.4g}' in lines[at('  losses')]
  assert lines[at('  samples')].endswith(f'{run}/samples/step_00000010.png')
  assert genjax.load(run).step == 10
  commands = [shlex.split(line.partition('python ')[2]) for line in lines if 'python ' in line]
  for words in commands:
    if words[0] in ('sample.py', 'export.py'):
      words = [word.replace('exports/', f'{tmp_path}/exports/') for word in words]
      done = subprocess.run([sys.executable, *words], cwd=ROOT, env=ENV, capture_output=True, text=True)
      assert done.returncode == 0, done.stderr
  assert genjax.load(tmp_path / 'exports' / 'run').step == 10


@pytest.mark.slow
def test_training_on_a_terminal_shows_a_bar_and_keeps_its_lines(tmp_path):
  run, (main, side) = tmp_path / 'run', pty.openpty()
  fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack('HHHH', 40, 130, 0, 0))  # rows, columns
  words = command('digits_gan', run, '--config.train.steps=20', '--config.train.sample_every=10')
  with subprocess.Popen(words, cwd=ROOT, env=ENV | {'TERM': 'xterm'}, stdout=side, stderr=side):
    os.close(side)
    text = b''
    while True:
      try:
        part = os.read(main, 65536)
      except OSError:  # closed
        break
      text += part
  os.close(main)
  lines = [line.rpartition('\r')[2] for line in text.decode().replace('\r\n', '\n').splitlines()]
  for step in (10, 20):
    assert f'step {step}: {run}/samples/step_{step:08d}.png' in lines
  assert re.search(r'20/20 .*images/s discriminator/loss \S+ generator/loss', text.decode())
  assert any(line.startswith(f'{run}: done') for line in lines)
