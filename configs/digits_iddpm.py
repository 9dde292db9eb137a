"""Improved DDPM (Nichol & Dhariwal 2102.09672) on digits: configs/digits_flow.py, cosine steps, eps and learned variance.

Not yet reproduced.

python train.py --config configs/digits_iddpm.py
"""

from configs import digits_flow
from genjax.build import spec


def get_config():
  config = digits_flow.get_config()
  config.objective = spec(
    'objectives.learned_variance.LearnedVariance',
    num_classes=10,
    path=spec('samplers.paths.DiscreteCosine'),
    prediction=spec('objectives.predictions.Eps'),
    times=spec('objectives.times.Discrete'),
    sampler=spec('samplers.sampler.Sampler', solver='ancestral', steps=100, clip_denoised=True),
    network=config.objective.network.to_dict() | {'outputs': 2},
  )
  return config
