"""Killed at any moment and run again, train.py ends in the same bits."""

import signal
import subprocess
import time

import jax
import numpy as np
import pytest

from genjax.build import build
from genjax.checkpoint import Checkpoints
from genjax.parallel import make_mesh, replicated
from genjax.run import abstract_state, read_config
from tests.conftest import FAMILIES, ROOT
from tests.test_run import ENV, command

STEPS = ['--config.train.steps=30', '--config.train.checkpoint_every=10']


def final_state(path):
  config = read_config(path)
  like = abstract_state(build(config['objective']), tuple(config['data']['image_shape']), build(config['optim']))
  checkpoints = Checkpoints(path / 'checkpoints', read_only=True)
  assert checkpoints.steps()[-1] == 30
  state = checkpoints.restore(30, like, replicated(make_mesh(jax.devices()[:1])))
  checkpoints.close()
  return state


def kill_when(name, path, moment):
  """Starts train.py and kills it with SIGKILL when `moment()` is true; true if it was alive then."""
  process = subprocess.Popen(command(name, path, *STEPS), cwd=ROOT, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
  end = time.monotonic() + 300
  while process.poll() is None and time.monotonic() < end and not moment():
    time.sleep(0.002)
  alive = process.poll() is None
  process.send_signal(signal.SIGKILL)
  process.communicate()
  return alive


@pytest.mark.parametrize('name', FAMILIES)
def test_killed_twice_and_resumed_ends_in_the_same_bits(name, tmp_path):
  straight, killed = tmp_path / 'straight', tmp_path / 'killed'
  subprocess.run(command(name, straight, *STEPS), cwd=ROOT, env=ENV, check=True, capture_output=True, timeout=300)

  folder = killed / 'checkpoints'
  saving = lambda: any('tmp' in p.name for p in folder.glob('*'))  # noqa: E731
  saved = lambda: (folder / '10').exists()  # noqa: E731
  assert kill_when(name, killed, saving), 'the run ended before it could be killed'
  kill_when(name, killed, saved)
  again = subprocess.run(
    command(name, killed, *STEPS), cwd=ROOT, env=ENV, check=True, capture_output=True, text=True, timeout=300
  )
  assert 'resuming from step' in again.stdout

  a, b = final_state(straight), final_state(killed)
  paths = jax.tree_util.tree_leaves_with_path(a)
  assert len(paths) > 10
  for (path, x), y in zip(paths, jax.tree.leaves(b), strict=True):
    assert np.array_equal(x, y), jax.tree_util.keystr(path)
