"""Variational diffusion (Kingma et al. 2107.00630) on digits, whose schedule is learned: the network of configs/digits_flow.py.

Measured 2026-11-22 on 2 CPU cores beside other work (Python 3.12, jax 0.12.0.1, commit 87f6d31): some 7 minutes; the bound over
the last 100 steps of training 4.61 bits per dimension.
Grid: docs/gallery/. FID: not measured.

python train.py --config configs/digits_vdm.py
python evaluate.py --run runs/digits_vdm --likelihood 297
"""

from configs import digits_flow
from genjax.build import spec


def get_config():
  config = digits_flow.get_config()
  network = config.objective.network.to_dict()
  schedule = spec('networks.monotone.Monotone')
  config.objective = spec(
    'objectives.diffusion.vdm.VDM', conditioner=spec('conditioners.ClassLabel'), network=network, schedule=schedule
  )
  config.optim.schedule = spec('optim.adam', learning_rate=spec('optim.constant', value=1e-3))
  return config
