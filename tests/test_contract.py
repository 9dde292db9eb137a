"""What every objective keeps: its players, keys, labels, averages; and what the library may import."""

import ast
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import rng
from genjax.build import PACKAGES
from genjax.optim import EMA
from genjax.run import abstract_state
from genjax.step import TrainState, init_state, turn_at
from genjax.types import example_batch
from tests.conftest import (
  CLASSES,
  EACH,
  FEW,
  ROOT,
  assert_close,
  config_of,
  example_of,
  family,
  labeled_example,
  objects,
  one_level,
  step_of,
  without_free_bits,
)


def turn_of(objective, player):
  """A turn at which `player` plays alone."""
  return tuple((name, plan) for name, plan in turn_at(objective, 0) if name == player)


@pytest.mark.parametrize('name', FEW)
def test_bfloat16_computes_what_float32_does_roughly(name):
  objective, optimizers, batch, state = family(name)
  half = one_level(objects(name, dtype='bfloat16', **without_free_bits(name))[0])
  for player in objective.players:
    grads = []
    for version in (objective, half):
      step = step_of(version, optimizers, turn=turn_of(objective, player))
      after, _ = jax.jit(step)(state, batch, jax.random.key(3))
      delta = jax.tree.map(lambda a, b: a - b, after.params[player], state.params[player])
      grads.append(np.concatenate([np.ravel(x) for x in jax.tree.leaves(delta)]))
    cosine = grads[0] @ grads[1] / np.linalg.norm(grads[0]) / np.linalg.norm(grads[1])
    assert 0.95 < cosine < 1 - 1e-9


@pytest.mark.parametrize('name', [*EACH, 'fashion_mnist_gan'])
def test_first_four_of_eight_images_are_a_batch_of_four(name):
  objective = one_level(objects(name)[0])
  variables = jax.jit(objective.init)(jax.random.key(0), example_batch(example_of(config_of(name)), 2))
  params = jax.tree.map(lambda x: x + 0.02 * jax.random.normal(jax.random.key(1), x.shape), variables.params)
  sample = jax.jit(lambda n: objective.sample(variables._replace(params=params), keys[:n], {}), static_argnums=0)
  keys = rng.image_keys(jax.random.key(5), jnp.arange(8))
  eight, four = sample(8), sample(4)
  np.testing.assert_allclose(eight[:4], four, atol=2e-5)
  assert float(jnp.abs(eight[0] - eight[4]).max()) > 1e-4


@pytest.mark.parametrize('name', FEW)
def test_only_those_who_play_move(name):
  objective, optimizers, batch, state = family(name)
  for player in objective.players:
    after, _ = jax.jit(step_of(objective, optimizers, turn=turn_of(objective, player)))(state, batch, jax.random.key(3))
    for other in objective.players:
      same = jax.tree.map(lambda a, b: bool((a == b).all()), after.params[other], state.params[other])
      assert all(jax.tree.leaves(same)) == (other != player)


def test_players_take_turns():
  objective, *_ = family('digits_gan')

  class Slow(type(objective)):
    @property
    def players(self):
      plans = {'discriminator': lambda step: step, 'generator': lambda step: None if step % 3 else 'whole'}
      return {name: player._replace(plan=plans[name]) for name, player in super().players.items()}

  slow = Slow(**vars(objective))
  assert [turn_at(slow, t) for t in range(4)] == [
    (('discriminator', 0), ('generator', 'whole')),
    (('discriminator', 1),),
    (('discriminator', 2),),
    (('discriminator', 3), ('generator', 'whole')),
  ]


