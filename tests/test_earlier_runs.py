"""Runs that earlier versions wrote still open, give the same images, and resume.

`tests/runs/COMMIT.tar.xz` holds what that commit's train.py and Run.sample wrote (jax 0.10.2, Python 3.11, on CPU): `run/`, a
narrow digits_flow (98d0618) or digits_gan (04d60f7) with its checkpoint of step 10; `images.npz`, four images for seed 0 with
several options; `step_20.npz`, some of the parameters ten steps later.
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

# Commit -> name in images.npz -> the options that were used, by their names of today.
IMAGES = {
  '98d0618': {
    'heun': {},
    'dormand_prince': {'solver': 'dopri5'},
    'ddim': {'solver': 'ddim', 'steps': 10},
    'unipc': {'solver': 'unipc', 'steps': 10},
    'langevin': {'solver': 'predictor_corrector', 'steps': 10},
    'ancestral': {'solver': 'ancestral', 'steps': 10, 'guidance': 2.0},
  },
  '04d60f7': {'default': {}, 'truncated': {'truncation': 0.7}, 'labeled': {'label': [3, 1, 4, 1]}},
}
CASES = [(commit, name) for commit, images in IMAGES.items() for name in images]


def unpack(commit, path):
  with tarfile.open(ROOT / 'tests' / 'runs' / f'{commit}.tar.xz') as archive:
    archive.extractall(path, filter='data')
  return path


@pytest.mark.parametrize(('commit', 'name'), sometimes(CASES, 0, 5, 6, 7, 8))
def test_an_earlier_run_gives_the_same_images(commit, name, tmp_path):
  folder = unpack(commit, tmp_path)
  run = load(folder / 'run')
  with np.load(folder / 'images.npz') as file:
    assert set(file.files) == set(IMAGES[commit])
    before = file[name]
  now = np.asarray(run.sample(jax.random.key(0), len(before), **IMAGES[commit][name]))
  assert before.std() > 0.3
  np.testing.assert_allclose(now, before, atol=2e-4)


@pytest.mark.parametrize('commit', IMAGES)
def test_an_earlier_run_resumes_by_its_directory_alone(commit, tmp_path):
  run = unpack(commit, tmp_path) / 'run'
  words = [sys.executable, 'train.py', '--resume', str(run), '--config.train.log_every=5']
  done = subprocess.run(words, cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stdout + done.stderr
  assert 'step 10' in done.stdout


@pytest.mark.parametrize('commit', IMAGES)
def test_an_earlier_run_resumes(commit, tmp_path):
  folder = unpack(commit, tmp_path)
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
  results = jax.tree_util.tree_leaves_with_path(state)
  return {jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf) for path, leaf in results}
