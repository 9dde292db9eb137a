"""The trained models in models/ open, and sample images like their training data."""

import jax
import numpy as np
import pytest

import genjax
from tests.conftest import ROOT

MODELS = sorted(path.parent.name for path in (ROOT / 'models').glob('*/config.json'))


def test_the_models_are_small_and_are_described():
  assert MODELS
  assert sum(path.stat().st_size for path in (ROOT / 'models').rglob('*') if path.is_file()) < 12e6
  text = (ROOT / 'models' / 'README.md').read_text()
  assert all(f'({name}/README.md)' in text for name in MODELS)


@pytest.mark.parametrize('name', MODELS)
def test_a_model_draws_different_pictures_of_its_classes(name):
  run = genjax.load(ROOT / 'models' / name)
  steps = {'steps': 4} if 'steps' in run.options else {}
  labels = {'label': [0, 1, 0, 1]} if run.classes else {}
  images = np.asarray(run.sample(jax.random.key(0), 4, **labels, **steps))
  assert images.shape == (4, *run.config['data']['image_shape'])
  assert np.abs(images).max() <= 1
  assert images.std() > 0.2
  assert np.abs(images[0] - images[2]).max() > 0.1
  if run.classes:  # the same noise, another class
    other = np.asarray(run.sample(jax.random.key(0), 4, label=2, **steps))
    assert np.abs(images - other).max() > 0.5
