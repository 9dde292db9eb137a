"""Where things run: the mesh, who holds what, and the compiled step.

One program under every strategy: 'jit' lets the compiler split a global program over the mesh, 'pmap' runs the step on
each device's part of the batch and averages. Both take and return the same arrays: state replicated, batch split.
"""

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from genjax.errors import UsageError
from genjax.types import Tree

STRATEGIES = ('jit', 'pmap')


def make_mesh(devices: list | None = None) -> Mesh:
  """A one-dimensional mesh, axis 'data', over `devices` (default: all)."""
  return Mesh(np.array(devices or jax.devices()), ('data',))


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec('data'))


def put_everywhere(arrays: Tree, mesh: Mesh) -> Tree:
  """Arrays and keys that each process has, replicated over the mesh; `device_put` refuses keys where hosts are several."""

  def put(x):
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      wrap = functools.partial(jax.random.wrap_key_data, impl=jax.random.key_impl(x))
      return jax.jit(wrap, out_shardings=replicated(mesh))(np.asarray(jax.random.key_data(x)))
    return jax.make_array_from_callback(x.shape, replicated(mesh), lambda index: x[index])

  return jax.tree.map(put, arrays)


def use_compilation_cache() -> None:
  """Keep compiled programs on disk, so that only the first run of a config compiles. JAX's own variable overrides."""
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    cache = Path(os.environ.get('XDG_CACHE_HOME', '~/.cache')).expanduser() / 'genjax' / 'xla'
    jax.config.update('jax_compilation_cache_dir', str(cache))


class CompiledStep:
  """`step(state, batch, key, playing)`: the step compiled once for each set of players; the state is donated.

  `compile_seconds` is the time that this took so far.
  """

  def __init__(self, step: Callable, mesh: Mesh, strategy: str):
    self.step, self.mesh, self.strategy = step, mesh, strategy
    self.compiled: dict[tuple[str, ...], Callable] = {}
    self.compile_seconds = 0.0

  def transformed(self, playing: tuple[str, ...]) -> Callable:
    """The jitted or pmapped step for these players, not yet compiled."""
    step = functools.partial(self.step, playing=playing)
    if self.strategy == 'jit':
      everywhere = replicated(self.mesh)
      shardings = (everywhere, batch_sharding(self.mesh), everywhere)
      return jax.jit(step, in_shardings=shardings, out_shardings=everywhere, donate_argnums=0)
    step = jax.pmap(
      functools.partial(step, axis_name='data'),
      axis_name='data',
      in_axes=(None, 0, None),
      out_axes=None,
      devices=list(self.mesh.devices.flat),
      donate_argnums=0,
    )
    return lambda state, batch, key: step(state, self.stacked(batch), key)

  def stacked(self, batch: Tree) -> Tree:
    """[B, ...] -> [devices, B / devices, ...], as pmap wants it."""
    return jax.tree.map(lambda x: x.reshape(self.mesh.size, -1, *x.shape[1:]), batch)

  def __call__(self, state: Tree, batch: Tree, key: jax.Array, playing: tuple[str, ...]):
    first = playing not in self.compiled
    if first:
      self.compiled[playing] = self.transformed(playing)
    start = time.perf_counter()
    result = self.compiled[playing](state, batch, key)
    if first:  # this call traced and compiled; running it goes on in the background
      self.compile_seconds += time.perf_counter() - start
    return result


def compile_step(step: Callable, mesh: Mesh, strategy: str = 'jit') -> CompiledStep:
  """`step` is `genjax.step.train_step` with its keyword arguments bound but `playing` and `axis_name`.

  Raises:
    UsageError: an unknown strategy.
  """
  if strategy not in STRATEGIES:
    raise UsageError(f'train.strategy={strategy!r}: give one of {", ".join(STRATEGIES)}.')
  return CompiledStep(step, mesh, strategy)
