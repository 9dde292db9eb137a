"""What every objective keeps: its players, keys, labels, averages; and what the library may import."""

import ast
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import rng
from genjax.build import PACKAGES
from genjax.run import abstract_state
from genjax.step import TrainState, ema_decay, init_state, playing, train_step
from genjax.types import example_batch
from tests.conftest import (
  EACH,
  FEW,
  ROOT,
  assert_close,
  config_of,
  family,
  image_shape,
  objects,
  one_level,
  step_of,
  without_free_bits,
)


@pytest.mark.parametrize('name', FEW)
def test_bfloat16_computes_what_float32_does_roughly(name):
  objective, optimizers, batch, state = family(name)
  half = one_level(objects(name, dtype='bfloat16', **without_free_bits(name))[0])
  for player in objective.players:
    grads = []
    for version in (objective, half):
      step = step_of(version, optimizers, playing=(player,))
      after, _ = jax.jit(step)(state, batch, jax.random.key(3))
      delta = jax.tree.map(lambda a, b: a - b, after.params[player], state.params[player])
      grads.append(np.concatenate([np.ravel(x) for x in jax.tree.leaves(delta)]))
    cosine = grads[0] @ grads[1] / np.linalg.norm(grads[0]) / np.linalg.norm(grads[1])
    assert 0.95 < cosine < 1 - 1e-9


@pytest.mark.parametrize('name', [*EACH, 'fashion_mnist_gan'])
def test_first_four_of_eight_images_are_a_batch_of_four(name):
  objective = one_level(objects(name)[0])
  shape = image_shape(config_of(name))
  variables = jax.jit(objective.init)(jax.random.key(0), example_batch(shape, 2))
  params = jax.tree.map(lambda x: x + 0.02 * jax.random.normal(jax.random.key(1), x.shape), variables.params)
  sample = jax.jit(lambda n: objective.sample(variables._replace(params=params), keys[:n]), static_argnums=0)
  keys = rng.image_keys(jax.random.key(5), jnp.arange(8))
  eight, four = sample(8), sample(4)
  np.testing.assert_allclose(eight[:4], four, atol=2e-5)
  assert float(jnp.abs(eight[0] - eight[4]).max()) > 1e-4


@pytest.mark.parametrize('name', FEW)
def test_only_those_who_play_move(name):
  objective, optimizers, batch, state = family(name)
  for player in objective.players:
    after, _ = jax.jit(step_of(objective, optimizers, playing=(player,)))(state, batch, jax.random.key(3))
    for other in objective.players:
      same = jax.tree.map(lambda a, b: bool((a == b).all()), after.params[other], state.params[other])
      assert all(jax.tree.leaves(same)) == (other != player)


def test_players_take_turns():
  objective, *_ = family('digits_gan')

  class Slow(type(objective)):
    @property
    def players(self):
      return {k: p._replace(every=3 if k == 'generator' else 1) for k, p in super().players.items()}

  slow = Slow(**vars(objective))
  assert [playing(slow, t) for t in range(4)] == [
    ('discriminator', 'generator'), ('discriminator',), ('discriminator',), ('discriminator', 'generator')
  ]  # fmt: skip


def test_ema_halves_after_its_halflife():
  # Constant parameters 1 from an average of 0: after `halflife` images half of the 0 is left, whatever the batch size.
  for batch_size in (10, 50):
    left = 1.0
    start = 10**6 // batch_size
    for step in range(start, start + 1000 // batch_size):
      left *= float(ema_decay(jnp.asarray(step), batch_size, 1000.0))
    assert left == pytest.approx(0.5, rel=1e-4)
  assert float(ema_decay(jnp.asarray(0), 64, 1e6)) == pytest.approx(0.5**20)  # 5 % of 64 images seen


@pytest.mark.parametrize('name', FEW)
def test_the_average_moves_towards_the_new_parameters(name):
  objective, optimizers, batch, state = family(name)
  state = state.replace(step=jnp.asarray(10**6))  # past the early phase
  step = functools.partial(train_step, objective=objective, optimizers=optimizers, ema_halflife=8.0)  # one batch
  after, _ = jax.jit(functools.partial(step, playing=playing(objective, 0)))(state, batch, jax.random.key(3))
  half_way = jax.tree.map(lambda e, p: (e + p) / 2, state.ema, after.params)
  assert_close(after.ema, half_way, 1e-5)


@pytest.mark.parametrize('name', [*EACH, 'fashion_mnist_vae', 'fashion_mnist_gan', 'fashion_mnist_flow'])
def test_labels_are_heard(name):
  objective = one_level(objects(name, num_classes=10)[0])
  variables = jax.jit(objective.init)(jax.random.key(0), example_batch(image_shape(config_of(name)), 2))
  params = jax.tree.map(lambda x: x + 0.05 * jax.random.normal(jax.random.key(1), x.shape), variables.params)
  keys = rng.image_keys(jax.random.key(5), jnp.arange(4))
  sample = jax.jit(lambda label: objective.sample(variables._replace(params=params), keys, jnp.full(4, label)))
  assert (jnp.abs(sample(3) - sample(4)).max(axis=(1, 2, 3)) > 1e-3).all()


def test_batch_statistics_move_in_training_and_not_in_sampling():
  objective, optimizers = objects('fashion_mnist_gan')
  batch = example_batch((28, 28, 1), 4)
  state = jax.jit(functools.partial(init_state, objective, optimizers))(jax.random.key(0), batch)
  after, _ = jax.jit(step_of(objective, optimizers, playing=('generator',)))(state, batch, jax.random.key(1))
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), after.buffers, state.buffers)
  assert all(jax.tree.leaves(moved['generator']))
  assert not any(jax.tree.leaves(moved['discriminator']))


def test_state_is_all_that_changes_and_holds_no_key():
  objective, *_ = family('digits_gan')
  like = abstract_state(objective, (8, 8, 1))
  assert set(TrainState.__dataclass_fields__) == {'step', 'params', 'buffers', 'opt_states', 'ema'}
  assert not any(jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in jax.tree.leaves(like))


def test_nothing_imports_upwards():
  order = ['errors', 'types', 'rng', 'files', 'images', 'networks', 'samplers', 'objectives', 'step']
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
  assert set(PACKAGES) == {'networks', 'objectives', 'samplers', 'optim'}
  for path in (ROOT / 'genjax').rglob('*.py'):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
      if isinstance(node, ast.Import):
        assert not {'pickle', 'ml_collections', 'dill', 'cloudpickle'} & {a.name.split('.')[0] for a in node.names}, path
      if isinstance(node, ast.ImportFrom):
        assert (node.module or '').split('.')[0] not in ('pickle', 'ml_collections'), path
      if isinstance(node, ast.keyword) and node.arg == 'allow_pickle':
        assert not node.value.value, path
