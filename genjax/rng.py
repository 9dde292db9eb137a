"""One key per image.

Example i of step t draws all of its noise, time, dropout and augmentation from fold_in(fold_in(root, t), i), with i its
place in the GLOBAL batch. What an image gets therefore depends neither on the batch it travels in nor on the number of
devices, hosts or microbatches. Keys are typed key arrays of shape [B].
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


def image_keys(key: Key[Array, ''], index: Int[Array, 'b']) -> Key[Array, 'b']:
  """Keys of the images at the places `index` of a batch, e.g. `jnp.arange(n)` for n samples."""
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def fold_in(keys: Key[Array, 'b'], data: int) -> Key[Array, 'b']:
  """One independent stream per value of `data`, for each image."""
  return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, data)


def split(keys: Key[Array, 'b'], num: int) -> tuple[Key[Array, 'b'], ...]:
  """`num` independent streams for each image."""
  pairs = jax.vmap(lambda key: jax.random.split(key, num))(keys)  # [B, num]
  return tuple(pairs[:, i] for i in range(num))


def normal(keys: Key[Array, 'b'], shape: tuple[int, ...], dtype=jnp.float32) -> Float[Array, 'b ...']:
  """Standard normal noise [B, *shape]."""
  return jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)


def uniform(
  keys: Key[Array, 'b'], shape: tuple[int, ...] = (), minval: float = 0.0, maxval: float = 1.0
) -> Float[Array, 'b ...']:
  """Uniform noise in [minval, maxval), [B, *shape]."""
  return jax.vmap(lambda key: jax.random.uniform(key, shape, minval=minval, maxval=maxval))(keys)


def bernoulli(keys: Key[Array, 'b'], p: float, shape: tuple[int, ...] = ()) -> Bool[Array, 'b ...']:
  """True with probability p, [B, *shape]."""
  return jax.vmap(lambda key: jax.random.bernoulli(key, p, shape))(keys)


def labels(keys: Key[Array, 'b'], num_classes: int) -> Int[Array, 'b']:
  """Uniform labels in [0, num_classes), one per image."""
  return jax.vmap(lambda key: jax.random.randint(key, (), 0, num_classes))(keys)
