"""A consistency model by easy consistency tuning (2406.14548) on digits: the network of configs/digits_flow.py.

Not yet reproduced.

python train.py --config configs/digits_consistency.py
"""

from configs import digits_flow
from genjax.build import spec


def get_config():
  config = digits_flow.get_config()
  network = config.objective.network.to_dict()
  config.objective = spec('objectives.consistency.Consistency', num_classes=10, network=network, stage=100, sigma_data=0.75)
  return config
