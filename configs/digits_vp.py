"""Diffusion in continuous time (VP, Song et al. 2011.13456) on digits: configs/digits_flow.py, x_0 predicted, min-SNR weights.

Weights of Hang et al. (2303.09556).

python train.py --config configs/digits_vp.py

Measured 2026-11-27 on 2 CPU cores of a shared machine (Python 3.12, jax 0.12.0.1, commit c325ccc): 2.3 minutes;
FID 0.81 of 10,000 samples (`python evaluate.py --run runs/digits_vp`, card in docs/comparison/diffusion/). Grid:
docs/gallery/.
"""

from configs import digits_flow
from genjax.build import spec


def get_config():
  config = digits_flow.get_config()
  config.objective.path = spec('samplers.paths.VPLinear')
  config.objective.parameterization = spec('objectives.diffusion.parameterizations.X0')
  config.objective.times = spec('objectives.diffusion.times.Uniform')
  config.objective.weighting = spec('objectives.diffusion.weightings.MinSNR')
  config.objective.sampler = spec('samplers.sampler.Sampler', solver='dpmpp_2m', steps=20, timesteps='log_snr')
  return config
