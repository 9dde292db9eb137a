"""Score matching with exploding variance (Song et al. 2011.13456) on digits: configs/digits_flow.py, its VE path and eps.

Sampled by predictor and Langevin corrector. Not yet reproduced.

python train.py --config configs/digits_ve.py
"""

from configs import digits_flow
from genjax.build import spec


def get_config():
  config = digits_flow.get_config()
  config.objective.path = spec('samplers.paths.VE')
  config.objective.prediction = spec('objectives.predictions.Eps')
  config.objective.times = spec('objectives.times.Uniform')
  config.objective.sampler = spec('samplers.sampler.Sampler', solver='langevin', steps=100)
  return config
