from forked.configs import common

from configs.common import base
from genjax.build import spec


def get_config():
  config = common.short(base(steps=3, batch_size=8))
  config.data.source = spec('forked.pairs.Pairs', size=150)
  config.objective = spec(
    'forked.translation.Translation',
    network=spec('forked.translation.Mapper'),
    conditioner=spec('forked.source_image.SourceImage'),
  )
  config.optim = {'model': spec('optax.lion', learning_rate=1e-3)}
  return config
