"""EDM (Karras et al. 2206.00364) on digits: configs/digits_flow.py with its noise levels and preconditioning.

python train.py --config configs/digits_edm.py

Measured 2026-11-22 on 2 CPU cores (Python 3.12, jax 0.12.0.1, commit e5755cb): 1.4 minutes;
FID 0.87 of 2,000 samples (a quick estimate by the classifier). Grid: docs/gallery/.
"""

from configs import digits_flow
from genjax.build import spec


def get_config():
  config = digits_flow.get_config()
  config.objective.path = spec('samplers.paths.EDM')
  config.objective.prediction = spec('objectives.predictions.Karras', sigma_data=0.75)  # of these images
  config.objective.times = spec('objectives.times.LogNormal')
  return config
