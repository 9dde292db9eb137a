"""Parallelism: the mesh, shardings, and the compiled step.

All strategies run the same step. With 'jit' the compiler partitions it over the mesh: the batch is sharded, and the state is
replicated. 'fsdp' also shards the state (parameters, optimizer states, averages), so that its memory per device falls with
the number of devices; parameters are gathered for the loss, and gradients are scattered after it. 'pmap' runs the step on
each device's part of the batch and averages the results.
"""

import functools
import hashlib
import math
import os
import time
from collections.abc import Callable, Hashable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from genjax.errors import UsageError
from genjax.types import Tree

STRATEGIES = ('jit', 'fsdp', 'pmap')
HEARTBEAT = 30  # seconds without a heartbeat after which a process counts as dead
NOTHING = FrozenDict()  # no frozen variables
SMALL = 1024  # arrays with fewer elements are not split


def initialize_distributed(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
  """Connects the processes of a run on several hosts; does nothing for a single process. Call it before using any device.

  Args:
    coordinator: host:port of process 0; 'auto' where JAX detects it (Cloud TPU, Slurm, Kubernetes, MPI).
    num_processes: the number of processes.
    process_id: the index of this process, from 0.

  Arguments that are None are read from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. If a process dies, the
  others exit within HEARTBEAT seconds and name its index. If a process never connects, they exit after 300 seconds.

  Raises:
    UsageError: the arguments are inconsistent, or the processes cannot connect.
  """
  coordinator = os.environ.get('JAX_COORDINATOR_ADDRESS', '') if coordinator is None else coordinator
  num_processes = whole_number('JAX_NUM_PROCESSES', 0) if num_processes is None else num_processes
  process_id = whole_number('JAX_PROCESS_ID', -1) if process_id is None else process_id
  if not coordinator:
    if num_processes > 1 or process_id > 0:
      raise UsageError(f'--num_processes={num_processes} and --process_id={process_id} need --coordinator=HOST:PORT.')
    return
  auto = coordinator == 'auto'
  if not auto and (num_processes < 1 or not 0 <= process_id < num_processes):
    raise UsageError(
      f'--coordinator={coordinator} needs --num_processes (here {num_processes}) and --process_id from 0 (here {process_id}).'
    )
  address = {} if auto else {'coordinator_address': coordinator, 'num_processes': num_processes, 'process_id': process_id}
  try:
    jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT, initialization_timeout=300, **address)
  except (ValueError, RuntimeError) as error:
    raise UsageError(f'--coordinator={coordinator}: the processes could not connect ({error}).') from None


def whole_number(variable: str, default: int) -> int:
  """An integer environment variable. Raises UsageError if it is not an integer."""
  text = os.environ.get(variable, '')
  try:
    return int(text) if text else default
  except ValueError:
    raise UsageError(f'{variable}={text!r} is not an integer: set it to one, or unset it.') from None


def refuse_differences(text: str, error: str) -> None:
  """Raises UsageError(error) on every process if `text` is not the same on all."""
  if jax.process_count() > 1:
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint32)
    digests = multihost_utils.process_allgather(digest)
    if (digests != digests[:1]).any():
      raise UsageError(error)


def any_process(flag: bool) -> bool:
  """Whether `flag` is true on any process. All processes must call it."""
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.array(flag)).any())


