"""EDM (Karras et al. 2206.00364) on digits: configs/digits_flow.py with its noise levels and preconditioning.

Not yet reproduced.

python train.py --config configs/digits_edm.py
"""

from configs import digits_flow
from genjax.build import spec


def get_config():
  config = digits_flow.get_config()
  config.objective.path = spec('samplers.paths.EDM')
  config.objective.prediction = spec('objectives.predictions.Karras', sigma_data=0.75)  # of these images
  config.objective.times = spec('objectives.times.LogNormal')
  return config
