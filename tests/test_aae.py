"""Adversarial autoencoders: the gradients of each player, and hidden labels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax import rng
from genjax.conditioners import ClassLabel
from genjax.data.sources.open import open_data
from genjax.errors import UsageError
from genjax.images import to_float
from genjax.networks.mlp import MLPDecoder, MLPDiscriminator, MLPEncoder
from genjax.objectives.gan.losses import NonSaturating
from genjax.objectives.likelihoods import Bernoulli, CalibratedGaussian, LogisticMixture
from genjax.objectives.vae.aae import AAE, SemiSupervisedAAE
from genjax.step import init_state, player_keys, turn_at
from genjax.types import Batch, Context
from tests.conftest import batch_of, same_bits, step_of

START = Context(jnp.zeros((), int), {}, {}, 1)


def made(kind, **options):
  z = options.pop('z_dim', 4 + 10 * (kind is SemiSupervisedAAE))
  width = options.pop('width', 16)
  parts = MLPEncoder(z_dim=z, width=width), MLPDecoder((8, 8, 1), width=width), MLPDiscriminator(width=width)
  return kind(*parts, Bernoulli(), ClassLabel(10), **options)


def digits(start=0, n=64, split='train'):
  row = np.arange(start, start + n)
  pixels, cond = open_data('digits', 8, split=split).read(row)
  return batch_of(to_float(pixels), cond['label'])._replace(row=jnp.asarray(row, jnp.int32))


def test_the_discriminators_loss_is_the_cross_entropy():
  real, fake = jnp.array([2.0, -1.0]), jnp.array([0.5, 0.0, -3.0])
  p = lambda logits: 1 / (1 + np.exp(-np.asarray(logits)))  # noqa: E731
  loss = float(NonSaturating().discriminator(real, fake))
  assert loss == pytest.approx(-np.log(p(real)).mean() - np.log(1 - p(fake)).mean(), rel=1e-5)


@pytest.mark.parametrize('kind', [AAE, SemiSupervisedAAE])
def test_the_encoder_gets_gradients_of_the_discriminator_and_does_not_update_it(kind):
  batch, slopes = digits(), {}
  for weight in (0.0, 1.0):
    aae = made(kind, weight=weight)
    params = aae.init(jax.random.key(0), batch).params
    keys = player_keys(jax.random.key(1), jnp.zeros((), int), batch.index, 0)
    loss = lambda model, aae=aae, params=params, keys=keys: aae.loss(params | {'model': model}, START, batch, keys)[0]  # noqa: E731
    slopes[weight] = jax.jit(jax.grad(loss))(params['model'])
  apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), slopes[0.0], slopes[1.0])
  assert all(x > 0 for x in jax.tree.leaves(apart['encoder']))
  assert not any(jax.tree.leaves(apart['decoder']))  # it is of the images alone


@pytest.mark.parametrize('kind', [AAE, SemiSupervisedAAE])
def test_players_move_alone_and_each_moves(kind):
  aae = made(kind)
  optimizers = {player: optax.sgd(0.1) for player in aae.players}
  state = jax.jit(functools.partial(init_state, aae, optimizers))(jax.random.key(0), digits())
  for player in aae.players:
    after, _ = jax.jit(step_of(aae, optimizers, turn=((player, ()),)))(state, digits(), jax.random.key(2))
    moved = {name for name in aae.players if not same_bits(after.params[name], state.params[name])}
    assert moved == {player}


def test_labels_are_shown_of_the_same_part_always():
  aae, batch = made(SemiSupervisedAAE, labeled=0.2), digits(0, 1500)
  shown = np.asarray(aae.shown(batch.row))
  assert shown.mean() == pytest.approx(0.2, abs=4 * np.sqrt(0.16 / 1500))
  np.testing.assert_array_equal(aae.shown(batch.row[::-1]), shown[::-1])
  np.testing.assert_array_equal(aae.shown(digits(64).row), shown[64:128])  # wherever they are in a batch
  share = [shown[np.asarray(batch.cond['label']) == label].mean() for label in range(10)]
  assert min(share) > 0.08


def test_labels_that_are_not_shown_are_not_seen():
  aae, batch = made(SemiSupervisedAAE, labeled=0.2), digits(64)  # rows that are not their places in the batch
  params = aae.init(jax.random.key(0), batch).params
  keys = player_keys(jax.random.key(1), jnp.zeros((), int), batch.index, 0)
  loss = jax.jit(lambda label: aae.loss(params, START, batch._replace(cond={'label': label}), keys)[0])
  label, shown = batch.cond['label'], aae.shown(batch.row)
  other = (label + 1) % 10
  assert float(loss(label)) == float(loss(jnp.where(shown, label, other)))
  assert float(loss(label)) != float(loss(jnp.where(shown, other, label)))


@pytest.mark.slow
def test_a_tenth_of_the_labels_predicts_most_of_the_others_and_codes_follow_the_priors():
  aae = made(SemiSupervisedAAE, labeled=0.1, width=128)
  optimizers = {player: optax.adam(1e-3 if player == 'model' else 3e-4, b1=0.5) for player in aae.players}
  state = jax.jit(functools.partial(init_state, aae, optimizers))(jax.random.key(0), digits(0, 1500))
  step = jax.jit(step_of(aae, optimizers, turn=turn_at(aae, 0)))
  random = np.random.default_rng(0)
  whole = digits(0, 1500)
  for _ in range(3000):
    rows = random.integers(0, 1500, 64)
    label, index = whole.cond['label'][rows], jnp.arange(64, dtype=jnp.int32)
    state, _ = step(state, Batch(whole.image[rows], {'label': label}, index, whole.row[rows]), jax.random.key(2))
  keys = player_keys(jax.random.key(1), jnp.zeros((), int), whole.index, 0)
  _, aux = jax.jit(aae.loss)(state.params, START, whole, keys)
  assert float(aux.metrics['unshown_accuracy']) > 0.85  # chance: 0.1
  unseen = digits(0, 297, split='test')
  probabilities = aae.classify(state.variables(), unseen, rng.image_keys(jax.random.key(3), unseen.index))
  assert float((probabilities.argmax(axis=1) == unseen.cond['label']).mean()) > 0.8
  z = np.asarray(aae.encode(state.params, whole, keys).z)
  np.testing.assert_allclose(z.mean(axis=0), 0, atol=0.3)
  np.testing.assert_allclose(z.std(axis=0), 1, atol=0.3)


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: made(AAE, weight=-1.0), r'objective.weight=-1.0 must not be negative'),
    (lambda: made(SemiSupervisedAAE, labeled=0.0), r'objective.labeled=0.0 must be above 0'),
    (lambda: made(SemiSupervisedAAE, z_dim=10), r'objective.encoder.z_dim=10 .*classes, 10'),
    (
      lambda: SemiSupervisedAAE(MLPEncoder(), MLPDecoder((8, 8, 1)), MLPDiscriminator(), Bernoulli()),
      r'objective.encoder.z_dim=.* objective.conditioner.cls=.conditioners.ClassLabel',
    ),
    (
      lambda: AAE(MLPEncoder(), MLPDecoder((8, 8, 1)), MLPDiscriminator(), CalibratedGaussian()),
      'CalibratedGaussian .*AAE',
    ),
    (
      lambda: AAE(MLPEncoder(), MLPDecoder((8, 8, 1)), MLPDiscriminator(), LogisticMixture(2)).init(
        jax.random.key(0), digits(n=1)
      ),
      'LogisticMixture needs 6 outputs .* the decoder has 1: set its outputs=6',
    ),
  ],
)
def test_what_does_not_fit_is_refused(make, message):
  with pytest.raises(UsageError, match=message):
    make()
