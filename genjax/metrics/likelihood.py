"""Mean likelihood of a data set under a model, over the whole mesh."""

import math

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from genjax import rng
from genjax.data.pipeline import epoch_order
from genjax.data.sources.base import Source
from genjax.errors import UsageError
from genjax.images import to_float
from genjax.parallel import batch_sharding, replicated
from genjax.types import Batch, Objective, Variables


def likelihood(
  objective: Objective,
  variables: Variables,
  source: Source,
  mesh: Mesh,
  images: int = 0,
  estimator: str = '',  # '': the objective's first
  batch_size: int = 256,
) -> dict[str, float]:
  """Mean negative log-likelihood of the first `images` (0: all) of `source`, in an order that depends only on its size.

  The 95 % confidence interval is over images; it does not include the variation between trainings.

  Raises:
    UsageError: the likelihood is not finite.
  """
  rows = epoch_order(0, 0, len(source))[: images or None]
  batch_size = -(-min(batch_size, len(rows)) // mesh.size) * mesh.size
  everywhere, split = replicated(mesh), batch_sharding(mesh)

  def nll(variables, images, cond, index, row):
    batch = Batch(to_float(images), cond, index, row)
    return objective.nll(variables, batch, rng.image_keys(rng.key(0), index), estimator or next(iter(objective.estimators)))

  nll = jax.jit(nll, in_shardings=(everywhere, split, split, split, split))
  variables, blocks = jax.device_put(variables, everywhere), []
  for start in tqdm(range(0, len(rows), batch_size), 'likelihood', delay=10, leave=False, disable=None):
    index = np.arange(start, start + batch_size, dtype=np.int32)
    row = rows[np.minimum(index, len(rows) - 1)]
    images, cond = source.read(row)
    blocks.append(np.asarray(nll(variables, images, cond, index, row.astype(np.int32)), np.float64)[: len(rows) - start])
  each = np.concatenate(blocks)
  nats, half = float(each.mean()), float(1.96 * each.std() / math.sqrt(len(each)))
  if not math.isfinite(nats):
    raise UsageError('the likelihood of some test images is not finite: evaluate without it, with --likelihood 0.')
  bits = nats / math.prod(source.image_shape) / math.log(2)
  return {'nll_nats': nats, 'nll_low': nats - half, 'nll_high': nats + half, 'bits_per_dim': bits}
