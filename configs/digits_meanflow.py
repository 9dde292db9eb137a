"""MeanFlow (2505.13447) on digits, one step: the network of configs/digits_flow.py with two times.

python train.py --config configs/digits_meanflow.py

Measured 2026-11-27 on 2 CPU cores of a shared machine (Python 3.12, jax 0.12.0.1, commit c325ccc): 4.6 minutes; FID 0.93 of
10,000 samples of one evaluation each (`python evaluate.py --run runs/digits_meanflow`, card in docs/comparison/diffusion/).
Grid: docs/gallery/.
"""

from configs import digits_flow
from genjax.build import spec


def get_config():
  config = digits_flow.get_config()
  network = config.objective.network.to_dict()
  paper = {'apart': 0.75, 'p': 0.75, 'mean': -2.0, 'std': 2.0}  # the paper's for CIFAR-10 (appendix A)
  config.objective = spec(
    'objectives.diffusion.meanflow.MeanFlow', conditioner=spec('conditioners.ClassLabel'), network=network, **paper
  )
  return config
