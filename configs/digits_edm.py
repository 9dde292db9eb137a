"""EDM (Karras et al. 2206.00364) on digits: configs/digits_flow.py with its noise levels and preconditioning.

python train.py --config configs/digits_edm.py

Measured 2026-11-28 on a CPU core of a shared machine (Python 3.12, jax 0.12.0.1, commit 0e2e764): 3.2 minutes; FID 0.52, recall
0.94 of 10,000 samples by Heun in 25 steps; 0.88 in 10; 0.53 by `--solver dpmpp_2m --steps 20` (cards in
docs/comparison/diffusion/). Grid: docs/gallery/.
"""

from configs import digits_flow
from genjax.build import spec


def get_config():
  config = digits_flow.get_config()
  config.objective.path = spec('samplers.paths.EDM')
  # The deviation is that of these images.
  config.objective.parameterization = spec('objectives.diffusion.parameterizations.EDMPrecond', sigma_data=0.75)
  config.objective.times = spec('objectives.diffusion.times.LogNormal')
  return config
