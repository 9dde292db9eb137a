"""DDPM (Ho et al. 2006.11239) on digits: configs/digits_flow.py with its noise levels and eps.

python train.py --config configs/digits_ddpm.py

Measured 2026-11-27 on 2 CPU cores of a shared machine (Python 3.12, jax 0.12.0.1, commit c325ccc): 2.4 minutes; FID 0.84 of
10,000 samples (`python evaluate.py --run runs/digits_ddpm`, card in docs/comparison/diffusion/).
Grid: docs/gallery/.
"""

from configs import digits_flow
from genjax.build import spec


def get_config():
  config = digits_flow.get_config()
  config.objective.path = spec('samplers.paths.DiscreteLinear')
  config.objective.parameterization = spec('objectives.diffusion.parameterizations.Eps')
  config.objective.times = spec('objectives.diffusion.times.DiscreteTimes')
  config.objective.sampler = spec('samplers.sampler.Sampler', solver='ancestral', steps=100, clip_denoised=True)
  return config
