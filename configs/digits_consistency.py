"""A consistency model by easy consistency tuning (2406.14548) on digits: the network of configs/digits_flow.py.

Measured 2026-11-27 on 2 CPU cores of a shared machine (Python 3.12, jax 0.12.0.1, commit c325ccc): 3.7 minutes; FID 1.19 of
10,000 samples of one evaluation each (`python evaluate.py --run runs/digits_consistency`, card in docs/comparison/diffusion/).
Grid: docs/gallery/.

python train.py --config configs/digits_consistency.py
"""

from configs import digits_flow
from genjax.build import spec


def get_config():
  config = digits_flow.get_config()
  network = config.objective.network.to_dict()
  config.objective = spec(
    'objectives.diffusion.consistency.Consistency',
    conditioner=spec('conditioners.ClassLabel'),
    network=network,
    stage=100,
    sigma_data=0.75,
  )
  return config
