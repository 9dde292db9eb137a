"""Improved DDPM (Nichol & Dhariwal 2102.09672) on digits: configs/digits_flow.py, cosine steps, eps and learned variance.

python train.py --config configs/digits_iddpm.py
python evaluate.py --run runs/digits_iddpm --likelihood 297

Measured 2026-11-22 on 2 CPU cores (Python 3.12, jax 0.12.0.1, commit 20e43ac): 1.6 minutes. Trained again 2026-11-29
(commit 98d0618): loss over the last 100 steps 0.137. Grid: docs/gallery/. FID: not measured.
"""

from configs import digits_flow
from genjax.build import spec


def get_config():
  config = digits_flow.get_config()
  config.objective = spec(
    'objectives.diffusion.learned_variance.LearnedVariance',
    conditioner=spec('conditioners.ClassLabel'),
    path=spec('samplers.paths.DiscreteCosine'),
    prediction=spec('objectives.diffusion.parameterizations.Eps'),
    times=spec('objectives.diffusion.times.Discrete'),
    sampler=spec('samplers.sampler.Sampler', solver='ancestral', steps=100, clip_denoised=True),
    network=config.objective.network.to_dict() | {'outputs': 2},
  )
  return config
