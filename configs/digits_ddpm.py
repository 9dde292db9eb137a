"""DDPM (Ho et al. 2006.11239) on digits: configs/digits_flow.py with its noise levels and eps. Not yet reproduced.

python train.py --config configs/digits_ddpm.py
"""

from configs import digits_flow
from genjax.build import spec


def get_config():
  config = digits_flow.get_config()
  config.objective.path = spec('samplers.paths.DiscreteLinear')
  config.objective.prediction = spec('objectives.predictions.Eps')
  config.objective.times = spec('objectives.times.Discrete')
  config.objective.sampler = spec('samplers.sampler.Sampler', solver='ancestral', steps=100, clip_denoised=True)
  return config
