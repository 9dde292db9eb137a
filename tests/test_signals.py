"""Ctrl-C is handled at once, also while the main thread waits for a compiled program."""

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT
from tests.programs import ENV, command

# A compiled program that takes hours, like 100,000 steps of a sampler.
ENDLESS = """
import jax
from genjax.signals import EVALUATION, OnInterrupt, StopRequest, exit_on_interrupt
{prepare}
print('ready', flush=True)
jax.jit(lambda x: jax.lax.while_loop(lambda x: x >= 0, lambda x: (x + 1) % 1000, x))(0.0).block_until_ready()
"""


def start(words, env=ENV):
  return subprocess.Popen(words, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(process, what, seconds=120):
  end = time.monotonic() + seconds
  while not what():
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < end, 'timed out'
    time.sleep(0.01)


def in_a_program(prepare):
  """A process whose main thread waits for a compiled program."""
  process = start([sys.executable, '-c', ENDLESS.format(prepare=prepare)])
  assert process.stdout.readline() == 'ready\n', process.communicate()
  time.sleep(1)
  return process


def test_ctrl_c_ends_a_script_in_the_middle_of_a_compiled_program():
  process = in_a_program("exit_on_interrupt(OnInterrupt('stopped.'))")
  process.send_signal(signal.SIGINT)
  assert process.communicate(timeout=10) == ('', 'SIGINT: stopped.\n')
  assert process.returncode == 130


@pytest.mark.parametrize('number', [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_training_acknowledges_a_signal_once_and_a_second_ends_it(number):
  process = in_a_program('StopRequest().started = True')
  process.send_signal(number)
  assert f'{number.name}: stopping after this step' in process.stderr.readline()
  assert process.poll() is None
  process.send_signal(number)
  _, error = process.communicate(timeout=10)
  assert process.returncode == 128 + number
  assert len(error.splitlines()) == 1


def test_a_signal_is_acknowledged_with_what_is_finished_first():
  process = in_a_program('request = StopRequest(); request.started, request.after = True, EVALUATION')
  process.send_signal(signal.SIGINT)
  assert process.stderr.readline() == 'SIGINT: stopping after this evaluation; a second signal stops at once.\n'
  process.send_signal(signal.SIGINT)
  process.communicate(timeout=10)


SLOW_FEATURES = """
import os, time
import jax
import jax.numpy as jnp

def wait():
  with open(os.environ['CALLS'], 'a') as file:
    file.write('.')
  if os.path.getsize(os.environ['CALLS']) > 6:  # batches of 256 of the 1,500 training images
    time.sleep(3)

def pixels(images):
  jax.debug.callback(wait)
  return images.reshape(len(images), -1) / 255.0
"""


@pytest.mark.slow
def test_a_signal_during_an_evaluation_in_training(tmp_path):
  (tmp_path / 'slow.py').write_text(SLOW_FEATURES)
  calls = tmp_path / 'calls'
  env = {'CALLS': str(calls), 'PYTHONPATH': str(tmp_path), 'GENJAX_CACHE': str(tmp_path / 'cache')}
  more = ['--config.train.steps=1000000', '--config.train.evaluate_every=1', '--config.train.evaluate_samples=300']
  more += ['--config.train.evaluate_features=slow.pixels', '--allow_package=slow']
  process = start(command('digits_vae', tmp_path / 'run', *more), env=ENV | env)
  wait_for(process, lambda: calls.exists() and calls.stat().st_size > 6)
  process.send_signal(signal.SIGINT)
  out, error = process.communicate(timeout=120)
  assert process.returncode == 130
  assert 'SIGINT: stopping after this evaluation' in error
  assert 'step 125: FID ' in out
  assert 'stopped by SIGINT and saved at step 126' in out


@pytest.mark.slow
def test_a_signal_while_training_is_acknowledged_and_saves(tmp_path):
  metrics = tmp_path / 'run' / 'metrics.jsonl'
  process = start(command('digits_vae', tmp_path / 'run', '--config.train.steps=1000000'))
  wait_for(process, lambda: metrics.exists() and metrics.stat().st_size)
  process.send_signal(signal.SIGINT)
  out, error = process.communicate(timeout=60)
  assert process.returncode == 130
  assert [line for line in error.splitlines() if 'SIGINT' in line] == error.splitlines()
  assert (out + error).count('stopping after this step') == 1
  step = json.loads(metrics.read_text().splitlines()[-1])['step']
  assert f'stopped by SIGINT and saved at step {step}' in out
  assert (tmp_path / 'run' / 'checkpoints' / str(step)).is_dir()


def test_before_the_first_step_a_signal_ends_the_process(tmp_path):
  process = start(command('digits_vae', tmp_path / 'run', '--config.train.steps=1000000'))
  wait_for(process, (tmp_path / 'run' / 'lock').exists)
  process.send_signal(signal.SIGINT)
  sent = time.monotonic()
  _, error = process.communicate(timeout=60)
  assert time.monotonic() - sent < 2  # compiling takes as long, and saving follows
  assert (process.returncode, error) == (130, 'SIGINT: stopped before the first step.\n')
  assert not list((tmp_path / 'run').glob('checkpoints/*'))


def test_ctrl_c_while_modules_are_imported():
  for script in ('train.py', 'sample.py', 'evaluate.py'):
    process = start([sys.executable, script])
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=10)
    assert process.returncode in (-signal.SIGINT, 130)  # shells say 130 of both
    assert 'Traceback' not in error
