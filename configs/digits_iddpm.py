"""Improved DDPM (Nichol & Dhariwal 2102.09672) on digits: configs/digits_flow.py, cosine steps, eps and learned variance.

python train.py --config configs/digits_iddpm.py
python evaluate.py --run runs/digits_iddpm --metrics likelihood --likelihood 297

Measured 2026-11-30 on 2 CPU cores of a shared machine (Python 3.11, jax 0.10.2, commit 71eced9): 3.6 minutes; 4.39 bits per
dimension, the bound of the 297 test images (card in docs/comparison/likelihood/). Grid: docs/gallery/. FID: not measured.
"""

from configs import digits_flow
from genjax.build import spec


def get_config():
  config = digits_flow.get_config()
  config.objective = spec(
    'objectives.diffusion.learned_variance.LearnedVariance',
    conditioner=spec('conditioners.ClassLabel'),
    path=spec('samplers.paths.DiscreteCosine'),
    parameterization=spec('objectives.diffusion.parameterizations.Eps'),
    times=spec('objectives.diffusion.times.DiscreteTimes'),
    sampler=spec('samplers.sampler.Sampler', solver='ancestral', steps=100, clip_denoised=True),
    network=config.objective.network.to_dict() | {'outputs': 2},
  )
  return config
