"""Variational diffusion (Kingma et al. 2107.00630) on digits, whose schedule is learned: the network of configs/digits_flow.py.

Measured 2026-11-30 on 2 CPU cores of a shared machine (Python 3.11, jax 0.10.2, commit 71eced9, evaluated at 259949d): 4.7
minutes; 4.12 bits per dimension, the bound of the 297 test images (card in docs/comparison/likelihood/). Grid: docs/gallery/.
FID: not measured.

python train.py --config configs/digits_vdm.py
python evaluate.py --run runs/digits_vdm --metrics likelihood --likelihood 297
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
