"""Runs that earlier versions wrote still open, give the same images, and resume.

`tests/runs/COMMIT.tar.xz` holds what that commit's train.py and Run.sample wrote (jax 0.10.2, Python 3.11, on CPU): `run/`, a
narrow digits_flow with its checkpoint of step 10; `images.npz`, four images for seed 0 by each solver; `step_20.npz`, some of
the parameters ten steps later.
"""

import json
import shlex
import subprocess
import sys
import tarfile

import jax
import numpy as np
import pytest

from genjax.run import load
from tests.conftest import ROOT, sometimes
from tests.programs import ENV
from tests.test_resume import final_state

RUNS = sorted((ROOT / 'tests' / 'runs').glob('*.tar.xz'))
OPTIONS = {'heun': {}, 'dopri5': {'solver': 'dopri5'}}
OPTIONS |= {solver: {'solver': solver, 'steps': 10} for solver in ('ddim', 'unipc', 'predictor_corrector')}
OPTIONS['ancestral'] = {'solver': 'ancestral', 'steps': 10, 'guidance': 2.0}


assert RUNS, 'tests/runs is empty'


@pytest.fixture(scope='module', params=RUNS, ids=lambda path: path.name.partition('.')[0])
def folder(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp('earlier')
  with tarfile.open(request.param) as archive:
    archive.extractall(folder, filter='data')
  return folder


@pytest.mark.parametrize('solver', sometimes(OPTIONS, 0, 5))
def test_an_earlier_run_gives_the_same_images(folder, solver):
  run = load(folder / 'run')
  with np.load(folder / 'images.npz') as file:
    before = file[solver]
  now = np.asarray(run.sample(jax.random.key(0), len(before), **OPTIONS[solver]))
  assert before.std() > 0.3
  np.testing.assert_allclose(now, before, atol=2e-4)


def test_an_earlier_run_resumes(folder):
  words = json.loads((folder / 'run' / 'environment.json').read_text())['command']
  words = [word for word in words if not word.startswith('--workdir')]
  begun = leaves(final_state(folder / 'run', 10))
  done = subprocess.run(
    [sys.executable, *words, f'--workdir={folder / "run"}'], cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=300
  )
  assert done.returncode == 0, shlex.join(words) + done.stdout + done.stderr
  assert 'step 10' in done.stdout
  now = leaves(final_state(folder / 'run', 20))
  with np.load(folder / 'step_20.npz') as file:
    assert len(file.files) > 10
    for name in file.files:
      moved = np.abs(file[name] - begun[name]).max()
      assert moved > 0
      np.testing.assert_allclose(now[name], file[name], atol=0.01 * moved, err_msg=name)


def leaves(state):
  """Path -> array."""
  found = jax.tree_util.tree_leaves_with_path(state)
  return {jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf) for path, leaf in found}
