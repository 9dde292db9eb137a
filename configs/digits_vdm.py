"""Variational diffusion (Kingma et al. 2107.00630) on digits, whose schedule is learned: the network of configs/digits_flow.py.

Not yet reproduced.

python train.py --config configs/digits_vdm.py
python evaluate.py --run runs/digits_vdm --likelihood 297
"""

from configs import digits_flow
from genjax.build import spec


def get_config():
  config = digits_flow.get_config()
  network = config.objective.network.to_dict()
  schedule = spec('networks.schedule.Monotone')
  config.objective = spec('objectives.vdm.VDM', num_classes=10, network=network, schedule=schedule)
  config.optim.schedule = spec('optim.adam', learning_rate=spec('optim.constant', value=1e-3))
  return config
