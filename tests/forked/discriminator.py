"""A discriminator: one hidden layer, and the label beside the pixels."""

import jax.numpy as jnp
from flax import linen as nn


class Small(nn.Module):
  width: int = 16
  dtype: str = 'float32'

  fields = ('label',)

  @nn.compact
  def __call__(self, x, cond, train=True):
    h = jnp.concatenate([x.reshape(len(x), -1), cond['label']], axis=1)
    return nn.Dense(1)(nn.relu(nn.Dense(self.width, dtype=self.dtype)(h)).astype(jnp.float32))[:, 0]
