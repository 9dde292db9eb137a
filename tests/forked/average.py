"""An average of parameters: the mean over all steps."""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Mean:
  def init(self, params):
    return params

  def update(self, average, params, step, batch_size):
    return jax.tree.map(lambda mean, new: mean + (new - mean) / (step + 1), average, params)

  def select(self, average):
    return average
