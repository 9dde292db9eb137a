from forked.configs import common

from genjax.build import spec


def get_config():
  config = common.flow()
  config.objective.path = spec('forked.noise_path.Squared')
  return config
