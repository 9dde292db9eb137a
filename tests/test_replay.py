"""Where a step went wrong: the player, and the first module."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax.replay import diagnose
from genjax.step import init_state, train_step
from genjax.types import Batch, example_batch
from tests.conftest import objects

KEY = jax.random.key(3)


def game(name):
  objective, _ = objects(name)
  optimizers = {player: optax.sgd(0.1) for player in objective.players}
  state = jax.jit(functools.partial(init_state, objective, optimizers))(jax.random.key(0), example_batch((8, 8, 1)))
  return objective, optimizers, state, Batch(jnp.zeros((4, 8, 8, 1)), jnp.arange(4), jnp.arange(4, dtype=jnp.int32))


def spoil(state, player, *path):
  """Infinity in one weight."""
  params = jax.tree.map(lambda x: x, state.params)
  leaf = functools.reduce(lambda tree, name: tree[name], path[:-1], params[player])
  leaf[path[-1]] = leaf[path[-1]].at[(0,) * leaf[path[-1]].ndim].set(jnp.inf)
  return state.replace(params=params)


@pytest.mark.parametrize(
  ('name', 'player', 'path', 'found'),
  [
    ('digits_vae', 'model', ('decoder', 'Dense_0', 'kernel'), 'player model: first in the module Dense_0'),
    ('digits_flow', 'model', ('ResBlock_1', 'Conv_0', 'kernel'), 'player model: first in the module ResBlock_1/Conv_0'),
    ('digits_gan', 'generator', ('MLPDecoder_0', 'Dense_0', 'bias'), 'player discriminator: first in the module '
     'MLPDecoder_0/Dense_0'),
  ],
)  # fmt: skip
def test_the_first_module_is_named(name, player, path, found):
  objective, optimizers, state, batch = game(name)
  assert diagnose(objective, optimizers, state, batch, KEY, tuple(objective.players)) == ''
  assert diagnose(objective, optimizers, spoil(state, player, *path), batch, KEY, tuple(objective.players)) == found


def test_a_player_spoilt_by_the_one_before():
  # The discriminator's own step is finite, and takes its weights to where the generator's loss is not.
  objective, optimizers, state, batch = game('digits_gan')
  optimizers['discriminator'] = optax.sgd(1e38)
  assert diagnose(objective, optimizers, state, batch, KEY, tuple(objective.players)).startswith('player generator: ')


def test_a_step_that_is_not_finite_leaves_the_state_and_halts():
  objective, optimizers, state, batch = game('digits_gan')
  step = functools.partial(train_step, objective=objective, optimizers=optimizers, ema_halflife=10.0)
  step = jax.jit(functools.partial(step, playing=tuple(objective.players)))
  first, _ = step(state, batch, KEY)
  assert int(first.step) == 1
  bad, metrics = step(first, batch._replace(image=batch.image.at[2, 1, 1, 0].set(jnp.nan)), KEY)
  assert not np.isfinite(float(metrics['discriminator/loss']))
  assert int(bad.step) == ~1
  after, _ = step(bad, batch, KEY)  # a good batch does not set it going again
  for other in (bad, after):
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, first.replace(step=0), other.replace(step=0))))
  assert int(after.step) == ~1
