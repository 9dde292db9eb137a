from forked.configs import common

from genjax.build import spec


def get_config():
  config = common.gan()
  config.train.average = spec('forked.average.Mean')
  return config
