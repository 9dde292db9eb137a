"""Class-conditional rectified flow on CIFAR-10 with DiT-S/2 (2212.09748), for a GPU. Not yet reproduced.

python train.py --config configs/cifar10_dit.py --config.train.dtype=bfloat16
"""

from configs import cifar10_flow
from genjax.build import spec


def get_config():
  config = cifar10_flow.get_config()
  config.objective.network = spec('networks.dit.DiT')
  config.optim = {'model': spec('optim.adam', learning_rate=spec('optim.constant', value=1e-4, warmup=5000), clip=1.0)}
  return config
