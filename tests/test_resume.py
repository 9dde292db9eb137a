"""Killed at any moment and run again, train.py ends in the same bits."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from genjax.build import build
from genjax.checkpoint import Checkpoints
from genjax.parallel import make_mesh, replicated
from genjax.run import abstract_state, recorded_example
from genjax.workdir import read_config, run_id_of
from tests.conftest import OBJECTIVES, ROOT
from tests.programs import ENV, command, data_of, train

REST = [name for name in [*OBJECTIVES, 'digits_r3gan', 'digits_stylegan2'] if name != 'digits_vae']
STEPS = ['--config.train.steps=60', '--config.train.checkpoint_every=20']


def final_state(path, step=60):
  config = read_config(path)
  objective = build(config['objective'])
  like = abstract_state(objective, recorded_example(config['data'], objective), build(config['optim']))
  checkpoints = Checkpoints(path / 'checkpoints', read_only=True, run_id=run_id_of(config))
  assert checkpoints.steps()[-1] == step
  state = checkpoints.restore(step, like, replicated(make_mesh(jax.devices()[:1])))
  checkpoints.close()
  return state


def interrupt(name, path, moment, number=signal.SIGKILL, more=()):
  """Starts train.py, sends it a signal when `moment()` is true, and returns its status."""
  words = command(name, path, *STEPS, *more)
  process = subprocess.Popen(words, cwd=ROOT, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
  end = time.monotonic() + 300
  while process.poll() is None and time.monotonic() < end and not moment():
    time.sleep(0.002)
  assert process.poll() is None, 'the run ended before it could be interrupted'
  process.send_signal(number)
  process.communicate(timeout=120)
  return process.returncode


def run_to_the_end(name, path, more=()):
  return train(name, path, *STEPS, *more)


def assert_same_bits(a, b):
  paths = jax.tree_util.tree_leaves_with_path(a)
  assert len(paths) > 10
  for (path, x), y in zip(paths, jax.tree.leaves(b), strict=True):
    assert np.array_equal(x, y), jax.tree_util.keystr(path)


@pytest.mark.parametrize('name', ['digits_vae', *(pytest.param(n, marks=pytest.mark.slow) for n in REST)])
def test_killed_twice_and_resumed_ends_in_the_same_bits(name, tmp_path):
  straight, killed, data = tmp_path / 'straight', tmp_path / 'killed', data_of(name, tmp_path)
  run_to_the_end(name, straight, data)
  folder = killed / 'checkpoints'
  saving = lambda: any('tmp' in p.name for p in folder.glob('*'))  # noqa: E731
  saved = lambda: (folder / '20').exists()  # noqa: E731
  assert interrupt(name, killed, saving, more=data) == -signal.SIGKILL
  assert interrupt(name, killed, saved, more=data) == -signal.SIGKILL
  assert 'resuming from step' in run_to_the_end(name, killed, data)
  assert_same_bits(final_state(straight), final_state(killed))


@pytest.mark.slow
@pytest.mark.parametrize(('number', 'status'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_by_a_signal_saves_the_step_and_resumes_in_the_same_bits(number, status, tmp_path):
  straight, stopped = tmp_path / 'straight', tmp_path / 'stopped'
  run_to_the_end('digits_vae', straight)
  started = lambda: (stopped / 'metrics.jsonl').exists()  # noqa: E731
  assert interrupt('digits_vae', stopped, started, number) == status
  checkpoints = Checkpoints(stopped / 'checkpoints', read_only=True)
  (step,) = checkpoints.steps()[-1:]
  checkpoints.close()
  assert f'resuming from step {step}' in run_to_the_end('digits_vae', stopped)
  assert_same_bits(final_state(straight), final_state(stopped))


@pytest.mark.slow
def test_twenty_kills_at_random_moments_end_in_the_same_bits(tmp_path):
  steps = ['--config.train.steps=12000', '--config.train.checkpoint_every=100', '--config.train.log_every=100']
  words = lambda path: command('digits_gan', path, *steps)  # noqa: E731
  subprocess.run(words(tmp_path / 'straight'), cwd=ROOT, env=ENV, check=True, capture_output=True, timeout=300)
  random, killed, during_a_save = np.random.default_rng(0), tmp_path / 'killed', 0
  for i in range(20):
    process = subprocess.Popen(words(killed), cwd=ROOT, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started = time.time()
    before = {p.name for p in killed.glob('checkpoints/*')}
    end = time.monotonic() + 120
    if i % 2:  # at any moment: importing, compiling, training
      time.sleep(random.uniform(0, 6))
    else:  # around a save
      while process.poll() is None and time.monotonic() < end and {p.name for p in killed.glob('checkpoints/*')} == before:
        time.sleep(0.001)
      time.sleep(random.uniform(0, 0.2))
    with contextlib.suppress(FileNotFoundError):  # one that was just finished
      during_a_save += any('tmp' in p.name and p.stat().st_ctime > started for p in killed.glob('checkpoints/*'))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, 'the run ended before it could be killed'
  done = subprocess.run(words(killed), cwd=ROOT, env=ENV, check=True, capture_output=True, text=True, timeout=300)
  assert 'resuming from step' in done.stdout
  print(f'{during_a_save} of 20 kills met a save')
  assert_same_bits(final_state(tmp_path / 'straight', 12000), final_state(killed, 12000))


def test_resume_takes_the_config_of_the_run_and_its_schedule_follows_more_steps(tmp_path):
  words = ['--config.train.steps=2', '--config.train.checkpoint_every=2']
  train('digits_vae', tmp_path / 'a', *words)
  assert json.loads((tmp_path / 'a' / 'config.json').read_text())['optim']['model']['learning_rate']['steps'] == 2
  shutil.copytree(tmp_path / 'a', tmp_path / 'b')

  def resume(*words):
    command = [sys.executable, 'train.py', '--resume', str(tmp_path / 'a'), *words]
    return subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True)

  assert 'nothing to do' in resume().stdout
  for _ in range(2):  # the second time there is a command with --resume in environment.json, too
    done = resume('--config.train.steps=4')
    assert done.returncode == 0, done.stdout + done.stderr
  train('digits_vae', tmp_path / 'b', *words, '--config.train.steps=4')  # the same command again
  configs = [json.loads((tmp_path / name / 'config.json').read_text()) for name in 'ab']
  assert configs[0] == configs[1]
  assert configs[0]['optim']['model']['learning_rate']['steps'] == 4
  jax.tree.map(np.testing.assert_array_equal, *(final_state(tmp_path / name, 4) for name in 'ab'))
  (tmp_path / 'a' / 'environment.json').unlink()
  done = resume('--config.train.steps=6')
  assert done.returncode == 1
  assert 'environment.json' in done.stderr
