"""Score matching with exploding variance (Song et al. 2011.13456) on digits: configs/digits_flow.py, its VE path and eps.

Sampled by predictor and Langevin corrector.

python train.py --config configs/digits_ve.py

Measured 2026-11-22 on 2 CPU cores (Python 3.12, jax 0.12.0.1, commit e5755cb): 1.7 minutes.
Grid: docs/gallery/. FID: not measured.
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