def wait_for_all(name: str) -> None:
  """Waits until all processes have called this function."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def make_mesh(devices: list | None = None) -> Mesh:
  """A one-dimensional mesh, axis 'data', over `devices` (default: all)."""
  return Mesh(np.array(devices or jax.devices()), ('data',))


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec('data'))


def split_sharding(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
  """The sharding of an array with 'fsdp': along its largest dimension that is divisible by the number of devices.

  Of several such dimensions of equal size, the last is split. Arrays without one, and arrays with fewer than SMALL elements,
  are replicated.
  """
  axes = [axis for axis, size in enumerate(shape) if size % mesh.size == 0]
  if math.prod(shape) < SMALL or not axes:
    return replicated(mesh)
  axis = max(axes, key=lambda axis: (shape[axis], axis))
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, 'data'))


def state_sharding(like: Tree, mesh: Mesh, strategy: str) -> Tree:
  """The sharding of each array of a state with shapes `like`."""
  return jax.tree.map(lambda x: split_sharding(x.shape, mesh) if strategy == 'fsdp' else replicated(mesh), like)


def gatherer(mesh: Mesh) -> Callable[[Tree], Tree]:
  """Returns a function that gathers sharded arrays. Their gradients are sharded, so that no device accumulates all of them."""

  @jax.custom_vjp
  def gather(x):
    return jax.lax.with_sharding_constraint(x, replicated(mesh))

  gather.defvjp(
    lambda x: (gather(x), None),
    lambda _, grad: (jax.lax.with_sharding_constraint(grad, split_sharding(grad.shape, mesh)),),
  )
  return functools.partial(jax.tree.map, gather)


def replicate(arrays: Tree, mesh: Mesh) -> Tree:
  """Replicates arrays and keys, which each process has, over the mesh. `device_put` does not accept keys on several hosts."""

  def put(x):
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      wrap = functools.partial(jax.random.wrap_key_data, impl=jax.random.key_impl(x))
      return jax.jit(wrap, out_shardings=replicated(mesh))(np.asarray(jax.random.key_data(x)))
    return jax.make_array_from_callback(x.shape, replicated(mesh), lambda index: x[index])

  return jax.tree.map(put, arrays)


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
  """Raises UsageError, naming the nearest valid sizes, unless the batch divides evenly into microbatches and devices."""
  parts = mesh.size * accumulate
  if batch_size < 1 or batch_size % parts:
    below = batch_size // parts * parts
    near = f'{below} or {below + parts}' if below > 0 else parts
    times = f' times train.accumulate={accumulate}' if accumulate > 1 else ''
    raise UsageError(
      f'train.batch_size={batch_size} must be a multiple of {parts} ({mesh.size} devices{times}): the nearest is {near}.'
    )


def use_compilation_cache() -> None:
  """Caches compiled programs on disk, so that only the first run of a config compiles. JAX_COMPILATION_CACHE_DIR overrides."""
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    cache = Path(os.environ.get('XDG_CACHE_HOME', '~/.cache')).expanduser() / 'genjax' / 'xla'
    jax.config.update('jax_compilation_cache_dir', str(cache))


class CompiledStep:
  """`step(state, batch, key, turn)`: the step compiled once for each turn; the state is donated.

  `compile_seconds` is the total compilation time so far.
  """

  def __init__(self, step: Callable, mesh: Mesh, strategy: str, frozen: Tree):
    self.step, self.mesh, self.strategy = step, mesh, strategy
    self.frozen = jax.device_put(frozen, state_sharding(frozen, mesh, strategy)) if frozen else frozen
    self.compiled: dict[Hashable, Callable] = {}
    self.compile_seconds = 0.0

  def transformed(self, state: Tree, turn: Hashable) -> Callable:
    """The jitted or pmapped step for a turn and a state of this layout, not yet compiled."""
    step = functools.partial(self.step, turn=turn)
    if self.strategy != 'pmap':
      if self.strategy == 'fsdp':
        step = functools.partial(step, gather=gatherer(self.mesh))
      layout, frozen = (jax.tree.map(lambda x: x.sharding, tree) for tree in (state, self.frozen))
      shardings = (layout, batch_sharding(self.mesh), replicated(self.mesh), frozen)
      return jax.jit(step, in_shardings=shardings, out_shardings=(layout, replicated(self.mesh)), donate_argnums=0)
    step = jax.pmap(
      functools.partial(step, axis_name='data'),
      axis_name='data',
      in_axes=(None, 0, None, None),
      out_axes=None,
      devices=list(self.mesh.devices.flat),
      donate_argnums=0,
    )
    return lambda state, batch, key, frozen: self.on_all_hosts(step(state, self.on_this_host(batch), key, frozen))

  def on_this_host(self, batch: Tree) -> Tree:
    """A global batch [B, ...] -> this host's part of it, [local devices, B / devices, ...], as pmap expects it."""
    local_mesh = Mesh(
      np.array([device for device in self.mesh.devices.flat if device.process_index == jax.process_index()]), ('data',)
    )

    def stack(x):
      rows = [shard.data[None] for shard in sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)]
      return jax.make_array_from_single_device_arrays((len(rows), *rows[0].shape[1:]), batch_sharding(local_mesh), rows)

    return jax.tree.map(stack, batch)

  def on_all_hosts(self, tree: Tree) -> Tree:
    """Arrays that pmap replicated over this host's devices -> the same arrays, replicated over the devices of all hosts."""
    join = lambda x: jax.make_array_from_single_device_arrays(  # noqa: E731
      x.shape, replicated(self.mesh), [shard.data for shard in x.addressable_shards]
    )
    return jax.tree.map(join, tree) if jax.process_count() > 1 else tree

  def __call__(self, state: Tree, batch: Tree, key: jax.Array, turn: Hashable):
    first = turn not in self.compiled
    if first:
      self.compiled[turn] = self.transformed(state, turn)
    start = time.perf_counter()
    result = self.compiled[turn](state, batch, key, self.frozen)
    if first:  # this call traced and compiled the step; its execution is asynchronous
      self.compile_seconds += time.perf_counter() - start
    return result


def compile_step(step: Callable, mesh: Mesh, strategy: str = 'jit', frozen: Tree = NOTHING) -> CompiledStep:
  """Compiles a training step for a strategy.

  Args:
    step: `genjax.step.train_step` with all keyword arguments bound except `turn`, `gather` and `axis_name`. Its state must
      have the layout of `state_sharding`, and keeps it.
    mesh: the devices.
    strategy: one of STRATEGIES.
    frozen: variables of other runs, passed to the step.

  Raises:
    UsageError: an unknown strategy.
  """
  if strategy not in STRATEGIES:
    raise UsageError(f'train.strategy={strategy!r} must be one of {", ".join(STRATEGIES)}.')
  return CompiledStep(step, mesh, strategy, frozen)
