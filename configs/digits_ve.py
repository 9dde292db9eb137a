"""Score matching with exploding variance (Song et al. 2011.13456) on digits: configs/digits_flow.py, its VE path and eps.

Sampled by predictor and Langevin corrector.

python train.py --config configs/digits_ve.py

Measured 2026-11-27 on 2 CPU cores of a shared machine (Python 3.12, jax 0.12.0.1, commit c325ccc): 3.7 minutes;
FID 1.5 of 2,000 samples (a quick estimate, `python evaluate.py --run runs/digits_ve --samples 2000`, card in
docs/comparison/diffusion/). Grid: docs/gallery/.
"""

from configs import digits_flow
from genjax.build import spec


def get_config():
  config = digits_flow.get_config()
  config.objective.path = spec('samplers.paths.VE')
  config.objective.parameterization = spec('objectives.diffusion.parameterizations.Eps')
  config.objective.times = spec('objectives.diffusion.times.Uniform')
  config.objective.sampler = spec('samplers.sampler.Sampler', solver='predictor_corrector', steps=100)
  return config
