"""An objective that reads a source image: it learns to map it to the image, by the mean squared error."""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn

from genjax.conditioners import complete
from genjax.types import Aux, Conditioner, Player, Variables


class Mapper(nn.Module):
  width: int = 16

  fields = ('source',)

  @nn.compact
  def __call__(self, cond):
    h = nn.relu(nn.Conv(self.width, (3, 3))(cond['source']))
    return nn.Dense(cond['source'].shape[-1])(h.reshape(len(h), *cond['source'].shape[1:3], -1))


@dataclasses.dataclass(frozen=True)
class Translation:
  network: nn.Module
  conditioner: Conditioner

  @property
  def players(self):
    return {'model': Player(self.loss)}

  def init(self, key, batch):
    return Variables({'model': self.network.init(key, self.conditioner.embed(batch.cond))['params']}, {})

  def loss(self, params, context, batch, keys):
    output = self.network.apply({'params': params['model']}, self.conditioner.embed(batch.cond))
    return jnp.square(output - batch.image).mean(), Aux({})

  def sample(self, variables, keys, cond):
    cond = self.conditioner.embed(complete(self.conditioner, cond, keys))
    return self.network.apply({'params': variables.params['model']}, cond)
