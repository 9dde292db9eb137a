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
from tests.programs import ENV, command, images_of_which_one_is_empty
from tests.test_resume import final_state

STEPS = ['--config.train.steps=60', '--config.train.checkpoint_every=20']


def start_two(path, *more, steps=STEPS, each=([], [])):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  words = command('digits_vae', path, *steps, f'--coordinator=127.0.0.1:{port}', '--num_processes=2', *more)
  env = ENV | {'JAX_NUM_CPU_DEVICES': '2'}
  start = lambda i: subprocess.Popen(  # noqa: E731
    [*words, *each[i], f'--process_id={i}'], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
  )
  return [start(i) for i in range(2)]


def run_one(path):
  done = subprocess.run(command('digits_vae', path, *STEPS), cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


def assert_close(a, b):
  # 60 steps of Adam, of which each divides by the root of a mean square: rounding grows, the trajectory stays.
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-4), a['params'], b['params'])


@pytest.mark.slow  # by default: tests/test_pipeline.py starts two processes, too
@pytest.mark.parametrize('strategy', ['jit', 'fsdp', 'pmap'])
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
@pytest.mark.parametrize('target', [0, 1])
def test_a_signal_to_one_stops_both_and_either_count_resumes(tmp_path, target):
  run_one(tmp_path / 'one')
  hosts = start_two(tmp_path / 'two')
  end = time.monotonic() + 120
  while not (tmp_path / 'two' / 'metrics.jsonl').exists() and time.monotonic() < end:
    time.sleep(0.002)
  hosts[target].send_signal(signal.SIGTERM)
  texts = [host.communicate(timeout=60)[0] for host in hosts]
  assert [host.returncode for host in hosts] == [143, 143], texts
  step = int(re.search(r'stopped by SIGTERM and saved at step (\d+)', texts[0])[1])
  assert step % 10 == 0
  assert f'resuming from step {step}' in run_one(tmp_path / 'two')
  assert_close(final_state(tmp_path / 'one'), final_state(tmp_path / 'two'))


@pytest.mark.slow
def test_hosts_that_do_not_fit_together_are_refused(tmp_path):
  hosts = start_two(tmp_path / 'a', each=[['--config.train.seed=0'], ['--config.train.seed=1']])
  assert all('error: the hosts have different configs' in text for text in ends(hosts))
  hosts = start_two(tmp_path / 'a', each=[[], [f'--workdir={tmp_path}/b']])
  assert all('is not the same folder on all hosts: put it on storage that they share' in text for text in ends(hosts))


@pytest.mark.slow
@pytest.mark.parametrize('strategy', ['jit', 'fsdp'])
def test_a_loss_that_is_not_finite_is_diagnosed_on_the_first_host(tmp_path, strategy):
  hosts = start_two(tmp_path / 'x', f'--config.train.strategy={strategy}', '--config.optim.model.learning_rate.peak=1e30')
  texts = ends(hosts)
  assert re.search(r'not finite at step \d+; player model: ', texts[0]), texts[0]
  assert 'the first host' in texts[1]


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


def ends(hosts):
  """What each printed, and that all ended in time and with an error."""
  start = time.monotonic()
  texts = [host.communicate(timeout=4 * HEARTBEAT)[0] for host in hosts]
  assert time.monotonic() - start < 3 * HEARTBEAT  # of which some is for starting
  assert all(host.returncode for host in hosts)
  return texts


@pytest.mark.slow
def test_a_checkpoint_that_one_host_cannot_read_ends_both_and_the_next_start_agrees(tmp_path):
  path, split = tmp_path / 'two', '--config.train.strategy=fsdp'
  wide = '--config.objective.encoder.width=64'  # arrays large enough to be split
  for host in start_two(path, split, wide, steps=['--config.train.steps=40', '--config.train.checkpoint_every=20']):
    host.communicate(timeout=300)
  second = [p for p in (path / 'checkpoints' / '40').rglob('ocdbt.process_1/d/*') if p.is_file()]
  assert second
  for file in second:
    file.write_bytes(file.read_bytes()[:20])
  texts = ends(start_two(path, split, wide))
  assert 'checkpoints/40 cannot be read' in texts[1]
  assert f'{path}/damaged' in texts[1]
  hosts = start_two(path, split, wide)
  texts = [host.communicate(timeout=300)[0] for host in hosts]
  assert [host.returncode for host in hosts] == [0, 0], texts
  assert 'resuming from step 20' in texts[0]


@pytest.mark.slow
def test_an_image_that_one_host_cannot_read_ends_both(tmp_path):
  data = images_of_which_one_is_empty(tmp_path / 'images')
  texts = ends(start_two(tmp_path / 'two', *data))
  assert sum('13.png cannot be read' in text for text in texts) == 1
