"""MeanFlow (2505.13447) on digits, one step: the network of configs/digits_flow.py with two times.

python train.py --config configs/digits_meanflow.py

Measured 2026-11-22 on 2 CPU cores (Python 3.12, jax 0.12.0.1, commit e5755cb): 1.7 minutes;
FID 1.2 of 2,000 samples (a quick estimate by the classifier). Grid: docs/gallery/.
"""

from configs import digits_flow
from genjax.build import spec


def get_config():
  config = digits_flow.get_config()
  network = config.objective.network.to_dict()
  paper = {'apart': 0.75, 'p': 0.75, 'mean': -2.0, 'std': 2.0}  # the paper's for CIFAR-10 (appendix A)
  config.objective = spec('objectives.meanflow.MeanFlow', num_classes=10, network=network, **paper)
  return config
