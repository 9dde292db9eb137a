"""Transforms of batches on the device: `transform(batch, keys) -> batch`, with one key per example.

A transform gets all fields of an example, so that it can change them consistently. Examples stay independent.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from genjax import rng
from genjax.types import Batch, Keys

Transform = Callable[[Batch, Keys], Batch]


@dataclasses.dataclass(frozen=True)
class Flip:
  """Flips half of the examples horizontally: the image, and every condition that is an image or a mask.

  These are conditions [B, h, w, c] of any size, and [B, H, W] of the size of the image.
  """

  def __call__(self, batch: Batch, keys: Keys) -> Batch:
    flipped = rng.bernoulli(keys, 0.5)

    def mirror(x):
      if x.ndim != 4 and x.shape[1:] != batch.image.shape[1:3]:
        return x
      return jnp.where(flipped.reshape(-1, *[1] * (x.ndim - 1)), x[:, :, ::-1], x)

    return batch._replace(image=mirror(batch.image), cond=jax.tree.map(mirror, dict(batch.cond)))
