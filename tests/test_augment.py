"""What non-leaking augmentation does is what it tells the network; and nothing is done to samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import rng
from genjax.conditioners import ClassLabel, Unconditional
from genjax.errors import UsageError
from genjax.networks.layers import DIFFUSION, condition_vector
from genjax.objectives.diffusion import parameterizations, times
from genjax.objectives.diffusion.augment import AUGMENTATIONS, augment
from genjax.objectives.diffusion.diffusion import Diffusion
from tests.conftest import batch_of
from tests.mixture import CONTEXT, KEYS, NOTHING, PATHS

N, SIDE = 512, 32
moved_by = jax.jit(augment, static_argnums=2)


def blob(center, covariance):
  """A normal density in x, y from the image's center, [SIDE, SIDE, 1]."""
  y, x = np.mgrid[:SIDE, :SIDE] + 0.5 - SIDE / 2
  d = np.stack([x, y], -1) - center
  return np.exp(-0.5 * np.einsum('...i,ij,...j', d, np.linalg.inv(covariance), d))[..., None]


def affine_map(row):
  """The map x -> A x + b that nine numbers stand for (2206.00364, table 6)."""
  mirror, upside_down, scale, cos, sin, s_cos, s_sin, x, y = np.asarray(row, np.float64)
  angle, amount = np.arctan2(s_sin, s_cos), 0.2 * np.hypot(s_cos, s_sin)
  turn = lambda c, s: np.array([[c, -s], [s, c]])  # noqa: E731
  along = turn(np.cos(angle), np.sin(angle))
  flips = np.diag([1 - 2 * mirror, 1 - 2 * upside_down])
  a = 2 ** (0.2 * scale) * along @ np.diag([2**amount, 2**-amount]) @ along.T @ turn(cos + 1, sin) @ flips
  return a, np.array([x, y]) / 8 * SIDE


def test_augmentation_parameters_describe_the_transformation():
  center, covariance = np.array([3.0, -2.0]), np.array([[6.0, 2.0], [2.0, 3.0]])
  images = jnp.broadcast_to(jnp.asarray(blob(center, covariance), jnp.float32), (N, SIDE, SIDE, 1))
  moved, rows = jax.jit(lambda x: augment(KEYS[:N], x, 0.5))(images)
  compared = 0
  for image, row in zip(np.asarray(moved), np.asarray(rows), strict=True):
    a, b = affine_map(row)
    mean, spread = a @ center + b, a @ covariance @ a.T
    if np.abs(mean).max() + 3.5 * np.sqrt(np.linalg.eigvalsh(spread)[-1]) > SIDE / 2:
      continue  # mirrored at the edge
    right = blob(mean, spread)
    within = right > 0.05  # beyond, where images are shrunk, their mirrored surroundings show
    np.testing.assert_allclose(image[within], right[within], atol=0.08)
    compared += 1
  assert compared > N / 4


def test_how_often_and_how_much():
  images = jnp.zeros((4096, 4, 4, 1))
  rows = np.asarray(moved_by(KEYS, images, 0.12)[1])
  assert rows.shape == (4096, AUGMENTATIONS)
  part = (rows != 0).mean(axis=0)
  np.testing.assert_allclose(part, [0.5, 0.06, *[0.12] * 7], atol=0.025)
  on = lambda column: rows[:, column][rows[:, column] != 0]  # noqa: E731
  assert [on(column).std() for column in (2, 7, 8)] == pytest.approx([1, 1, 1], rel=0.15)
  assert np.hypot(rows[:, 5], rows[:, 6])[rows[:, 5] != 0].std() == pytest.approx(np.sqrt(1 - 2 / np.pi), rel=0.15)  # of |n|


def test_an_image_without_augmentation_is_unchanged():
  images = rng.normal(KEYS[:64], (8, 6, 3))
  kept, rows = moved_by(KEYS[:64], images, 0.0)
  mirrored = np.asarray(rows[:, 0] > 0)
  assert 16 < mirrored.sum() < 48
  np.testing.assert_array_equal(rows[:, 1:], np.zeros((64, AUGMENTATIONS - 1)))
  np.testing.assert_array_equal(np.asarray(kept)[~mirrored], np.asarray(images)[~mirrored])
  np.testing.assert_array_equal(np.asarray(kept)[mirrored], np.asarray(images)[mirrored][:, :, ::-1])


def test_edges_are_mirrored():
  ramp = jnp.broadcast_to(jnp.linspace(-1, 1, 16)[None, None, :, None], (N, 16, 16, 1))
  moved, rows = moved_by(KEYS[:N], ramp, 1.0)
  assert float(jnp.abs(moved).max()) < 1.1  # nothing from outside
  assert not np.isnan(np.asarray(moved)).any()
  assert (np.asarray(rows)[:, 2:] != 0).all()


class ReadsAugmentation:
  """A network that returns the sum of its conditions."""

  fields = DIFFUSION

  def apply(self, variables, x, condition, cond):
    return jnp.broadcast_to(condition_vector(cond, DIFFUSION).sum(axis=1)[:, None, None, None], x.shape)

  def init(self, key, *inputs):
    return {'params': self.apply({}, *inputs)}


class IgnoresAugmentation(ReadsAugmentation):
  """A network that does not read the augmentation parameters."""

  fields = ('label',)


@pytest.mark.parametrize('classes', [0, 3])
def test_samples_have_no_augmentation(classes):
  edm = (PATHS['EDM'], parameterizations.EDMPrecond(), times.LogNormal(), (4, 4, 1))
  conditioner = ClassLabel(classes) if classes else Unconditional()
  of = Diffusion(ReadsAugmentation(), *edm, conditioner=conditioner, augment=0.5, cond_dropout=0.0)
  shapes = {name: x.shape for name, x in of.network_cond({'label': jnp.zeros(5, int)}, size=5).items()}
  assert shapes == {'augmentation': (5, AUGMENTATIONS)} | ({'label': (5, classes)} if classes else {})
  batch = batch_of(jnp.zeros((64, 4, 4, 1)), jnp.arange(64) % 3)
  assert of.init(jax.random.key(0), batch).params['model'].shape == batch.image.shape
  point = jax.jit(of.training_point)(batch, KEYS[:64])
  assert float(jnp.abs(point.cond['augmentation']).sum()) > 1
  assert not classes or (point.cond['label'].sum(axis=1) == 1).all()
  assert np.isfinite(float(jax.jit(of.loss)({'model': {}}, CONTEXT, batch, KEYS[:64])[0]))
  # x_0 of F = 1 (the label alone) or 0 (nothing)
  cond = {'label': jnp.zeros(2, int)} if classes else {}
  f = of.denoiser(NOTHING, cond)(jnp.zeros((2, 4, 4, 1)), jnp.asarray(0.5))
  np.testing.assert_allclose(f, 0.5 * 0.5 / 0.5**0.5 * (classes > 0), rtol=1e-5)
  with pytest.raises(UsageError, match=r'augment=0\.5.*augmentation'):
    Diffusion(IgnoresAugmentation(), *edm, augment=0.5)
  with pytest.raises(UsageError, match=r'augment=1\.5 '):
    Diffusion(ReadsAugmentation(), *edm, augment=1.5)