def test_ema_halves_after_its_halflife():
  # Constant parameters 1 from an average of 0: after `halflife` images half of the 0 is left, whatever the batch size.
  for batch_size in (10, 50):
    left = 1.0
    start = 10**6 // batch_size
    for step in range(start, start + 1000 // batch_size):
      left *= float(EMA(1000.0).decay(jnp.asarray(step), batch_size))
    assert left == pytest.approx(0.5, rel=1e-4)
  assert float(EMA(1e6).decay(jnp.asarray(0), 64)) == pytest.approx(0.5**20)  # 5 % of 64 images seen


@pytest.mark.parametrize('name', FEW)
def test_the_average_moves_towards_the_new_parameters(name):
  objective, optimizers, batch, state = family(name)
  state = state.replace(step=jnp.asarray(10**6))  # past the early phase
  step = step_of(objective, optimizers, average=EMA(8.0))  # one batch
  after, _ = jax.jit(functools.partial(step, turn=turn_at(objective, 0)))(state, batch, jax.random.key(3))
  half_way = jax.tree.map(lambda e, p: (e + p) / 2, state.ema, after.params)
  assert_close(after.ema, half_way, 1e-5)


@pytest.mark.parametrize('name', [*EACH, 'fashion_mnist_vae', 'fashion_mnist_gan', 'fashion_mnist_flow'])
def test_outputs_depend_on_labels(name):
  objective = one_level(objects(name, conditioner=CLASSES)[0])
  variables = jax.jit(objective.init)(jax.random.key(0), example_batch(example_of(config_of(name)), 2))
  params = jax.tree.map(lambda x: x + 0.05 * jax.random.normal(jax.random.key(1), x.shape), variables.params)
  keys = rng.image_keys(jax.random.key(5), jnp.arange(4))
  sample = jax.jit(lambda label: objective.sample(variables._replace(params=params), keys, {'label': jnp.full(4, label)}))
  assert (jnp.abs(sample(3) - sample(4)).max(axis=(1, 2, 3)) > 1e-3).all()


def test_batch_statistics_move_in_training_and_not_in_sampling():
  objective, optimizers = objects('fashion_mnist_gan')
  batch = example_batch(labeled_example((28, 28, 1)), 4)
  state = jax.jit(functools.partial(init_state, objective, optimizers))(jax.random.key(0), batch)
  after, _ = jax.jit(step_of(objective, optimizers, turn=turn_of(objective, 'generator')))(state, batch, jax.random.key(1))
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), after.buffers, state.buffers)
  assert all(jax.tree.leaves(moved['generator']))
  assert not any(jax.tree.leaves(moved['discriminator']))


def test_only_the_state_changes_and_it_contains_no_key():
  objective, *_ = family('digits_gan')
  like = abstract_state(objective, labeled_example((8, 8, 1)))
  assert set(TrainState.__dataclass_fields__) == {'step', 'params', 'buffers', 'opt_states', 'ema'}
  assert not any(jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in jax.tree.leaves(like))


def test_nothing_imports_upwards():
  order = ['errors', 'types', 'rng', 'files', 'images', 'densities']
  order += ['degradations', 'conditioners', 'networks', 'samplers', 'objectives', 'optim', 'step']
  for path in (ROOT / 'genjax').rglob('*.py'):
    here = path.relative_to(ROOT / 'genjax').parts[0].removesuffix('.py')
    for node in ast.walk(ast.parse(path.read_text())):
      names = []
      if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f'{path}: a relative import'
        names = [f'{node.module}.{alias.name}' for alias in node.names]
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      for name in names:
        if here in order and name.startswith('genjax.'):
          below = name.split('.')[1]
          assert below in order[: order.index(here) + 1], f'{path} imports {name}'


def test_nothing_in_the_library_takes_a_config_or_pickles():
  assert set(PACKAGES) == {'conditioners', 'networks', 'objectives', 'samplers', 'optim'}
  allowed = {'torchfile.py': {'pickle'}, 'commandline.py': {'ml_collections'}}  # with an allow-list; reads config files
  for path in (ROOT / 'genjax').rglob('*.py'):
    tree, refused = ast.parse(path.read_text()), {'pickle', 'ml_collections', 'dill', 'cloudpickle'}
    refused -= allowed.get(path.name, set())
    for node in ast.walk(tree):
      if isinstance(node, ast.Import):
        assert not refused & {a.name.split('.')[0] for a in node.names}, path
      if isinstance(node, ast.ImportFrom):
        assert (node.module or '').split('.')[0] not in refused, path
      if isinstance(node, ast.keyword) and node.arg == 'allow_pickle':
        assert not node.value.value, path
