from forked.configs import common

from genjax.build import spec


def get_config():
  config = common.flow()
  config.objective.weighting = spec('forked.weighting.Constant', value=3.0)
  return config
