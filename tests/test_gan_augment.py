"""What is done to images before a discriminator sees them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import rng
from genjax.objectives.gan_augment import AdaptiveAugment, DiffAugment

KEYS = rng.image_keys(jax.random.key(0), jnp.arange(512))


def test_translation_moves_by_whole_pixels_and_brings_grey_in():
  image = jax.random.uniform(jax.random.key(0), (64, 16, 16, 3), minval=0.1)
  moved = np.asarray(DiffAugment(('translation',))(KEYS[:64], image))
  seen = set()
  for before, after in zip(np.asarray(image), moved, strict=True):
    wide = np.pad(before, ((2, 2), (2, 2), (0, 0)))
    found = [(i, j) for i in range(5) for j in range(5) if np.array_equal(wide[i : i + 16, j : j + 16], after)]
    assert len(found) == 1
    seen |= set(found)
  assert len(seen) > 20  # of 25


def test_cutout_is_a_grey_square_of_half_the_side():
  image = jnp.ones((256, 16, 16, 1))
  holes = np.asarray(DiffAugment(('cutout',))(KEYS[:256], image) == 0).sum(axis=(1, 2, 3))
  assert holes.max() == 64
  assert holes.min() >= 16


def test_colours_keep_to_their_ranges():
  grey = jnp.zeros((512, 4, 4, 3))
  shift = np.asarray(DiffAugment(('color',))(KEYS, grey)).mean(axis=(1, 2, 3))
  assert -0.5 <= shift.min() < -0.45
  assert 0.45 < shift.max() <= 0.5
  assert abs(shift.mean()) < 0.05


@pytest.mark.parametrize('channels', [1, 3])
def test_adaptive_augmentation_does_nothing_at_p_0_and_much_at_1(channels):
  image = jnp.tanh(jax.random.normal(jax.random.key(0), (16, 8, 8, channels)))
  augment = jax.jit(AdaptiveAugment())
  at = lambda p: augment(KEYS[:16], image, {'p': jnp.asarray(p), 'r': jnp.zeros(())})  # noqa: E731
  np.testing.assert_array_equal(at(0.0), image)
  assert (jnp.abs(at(1.0) - image).mean(axis=(1, 2, 3)) > 0.05).all()
  some = (jnp.abs(at(0.05) - image).max(axis=(1, 2, 3)) > 1e-6).mean()
  assert 0.1 < float(some) < 0.9  # 1 - 0.95^11 is 0.43


def test_p_follows_the_discriminators_certainty():
  augment = AdaptiveAugment(target=0.6, kimg=1.0)
  sure, lost = jnp.ones(64), -jnp.ones(64)
  memory = augment.init()
  for _ in range(20):
    memory = augment.update(memory, sure, 100)
  assert float(memory['r']) == pytest.approx(1 - 0.9**20, rel=1e-4)
  p = float(memory['p'])
  assert p == pytest.approx(1.0, abs=0.2)  # 0 until r passed 0.6, then a tenth a step, at most 1
  for _ in range(20):
    memory = augment.update(memory, lost, 100)
  assert float(memory['p']) == 0.0


def test_gradients_flow_through_all_augmentation():
  image = jnp.tanh(jax.random.normal(jax.random.key(0), (4, 8, 8, 3)))
  for augment in (DiffAugment(), AdaptiveAugment()):
    memory = {'p': jnp.asarray(0.9), 'r': jnp.zeros(())}
    grad = jax.jit(jax.grad(lambda x, augment=augment, memory=memory: jnp.square(augment(KEYS[:4], x, memory)).sum()))(image)
    assert np.isfinite(grad).all()
    assert (jnp.abs(grad).max(axis=(1, 2, 3)) > 0).all()
