"""One key per image.

Example i of step t draws all of its noise, time, dropout and augmentation from fold_in(fold_in(root, t), i), with i its
place in the GLOBAL batch. What an image gets therefore depends neither on the batch it travels in nor on the number of
devices, hosts or microbatches. Keys are typed key arrays of shape [B].

Keys use Threefry, independently of `JAX_DEFAULT_PRNG_IMPL`. With JAX's other generators (`rbg`, `unsafe_rbg`) the values of
one key under `vmap` depend on the other keys, so an image would depend on its batch. What Threefry makes of a key depends on
`jax_threefry_partitionable`, which this module turns on, JAX's default, whatever `JAX_THREEFRY_PARTITIONABLE` says.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from genjax.errors import UsageError

IMPL = 'threefry2x32'
jax.config.update('jax_threefry_partitionable', True)


def key(seed: int) -> Key[Array, '']:
  """`jax.random.key(seed)` with the generator that genjax uses, which is also JAX's default."""
  return jax.random.key(seed, impl=IMPL)


def check_key(key: Any) -> None:
  """Raises UsageError unless `key` is a typed key of the generator that genjax uses, or an array of them.

  Also if the generator's values have been changed since genjax was imported.
  """
  if not jax.config.jax_threefry_partitionable:
    raise UsageError('jax_threefry_partitionable is off, so the same key would sample other images: leave it on.')
  if not jnp.issubdtype(getattr(key, 'dtype', type(key)), jax.dtypes.prng_key):
    seed = key if isinstance(key, int) and not isinstance(key, bool) else 0
    raise UsageError(f'key={key!r} is not a random key: use jax.random.key({seed}).')
  if (impl := str(jax.random.key_impl(key))) != IMPL:
    raise UsageError(
      f'key uses the generator {impl!r}, with which an image depends on the rest of the batch. '
      f'Use genjax.rng.key(seed), the same as jax.random.key(seed, impl={IMPL!r}).'
    )


def image_keys(key: Key[Array, ''], index: Int[Array, 'b']) -> Key[Array, 'b']:
  """Keys of the images at the places `index` of a batch, e.g. `jnp.arange(n)` for n samples.

  Raises UsageError like `check_key`.
  """
  check_key(key)
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def fold_in(keys: Key[Array, 'b'], data: int) -> Key[Array, 'b']:
  """One independent stream per value of `data`, for each image."""
  return _for_each(keys, lambda key: jax.random.fold_in(key, data))


def split(keys: Key[Array, 'b'], num: int) -> tuple[Key[Array, 'b'], ...]:
  """`num` independent streams for each image."""
  pairs = _for_each(keys, lambda key: jax.random.split(key, num))  # [B, num]
  return tuple(pairs[:, i] for i in range(num))


def normal(keys: Key[Array, 'b'], shape: tuple[int, ...], dtype=jnp.float32) -> Float[Array, 'b ...']:
  """Standard normal noise [B, *shape]."""
  return _for_each(keys, lambda key: jax.random.normal(key, shape, dtype))


def uniform(
  keys: Key[Array, 'b'], shape: tuple[int, ...] = (), minval: float = 0.0, maxval: float = 1.0
) -> Float[Array, 'b ...']:
  """Uniform noise in [minval, maxval), [B, *shape]."""
  return _for_each(keys, lambda key: jax.random.uniform(key, shape, minval=minval, maxval=maxval))


def bernoulli(keys: Key[Array, 'b'], p: float, shape: tuple[int, ...] = ()) -> Bool[Array, 'b ...']:
  """True with probability p, [B, *shape]."""
  return _for_each(keys, lambda key: jax.random.bernoulli(key, p, shape))


def labels(keys: Key[Array, 'b'], num_classes: int) -> Int[Array, 'b']:
  """Uniform labels in [0, num_classes), one per image."""
  return _for_each(keys, lambda key: jax.random.randint(key, (), 0, num_classes))


def _for_each(keys: Key[Array, 'b'], function: Callable[[Key[Array, '']], Array]) -> Array:
  """`function` of each key, [B, ...]. Raises UsageError for what `check_key` refuses."""
  check_key(keys)
  return jax.vmap(function)(keys)
