"""Two processes over loopback train as one; when one dies the other ends with its number; either count resumes."""

import os
import re
import signal
import socket
import subprocess
import time

import jax
import numpy as np
import pytest

from genjax.parallel import HEARTBEAT
from tests.conftest import ROOT
from tests.test_resume import final_state
from tests.test_run import ENV, command

STEPS = ['--config.train.steps=60', '--config.train.checkpoint_every=20']


def start_two(path, *more):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  words = command('digits_vae', path, *STEPS, f'--coordinator=127.0.0.1:{port}', '--num_processes=2', *more)
  env = ENV | {'JAX_NUM_CPU_DEVICES': '2'}
  start = lambda i: subprocess.Popen(  # noqa: E731
    [*words, f'--process_id={i}'], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
  )
  return [start(i) for i in range(2)]


def run_one(path):
  done = subprocess.run(command('digits_vae', path, *STEPS), cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


def assert_close(a, b):
  # 60 steps of Adam, of which each divides by the root of a mean square: rounding grows, the trajectory stays.
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-4), a['params'], b['params'])


@pytest.mark.parametrize('strategy', [pytest.param('jit', marks=pytest.mark.slow), 'fsdp'])
def test_two_processes_train_as_one(tmp_path, strategy):
  run_one(tmp_path / 'one')
  hosts = start_two(tmp_path / 'two', f'--config.train.strategy={strategy}')
  texts = [host.communicate(timeout=300)[0] for host in hosts]
  assert [host.returncode for host in hosts] == [0, 0], texts
  assert 'step 60/60' in texts[0]
  assert 'step ' not in texts[1]  # the first process alone speaks
  assert_close(final_state(tmp_path / 'one'), final_state(tmp_path / 'two'))
  assert (tmp_path / 'two' / 'samples' / 'step_00000060.png').exists()


@pytest.mark.slow
def test_a_dead_process_ends_the_other_and_one_resumes(tmp_path):
  run_one(tmp_path / 'one')
  hosts = start_two(tmp_path / 'two')
  end = time.monotonic() + 120
  while not (tmp_path / 'two' / 'checkpoints' / '20').exists() and time.monotonic() < end:
    time.sleep(0.002)
  os.kill(hosts[1].pid, signal.SIGKILL)
  died = time.monotonic()
  text = hosts[0].communicate(timeout=4 * HEARTBEAT)[0]
  assert time.monotonic() - died < 2 * HEARTBEAT
  assert hosts[0].returncode != 0
  assert re.search(r'Task 1 heartbeat|stopped sending heartbeats\):\n1\n', text)  # which one died
  hosts[1].communicate()
  assert 'resuming from step' in run_one(tmp_path / 'two')
  assert_close(final_state(tmp_path / 'one'), final_state(tmp_path / 'two'))
