"""What is done to images before a discriminator sees them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax import rng
from genjax.data.sources.base import Subset
from genjax.data.sources.open import open_data
from genjax.images import to_float
from genjax.metrics import collapse
from genjax.networks.mlp import MLPDiscriminator, MLPGenerator
from genjax.objectives.gan import losses
from genjax.objectives.gan.augment import AdaptiveAugment, DiffAugment, cut_out
from genjax.objectives.gan.gan import GAN, Plan
from genjax.parallel import make_mesh
from genjax.step import init_state
from tests.conftest import batch_of, step_of

KEYS = rng.image_keys(jax.random.key(0), jnp.arange(512))


def test_translation_moves_by_whole_pixels_and_brings_gray_in():
  image = jax.random.uniform(jax.random.key(0), (64, 16, 16, 3), minval=0.1)
  moved = np.asarray(DiffAugment(('translation',))(KEYS[:64], image))
  shifts = set()
  for before, after in zip(np.asarray(image), moved, strict=True):
    wide = np.pad(before, ((2, 2), (2, 2), (0, 0)))
    actual = [(i, j) for i in range(5) for j in range(5) if np.array_equal(wide[i : i + 16, j : j + 16], after)]
    assert len(actual) == 1
    shifts |= set(actual)
  assert len(shifts) > 20  # of 25


def test_cutout_is_a_gray_square_of_half_the_side():
  image = jnp.ones((256, 16, 16, 1))
  holes = np.asarray(DiffAugment(('cutout',))(KEYS[:256], image) == 0).sum(axis=(1, 2, 3))
  assert holes.max() == 64
  assert holes.min() >= 16


@pytest.mark.parametrize(
  'expected',
  [  # a square of 4 with its center on one of 9 lines, one of 5 on one of 10 pixels
    np.array([3, 4, 4, 4, 4, 4, 4, 3]) / 9,
    np.array([3, 4, 5, 5, 5, 5, 5, 5, 4, 3]) / 10,
  ],
)
def test_cutout_is_as_often_at_one_rim_as_at_the_other(expected):
  side = len(expected)
  keys = rng.image_keys(jax.random.key(5), jnp.arange(20_000))
  gone = np.asarray(jax.vmap(cut_out)(keys, jnp.ones((20_000, side, side, 1))) == 0).any(axis=2)[..., 0].mean(axis=0)
  np.testing.assert_allclose(gone, expected, atol=4 * 0.5 / np.sqrt(20_000))


def test_colors_keep_to_their_ranges():
  gray = jnp.zeros((512, 4, 4, 3))
  shift = np.asarray(DiffAugment(('color',))(KEYS, gray)).mean(axis=(1, 2, 3))
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


@pytest.mark.parametrize('loss', [losses.RelativisticPairing(), losses.Wasserstein()])
def test_what_a_loss_cannot_see_does_not_move_p(loss):
  # These losses are invariant to adding a constant to D; half of the pairs are classified correctly for any D.
  fake = jnp.linspace(-1, 1, 64)
  real = jnp.where(jnp.arange(64) % 2 == 0, fake + 0.5, fake - 0.5)
  for c in (-10.0, 0.0, 10.0):
    assert float(loss.discriminator(real + c, fake + c)) == pytest.approx(float(loss.discriminator(real, fake)), abs=1e-5)
    assert float(jnp.sign(loss.ada_signal(real + c, fake + c)).mean()) == 0.0
  assert float(jnp.sign(loss.ada_signal(fake + 0.5, fake)).mean()) == 1.0


def test_others_count_where_they_put_a_real_image():
  real = jnp.array([0.4, 0.6, -1.0, 3.0])
  assert float(jnp.sign(losses.LeastSquares().ada_signal(real, real)).mean()) == 0.0
  assert float(jnp.sign(losses.NonSaturating().ada_signal(real, real)).mean()) == 0.5


@pytest.mark.slow
def test_a_game_on_few_images_overfits_and_adaptive_augmentation_holds_it_back():
  # A hundred digits. What the panel says of the game with and without (2006.06676, figure 1).
  source = open_data('digits', 8)
  few, held_out = Subset(source, np.arange(100)), open_data('digits', 8, split='test')
  images = jnp.asarray(to_float(few.read(np.arange(100))[0]))

  def trained(augment):
    game = GAN(MLPGenerator((8, 8, 1), z_dim=16, width=64), MLPDiscriminator(width=64), augment=augment)
    optimizers = {player: optax.adam(1e-3, b1=0.5) for player in game.players}
    batch = lambda t: batch_of(images[jax.random.randint(jax.random.key(t), (32,), 0, 100)])  # noqa: E731
    state = jax.jit(functools.partial(init_state, game, optimizers))(jax.random.key(0), batch(0))
    step = jax.jit(step_of(game, optimizers, turn=tuple((player, Plan()) for player in game.players)))
    for t in range(3000):
      state, metrics = step(state, batch(t), jax.random.key(1))
    watch = collapse.CollapseMonitor(game, few, held_out, make_mesh(jax.devices()[:1]), images=100)
    return watch(state.variables()), metrics

  alone, _ = trained(None)
  helped, metrics = trained(AdaptiveAugment(target=0.3, kimg=10.0))
  assert 0.05 < float(metrics['augment_p']) < 0.8
  assert 'the discriminator has memorized the training images' in collapse.overfitting_warning(alone)
  gap = [actual['d_train'] - actual['d_held_out'] for actual in (alone, helped)]
  assert gap[1] < 0.5 * gap[0]
  assert helped['overfitting'] < alone['overfitting']
  assert alone['nearest'] < 0.7 < 0.8 < helped['nearest']  # samples next to each other: fewer of them are varied


def test_gradients_flow_through_all_augmentation():
  image = jnp.tanh(jax.random.normal(jax.random.key(0), (4, 8, 8, 3)))
  for augment in (DiffAugment(), AdaptiveAugment()):
    memory = {'p': jnp.asarray(0.9), 'r': jnp.zeros(())}
    grad = jax.jit(jax.grad(lambda x, augment=augment, memory=memory: jnp.square(augment(KEYS[:4], x, memory)).sum()))(image)
    assert np.isfinite(grad).all()
    assert (jnp.abs(grad).max(axis=(1, 2, 3)) > 0).all()
