"""Checkpoints that a GPU wrote in full float32, opened on CPU: to sample from, and to train on (tests/gpu/make.sh)."""

import json
import shutil
import tarfile

import jax
import numpy as np
import pytest

from genjax.images import to_uint8
from genjax.run import load
from tests.conftest import ROOT, same_bits
from tests.programs import train
from tests.test_resume import final_state

WIDTHS = {'digits_vae': ('encoder', 'decoder'), 'digits_gan': ('generator', 'discriminator')}


@pytest.fixture(params=sorted(WIDTHS))
def written(request, tmp_path):
  """The folder that holds the run and its samples, and the run's name."""
  with tarfile.open(ROOT / 'tests' / 'gpu' / f'{request.param}.tgz') as archive:
    archive.extractall(tmp_path, filter='data')
  return tmp_path, request.param


def test_samples_are_those_that_the_gpu_drew(written):
  folder, name = written
  environment = json.loads((folder / name / 'environment.json').read_text())
  assert environment['devices'] == ['1 x NVIDIA H100 80GB HBM3']
  run = load(folder / name)
  assert run.step == 20
  ours = np.asarray(to_uint8(run.sample(jax.random.key(0), 8))).astype(int)
  theirs = np.load(folder / f'{name}.npz')['image'].astype(int)
  assert theirs.std() > 1
  assert np.abs(ours - theirs).max() <= 1  # of 255: rounding
  assert same_bits(run.variables.params, final_state(folder / name, 20)['ema'])


@pytest.mark.slow
@pytest.mark.parametrize('written', ['digits_vae', 'digits_gan'], indirect=True)
def test_training_goes_on_from_the_gpus_tenth_step_as_it_did_there(written):
  folder, name = written
  there = final_state(folder / name, 20)
  shutil.rmtree(folder / name / 'checkpoints' / '20')
  begun = final_state(folder / name, 10)
  options = [f'--config.objective.{part}.width=4' for part in WIDTHS[name]]
  options += ['--config.train.steps=20', '--config.train.checkpoint_every=10']
  assert 'resuming from step 10' in train(name, folder / name, *options)
  here = final_state(folder / name, 20)
  for field in ('params', 'ema', 'opt_states'):
    assert far(here[field], there[field]) < 0.01 * far(begun[field], there[field]), field


def far(a, b):
  """The largest distance of any two numbers of two trees."""
  return max(jax.tree.leaves(jax.tree.map(lambda x, y: np.abs(x.astype(float) - y).max(), a, b)))
