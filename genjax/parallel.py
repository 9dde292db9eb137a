"""Parallelism: the mesh, shardings, and the compiled step.

One program under every strategy. 'jit' lets the compiler split a global program over the mesh: the batch is split, the state
whole on every device. 'fsdp' does the same and splits the state too (parameters, optimizer states, averages), so that its
memory per device falls with their number; parameters are gathered for the loss, gradients scattered after it. 'pmap' runs
the step on each device's part of the batch and averages.
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
HEARTBEAT = 30  # seconds without a sign of life after which a process counts as dead
NOTHING = FrozenDict()  # frozen
SMALL = 1024  # elements of arrays that are not worth splitting


def initialize_distributed(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
  """Joins the processes of a run on several hosts; nothing to do for one. Call it before anything asks for devices.

  Args:
    coordinator: host:port of process 0; 'auto' where JAX finds it out itself (Cloud TPU, Slurm, Kubernetes, MPI).
    num_processes: how many there are.
    process_id: this one's number, from 0.

  What is None is taken from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. When a process dies, the others
  end too, within HEARTBEAT seconds and with its number in the message; when one never comes, after 300 seconds.

  Raises:
    UsageError: the three do not fit together, or the processes do not find each other.
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
  where = {} if auto else {'coordinator_address': coordinator, 'num_processes': num_processes, 'process_id': process_id}
  try:
    jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT, initialization_timeout=300, **where)
  except (ValueError, RuntimeError) as error:
    raise UsageError(f'--coordinator={coordinator}: the processes did not find each other ({error}).') from None


def whole_number(variable: str, default: int) -> int:
  """An integer environment variable. Raises UsageError if it is not an integer."""
  text = os.environ.get(variable, '')
  try:
    return int(text) if text else default
  except ValueError:
    raise UsageError(f'{variable}={text!r} is not a whole number: set it to one, or unset it.') from None


def refuse_differences(text: str, error: str) -> None:
  """Raises UsageError(error) on every process if `text` is not the same on all."""
  if jax.process_count() > 1:
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint32)
    found = multihost_utils.process_allgather(digest)
    if (found != found[:1]).any():
      raise UsageError(error)


def any_process(flag: bool) -> bool:
  """Whether `flag` is true on any process; all must call it."""
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.array(flag)).any())


def wait_for_all(name: str) -> None:
  """Goes on when every process has come here."""
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
  """The rule of 'fsdp': an array is split along its largest dimension that the number of devices divides, the last of equals.

  Arrays without such a dimension, and those below SMALL elements, are whole on every device.
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
  """Split arrays -> whole ones; their gradients come back split, so that no device adds up all of them."""

  @jax.custom_vjp
  def gather(x):
    return jax.lax.with_sharding_constraint(x, replicated(mesh))

  gather.defvjp(
    lambda x: (gather(x), None),
    lambda _, grad: (jax.lax.with_sharding_constraint(grad, split_sharding(grad.shape, mesh)),),
  )
  return functools.partial(jax.tree.map, gather)


def replicate(arrays: Tree, mesh: Mesh) -> Tree:
  """Arrays and keys that each process has, replicated over the mesh; `device_put` refuses keys where hosts are several."""

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
  """Keep compiled programs on disk, so that only the first run of a config compiles. JAX's own variable overrides."""
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    cache = Path(os.environ.get('XDG_CACHE_HOME', '~/.cache')).expanduser() / 'genjax' / 'xla'
    jax.config.update('jax_compilation_cache_dir', str(cache))


class CompiledStep:
  """`step(state, batch, key, turn)`: the step compiled once for each turn; the state is donated.

  `compile_seconds` is the time that this took so far.
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
      layout, everywhere = jax.tree.map(lambda x: x.sharding, state), replicated(self.mesh)
      frozen = jax.tree.map(lambda x: x.sharding, self.frozen)
      shardings = (layout, batch_sharding(self.mesh), everywhere, frozen)
      return jax.jit(step, in_shardings=shardings, out_shardings=(layout, everywhere), donate_argnums=0)
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
    """[B, ...] over all hosts -> [devices, B / all devices, ...] of this one, as pmap wants it."""
    here = Mesh(
      np.array([device for device in self.mesh.devices.flat if device.process_index == jax.process_index()]), ('data',)
    )

    def stack(x):
      rows = [shard.data[None] for shard in sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)]
      return jax.make_array_from_single_device_arrays((len(rows), *rows[0].shape[1:]), batch_sharding(here), rows)

    return jax.tree.map(stack, batch)

  def on_all_hosts(self, tree: Tree) -> Tree:
    """Arrays that pmap returned, whole on each of this host's devices -> the same, whole on every host's."""
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
    if first:  # this call traced and compiled; running it goes on in the background
      self.compile_seconds += time.perf_counter() - start
    return result


def compile_step(step: Callable, mesh: Mesh, strategy: str = 'jit', frozen: Tree = NOTHING) -> CompiledStep:
  """`step` is `genjax.step.train_step` with its keyword arguments bound but `turn`, `gather` and `axis_name`.

  The state it is given must lie as `state_sharding` says, and keeps its layout. `frozen` are variables of other runs, arguments
  of the step.

  Raises:
    UsageError: an unknown strategy.
  """
  if strategy not in STRATEGIES:
    raise UsageError(f'train.strategy={strategy!r} must be one of {", ".join(STRATEGIES)}.')
  return CompiledStep(step, mesh, strategy, frozen)
