"""How a step is run changes nothing: devices, strategies, microbatches, rematerialization."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.scaling import measure
from genjax import rng
from genjax.checkpoint import Checkpoints
from genjax.parallel import STRATEGIES, compile_step, make_mesh, replicate, replicated, split_sharding, state_sharding
from genjax.step import TrainState, init_state, turn_at
from genjax.types import Context, example_batch
from tests.conftest import EACH, FEW, assert_close, batch_of, config_of, example_of, family, labeled_example, objects, step_of


def tolerance(before, after):
  """1e-5, or 3e-5 of the longest move of a parameter."""
  moves = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), before.params, after.params)
  return max(1e-5, 3e-5 * max(jax.tree.leaves(moves)))


named = lambda case: getattr(case, 'values', (case,))[0]  # noqa: E731
OF_THE_BATCH = ('fashion_mnist_beta_tc',)  # whose loss is no mean over images, so that parts are not the whole


@pytest.mark.parametrize('name', [case for case in EACH if named(case) not in OF_THE_BATCH])
@pytest.mark.parametrize('accumulate', [2, pytest.param(4, marks=pytest.mark.slow)])
def test_microbatches_give_the_same_gradient(name, accumulate):
  objective, optimizers, batch, state = family(name)
  everyone = turn_at(objective, 0)
  whole, _ = jax.jit(step_of(objective, optimizers, turn=everyone))(state, batch, jax.random.key(3))
  split, _ = jax.jit(step_of(objective, optimizers, turn=everyone, accumulate=accumulate))(state, batch, jax.random.key(3))
  assert_close(whole.params, split.params, tolerance(state, whole))


@pytest.mark.parametrize(
  ('name', 'strategy'),
  [
    pytest.param(named(case), strategy, marks=getattr(case, 'marks', ()))
    for strategy in STRATEGIES
    for case in (EACH if strategy == 'jit' else FEW)
    if named(case) not in OF_THE_BATCH or strategy != 'pmap'
  ],
)
def test_eight_devices_train_as_one(name, strategy):
  # Sums over the batch are taken in another order: float32 leaves 1e-7 of a gradient of order 1, times a rate of 0.1,
  # through some twenty layers. 1e-5 is a hundred times that, and a thousandth of what one image contributes. Where a loss is
  # large (VDM's schedule: a squared bound, normalized between its ends) so are the gradient and what is lost of it.
  objective, optimizers, batch, state = family(name)
  step = step_of(objective, optimizers)
  one, _ = jax.jit(functools.partial(step, turn=turn_at(objective, 0)))(state, batch, jax.random.key(3))
  within = tolerance(state, one)
  mesh = make_mesh()
  assert mesh.size == 8
  layout = state_sharding(state, mesh, strategy)
  state = jax.device_put(jax.tree.map(jnp.copy, state), layout)
  compiled = compile_step(step, mesh, strategy)
  batch = jax.device_put(batch, jax.NamedSharding(mesh, jax.P('data')))
  eight, metrics = compiled(state, batch, replicate(jax.random.key(3), mesh), turn_at(objective, 0))
  assert_close(one.params, eight.params, within)
  assert_close(one.ema, eight.ema, within)
  assert all(np.isfinite(float(m)) for m in metrics.values())
  assert compiled.compile_seconds > 0
  for x, sharding in zip(jax.tree.leaves(eight), jax.tree.leaves(layout), strict=True):
    assert x.sharding.is_equivalent_to(sharding, x.ndim)


def test_fsdp_splits_the_largest_dimension_that_the_devices_divide():
  mesh = make_mesh()
  cases = {(16, 64): (None, 'data'), (64, 64): (None, 'data'), (3, 3, 128, 20): (None, None, 'data'), (31, 77): (), (8, 8): ()}
  for shape, spec in cases.items():
    assert tuple(split_sharding(shape, mesh).spec) == spec, shape


def test_fsdp_is_born_split_and_its_memory_falls_with_the_devices():
  objective, optimizers = objects('fashion_mnist_vae')
  optimizers = {'model': optax.adam(1e-3)}
  init = functools.partial(init_state, objective, optimizers)
  example = example_batch(labeled_example((28, 28, 1)), 8)
  like = jax.eval_shape(lambda: init(jax.random.key(0), example))
  whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(like))
  held = {}
  for count in (1, 2, 4, 8):
    mesh = make_mesh(jax.devices()[:count])
    state = jax.jit(init, out_shardings=state_sharding(like, mesh, 'fsdp'))(jax.random.key(0), example)
    held[count] = max(sum(x.addressable_shards[d].data.nbytes for x in jax.tree.leaves(state)) for d in range(count))
    program = jax.jit(init, out_shardings=state_sharding(like, mesh, 'fsdp')).lower(jax.random.key(0), example).compile()
    memory = program.memory_analysis()
    assert memory.output_size_in_bytes + memory.temp_size_in_bytes < 1.5 * held[count]  # never whole on the way
  small = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(like) if x.size < 1024)
  assert held[1] == whole
  for count in (2, 4, 8):
    assert held[count] <= (whole - small) / count + small


def test_a_checkpoint_of_eight_devices_opens_on_any_number(tmp_path):
  objective, _ = objects('digits_gan', small=False)
  optimizers = {player: optax.adam(1e-3) for player in objective.players}
  init = functools.partial(init_state, objective, optimizers)
  example = example_batch(labeled_example((8, 8, 1)))
  like = jax.eval_shape(init, jax.random.key(0), example)
  eight = make_mesh()
  state = jax.jit(init, out_shardings=state_sharding(like, eight, 'fsdp'))(jax.random.key(0), example)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(state)
  checkpoints.close()
  checkpoints = Checkpoints(tmp_path, read_only=True)
  for count, strategy in ((1, 'jit'), (2, 'fsdp'), (4, 'jit'), (8, 'pmap')):
    layout = state_sharding(like, make_mesh(jax.devices()[:count]), strategy)
    again = TrainState(**checkpoints.restore(0, like, layout))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, state, again)))
    assert all(jax.tree.leaves(jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), again, layout)))
  checkpoints.close()


@pytest.mark.slow
@pytest.mark.parametrize('name', ['digits_flow', 'cifar10_flow'])
def test_remat_saves_memory_and_changes_nothing(name):
  objective, _ = objects(name)
  again, _ = objects(name)
  again = dataclasses.replace(again, network=again.network.clone(remat=True))
  batch = example_batch(example_of(config_of(name)), 8)
  params = jax.jit(objective.init)(jax.random.key(0), batch).params
  params = jax.tree.map(lambda x: x + 0.05 * jax.random.normal(jax.random.key(1), x.shape), params)
  context, keys = Context(jnp.zeros((), int), {}, {}), rng.image_keys(jax.random.key(2), batch.index)
  grads, kept = [], []
  for version in (objective, again):
    loss = lambda p, v=version: v.loss(p, context, batch, keys)[0]  # noqa: E731
    grads.append(jax.jit(jax.grad(loss))(params))
    backward = jax.eval_shape(lambda p, loss=loss: jax.vjp(loss, p)[1], params)  # holds what is kept for it
    kept.append(sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(backward)))
  assert_close(*grads, 1e-5)
  assert kept[1] < 0.5 * kept[0], kept


@pytest.mark.slow
def test_batch_normalization_is_the_exception_under_pmap_and_accumulation():
  # Over a mesh the compiler normalizes with the whole batch; pmap and microbatches with their part of it.
  objective, _ = objects('fashion_mnist_gan')
  optimizers = {player: optax.sgd(0.1) for player in objective.players}
  batch = batch_of(jax.random.uniform(jax.random.key(1), (8, 28, 28, 1)))
  state = jax.jit(functools.partial(init_state, objective, optimizers))(jax.random.key(0), batch)
  step, turn = step_of(objective, optimizers), turn_at(objective, 0)[:1]
  assert [name for name, _ in turn] == ['discriminator']
  one, _ = jax.jit(functools.partial(step, turn=turn))(state, batch, jax.random.key(3))
  mesh = make_mesh()
  key = jax.device_put(jax.random.key(3), replicated(mesh))
  split = jax.device_put(batch, jax.NamedSharding(mesh, jax.P('data')))

  def largest_difference(other):
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), one.params, other.params)))

  for strategy in ('jit', 'pmap'):
    everywhere = jax.device_put(jax.tree.map(jnp.copy, state), replicated(mesh))
    other, _ = compile_step(step, mesh, strategy)(everywhere, split, key, turn)
    assert (largest_difference(other) < 1e-5) == (strategy == 'jit')
    assert {len(x.sharding.device_set) for x in jax.tree.leaves(other.buffers)} == {8}
  other, _ = jax.jit(functools.partial(step, turn=turn, accumulate=2))(state, batch, jax.random.key(3))
  assert largest_difference(other) > 1e-5


_SLOW = ('digits_gan', 'fashion_mnist_gan', 'digits_flow', 'cifar10_flow')
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in _SLOW]


@pytest.mark.parametrize('name', ['digits_vae', *SLOW])
def test_data_parallelism_moves_one_gradient_and_fsdp_holds_its_part(name):
  objective, optimizers = objects(name, small=name == 'cifar10_flow')
  example = example_of(config_of(name))
  one = measure(objective, optimizers, example, 16, 1, 'jit')
  assert one['moved_bytes'] == {}
  # A discriminator with batch statistics sees real and generated images one after the other. The CPU's compiler reduces its
  # two gradients before it adds them; the GPU's has a pass that adds first (docs/devices.md). Statistics are moved too.
  variables = jax.eval_shape(lambda: objective.init(jax.random.key(0), example_batch(example)))
  normalized = 'discriminator' in variables.buffers
  twice = normalized * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(variables.params.get('discriminator', {})))
  statistics = 16 * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(variables.buffers))
  for strategy in ('jit', 'fsdp'):
    eight = measure(objective, optimizers, example, 16, 8, strategy)
    reduced = eight['moved_bytes']['all-reduce'] + eight['moved_bytes'].get('reduce-scatter', 0)
    scalars = 64 + 4 * len(jax.tree.leaves(variables.params))  # to log; of each array its part of the norm
    assert reduced <= eight['gradient_bytes'] + twice + statistics + scalars
    if strategy == 'jit':
      assert set(eight['moved_bytes']) == {'all-reduce'}
      assert reduced >= eight['gradient_bytes']
      assert eight['state_bytes_per_device'] == one['state_bytes_per_device']
    else:
      assert 0 < eight['moved_bytes']['all-gather'] <= len(objective.players) * (eight['gradient_bytes'] + twice)
      assert eight['state_bytes_per_device'] < 0.4 * one['state_bytes_per_device']
