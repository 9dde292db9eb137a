from forked.configs import common

from genjax.build import spec


def get_config():
  config = common.gan()
  config.objective.discriminator = spec('forked.discriminator.Small')
  return config
