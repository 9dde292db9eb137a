"""MeanFlow (2505.13447) on digits, one step: the network of configs/digits_flow.py with two times. Not yet reproduced.

python train.py --config configs/digits_meanflow.py
"""

from configs import digits_flow
from genjax.build import spec


def get_config():
  config = digits_flow.get_config()
  network = config.objective.network.to_dict()
  paper = {'apart': 0.75, 'p': 0.75, 'mean': -2.0, 'std': 2.0}  # the paper's for CIFAR-10 (appendix A)
  config.objective = spec('objectives.meanflow.MeanFlow', num_classes=10, network=network, **paper)
  return config
