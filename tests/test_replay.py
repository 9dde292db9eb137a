"""Where a step went wrong: the player, and the first module."""

import functools
import io
import shutil
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax.errors import UsageError
from genjax.replay import diagnose, dump, load
from genjax.step import TrainState, init_state, train_step, turn_at
from genjax.types import Aux, Player, example_batch
from tests.conftest import batch_of, labeled_example, objects, same_bits

KEY = jax.random.key(3)
EXAMPLE = example_batch(labeled_example((8, 8, 1)))


def game(name):
  objective, _ = objects(name)
  optimizers = {player: optax.sgd(0.1) for player in objective.players}
  state = jax.jit(functools.partial(init_state, objective, optimizers))(jax.random.key(0), EXAMPLE)
  return objective, optimizers, state, batch_of(jnp.zeros((4, 8, 8, 1)))


def spoil(state, player, *path):
  """Infinity in one weight."""
  params = jax.tree.map(lambda x: x, state.params)
  leaf = functools.reduce(lambda tree, name: tree[name], path[:-1], params[player])
  leaf[path[-1]] = leaf[path[-1]].at[(0,) * leaf[path[-1]].ndim].set(jnp.inf)
  return state.replace(params=params)


@pytest.mark.parametrize(
  ('name', 'player', 'path', 'diagnosis'),
  [
    ('digits_vae', 'model', ('decoder', 'Dense_0', 'kernel'), 'player model: first in the module MLPDecoder/Dense_0'),
    pytest.param('digits_flow', 'model', ('ResBlock_1', 'Conv_0', 'kernel'),
                 'player model: first in the module UNet/ResBlock_1/Conv_0', marks=pytest.mark.slow),
    ('digits_gan', 'generator', ('MLPDecoder_0', 'Dense_0', 'bias'), 'player discriminator: first in the module '
     'MLPGenerator/MLPDecoder_0/Dense_0'),
  ],
)  # fmt: skip
def test_the_first_module_is_named(name, player, path, diagnosis):
  objective, optimizers, state, batch = game(name)
  turn = turn_at(objective, 0)
  assert diagnose(objective, optimizers, state, batch, KEY, turn) == ''
  assert diagnose(objective, optimizers, spoil(state, player, *path), batch, KEY, turn) == diagnosis


def test_a_player_spoilt_by_the_one_before():
  # The discriminator's own step is finite, and takes its weights to where the generator's loss is not.
  objective, optimizers, state, batch = game('digits_gan')
  optimizers['discriminator'] = optax.sgd(1e38)
  assert diagnose(objective, optimizers, state, batch, KEY, turn_at(objective, 0)).startswith('player generator: ')


@pytest.mark.parametrize(
  ('scale', 'metric', 'diagnosis'),
  [
    (1.0, 1.0, ''),
    (1e30, 1.0, 'player model: all gradients are finite, their norm is too large for a float'),
    (1.0, jnp.inf, 'player model: in extra, after finite modules'),
    (jnp.nan, 1.0, 'player model: in its loss, after finite modules'),
  ],
)
def test_what_is_not_finite_without_a_module(scale, metric, diagnosis):
  class Line:
    players: typing.ClassVar = {
      'model': Player(lambda params, *rest: ((scale * params['model']).sum(), Aux({'extra': jnp.asarray(metric)})))
    }

  state = TrainState(jnp.asarray(0), {'model': jnp.ones(3)}, {}, {'model': optax.sgd(0.1).init(jnp.ones(3))}, {})
  batch = batch_of(jnp.zeros((4, 8, 8, 1)))
  assert diagnose(Line(), {'model': optax.sgd(0.1)}, state, batch, KEY, (('model', ()),)) == diagnosis


