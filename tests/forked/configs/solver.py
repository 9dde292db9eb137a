from forked.configs import common

from genjax.build import spec


def get_config():
  config = common.flow()
  config.objective.sampler = spec('samplers.sampler.Sampler', solver=spec('forked.solver.Damped', fraction=0.9), steps=4)
  return config
