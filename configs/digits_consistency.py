"""A consistency model by easy consistency tuning (2406.14548) on digits: the network of configs/digits_flow.py.

Measured 2026-11-22 on 2 CPU cores beside other work (Python 3.12, jax 0.12.0.1, commit 87f6d31): 4.9 minutes. Grid of one step:
docs/gallery/. FID: not measured.

python train.py --config configs/digits_consistency.py
"""

from configs import digits_flow
from genjax.build import spec


def get_config():
  config = digits_flow.get_config()
  network = config.objective.network.to_dict()
  config.objective = spec('objectives.consistency.Consistency', num_classes=10, network=network, stage=100, sigma_data=0.75)
  return config
