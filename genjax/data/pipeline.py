"""Batches as a pure function of (seed, step): there is no iterator state to save or restore.

The images are permuted anew in each epoch. Batches continue across epochs, so that each image is used once per epoch for any
batch size. Data sets in memory are copied to the devices once, as uint8, and indexed there; threads read larger ones a few
steps ahead. Both return the same batches.
"""

import functools
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int64

from genjax import rng
from genjax.data.sources.base import Arrays, Source
from genjax.data.transforms import Transform
from genjax.images import to_float
from genjax.parallel import batch_sharding, check_batch_size, replicate
from genjax.types import Batch, Tree


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, size: int) -> Int64[np.ndarray, 'n']:
  """A permutation of range(size), from the raw bits of Philox, which do not change between versions of NumPy (NEP 19)."""
  bits = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(size)
  return np.argsort(bits, kind='stable')


def batch_rows(seed: int, step: int, batch_size: int, size: int) -> Int64[np.ndarray, 'b']:
  """The images in the batch of `step`, as indices into a data set of `size` images."""
  epochs, places = np.divmod(step * batch_size + np.arange(batch_size), size)
  return np.concatenate([epoch_order(seed, int(e), size)[places[epochs == e]] for e in np.unique(epochs)])


def finish(images, cond, index, rows, key, step, transforms: Sequence[Transform] = ()) -> Batch:
  """Converts uint8 images and their conditions to a transformed Batch, with the keys of stream 0 (genjax/step.py)."""
  batch = Batch(to_float(images), cond, index, rows)
  keys = rng.fold_in(rng.image_keys(jax.random.fold_in(key, step), index), 0)
  for i, transform in enumerate(transforms):
    batch = transform(batch, rng.fold_in(keys, i) if i else keys)
  return batch


class Pipeline:
  """`pipeline(step)` is the batch of that step, sharded over the mesh; each process reads only its part.

  Args:
    source: the data source.
    batch_size: images per step over all devices.
    key: the root key of the run, for augmentation.
    seed: seed of the order of the images.
    transforms: applied on the device in this order (genjax/data/transforms.py).

  Raises:
    UsageError: the batch size is not divisible by the number of devices.
  """

  def __init__(
    self,
    source: Source,
    batch_size: int,
    key: jax.Array,
    seed: int,
    mesh: Mesh,
    transforms: Sequence[Transform] = (),
    ahead: int = 3,
  ):
    check_batch_size(batch_size, mesh)
    self.source, self.batch_size, self.seed, self.ahead = source, batch_size, seed, ahead
    self.key = replicate(key, mesh)
    self.sharding = batch_sharding(mesh)
    parts = self.sharding.addressable_devices_indices_map((batch_size,)).values()
    self.mine = np.concatenate(sorted((np.arange(batch_size)[p] for p in parts), key=lambda part: part[0]))
    self.index = self.put(self.mine.astype(np.int32))
    finish_jit = functools.partial(jax.jit, out_shardings=self.sharding)
    self.resident = isinstance(source, Arrays)
    if self.resident:
      self.arrays = replicate((source.images, dict(source.cond)), mesh)

      def take(arrays, rows, index, key, step):
        images, cond = jax.tree.map(lambda x: x[rows], arrays)
        return finish(images, cond, index, rows, key, step, transforms)

      self.take = finish_jit(take)
    else:
      self.finish = finish_jit(functools.partial(finish, transforms=transforms))
      self.pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
      self.pending: dict[int, Future] = {}

  def put(self, local: Tree) -> Tree:
    """Converts arrays of the local part of a batch to arrays of the whole batch over the mesh."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self.sharding, x), local)

  def rows(self, step: int) -> np.ndarray:
    return batch_rows(self.seed, step, self.batch_size, len(self.source))

  def __call__(self, step: int) -> Batch:
    if self.resident:  # every device has all images and selects its rows
      return self.take(self.arrays, self.rows(step).astype(np.int32), self.index, self.key, np.int32(step))
    for soon in range(step, step + 1 + self.ahead):
      if soon not in self.pending:
        self.pending[soon] = self.pool.submit(self.source.read, self.rows(soon)[self.mine])
    images, cond = self.pending.pop(step).result()
    rows = self.rows(step)[self.mine].astype(np.int32)
    return self.finish(*map(self.put, (images, cond)), self.index, self.put(rows), self.key, np.int32(step))

  def close(self) -> None:
    """Stops the reading threads; batches that were already read are discarded."""
    if not self.resident:
      self.pool.shutdown(cancel_futures=True)