def test_a_step_that_is_not_finite_leaves_the_state_and_halts():
  objective, optimizers, state, batch = game('digits_gan')
  step = functools.partial(train_step, objective=objective, optimizers=optimizers)
  step = jax.jit(functools.partial(step, turn=turn_at(objective, 0)))
  first, _ = step(state, batch, KEY)
  assert int(first.step) == 1
  bad, metrics = step(first, batch._replace(image=batch.image.at[2, 1, 1, 0].set(jnp.nan)), KEY)
  assert not np.isfinite(float(metrics['discriminator/loss']))
  assert int(bad.step) == ~1
  after, _ = step(bad, batch, KEY)  # a good batch does not set it going again
  for other in (bad, after):
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, first.replace(step=0), other.replace(step=0))))
  assert int(after.step) == ~1


def test_a_step_that_an_earlier_version_kept(tmp_path):
  # Schema 1: the label by itself, and no rows.
  objective, optimizers, state, batch = game('digits_vae')
  dump(tmp_path, state.replace(step=jnp.asarray(~3)), batch, KEY, {'model/loss': np.nan})
  arrays = dict(np.load(tmp_path / 'step.npz'))
  del arrays['row']
  arrays['label'] = arrays.pop('cond/label')
  np.savez(tmp_path / 'step.npz', **arrays)
  _, again, _, _ = load(tmp_path, objective, optimizers)
  assert same_bits(again, batch._replace(row=jnp.zeros(4, jnp.int32)))


def test_all_conditions_of_a_step_are_kept(tmp_path):
  objective, optimizers, state, batch = game('digits_vae')
  mask = jax.random.normal(KEY, (4, 8, 8, 1))
  batch = batch._replace(cond={**batch.cond, 'mask': mask}, row=batch.row + 7)
  dump(tmp_path, state.replace(step=jnp.asarray(~3)), batch, KEY, {'model/loss': np.nan})
  _, again, _, _ = load(tmp_path, objective, optimizers)
  assert same_bits(again, batch)


def test_what_is_left_of_a_folder_to_replay(tmp_path):
  objective, optimizers, state, batch = game('digits_vae')
  dump(tmp_path, state.replace(step=jnp.asarray(~3)), batch, KEY, {'model/loss': np.nan})
  _, again, _, metrics = load(tmp_path, objective, optimizers)
  assert same_bits(again, batch)
  assert np.isnan(metrics['model/loss'])
  whole = (tmp_path / 'step.npz').read_bytes()
  for content in (whole[:100], b'', whole.replace(b'label', b'lebal')):
    (tmp_path / 'step.npz').write_bytes(content)
    with pytest.raises(UsageError, match=r'step.npz '):
      load(tmp_path, objective, optimizers)
  arrays = dict(np.load(io.BytesIO(whole)))
  misfits = {
    'key': [np.zeros((2, 2), np.uint32)],
    'index': [np.arange(3, dtype=np.int32)],
    'row': [np.zeros((4, 1), np.int32), np.arange(4.0, dtype=np.float32)],
    'cond/label': [np.arange(3, dtype=np.int32), np.zeros((4, 1), np.int32), np.zeros(4, np.float32)],
    'image': [np.zeros((4, 8, 8), 'f'), np.zeros((0, 8, 8, 1), 'f'), np.zeros((4, 8, 8, 1), np.int32)],
  }
  for change in ({name: array} for name, kinds in misfits.items() for array in kinds):
    np.savez(tmp_path / 'step.npz', **arrays | change)
    with pytest.raises(UsageError, match=r'step.npz .*\(its arrays'):
      load(tmp_path, objective, optimizers)
  del arrays['cond/label']
  np.savez(tmp_path / 'step.npz', **arrays)
  with pytest.raises(UsageError, match=r'step.npz .*\(its arrays have no label'):
    load(tmp_path, objective, optimizers)
  (tmp_path / 'step.npz').write_bytes(whole)
  with pytest.raises(UsageError, match=r'config.json .* model .*\('):
    load(tmp_path, objective, {'discriminator': optax.sgd(0.1)})
  shutil.rmtree(tmp_path / '3')
  with pytest.raises(UsageError, match=r'no checkpoint'):
    load(tmp_path, objective, optimizers)
  with pytest.raises(UsageError, match=r'no step.npz'):
    load(tmp_path / '3', objective, optimizers)
