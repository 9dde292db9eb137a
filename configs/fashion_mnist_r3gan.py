"""R3GAN (2501.05441), small, on Fashion-MNIST: configs/digits_r3gan.py with three levels.

python train.py --config configs/fashion_mnist_r3gan.py

Not yet reproduced. Small enough for a CPU core.
"""

from configs import digits_r3gan
from configs.common import base


def get_config():
  config = digits_r3gan.get_config()
  config.update(base('fashion_mnist', resolution=28, steps=12_000, batch_size=32))
  for network in (config.objective.generator, config.objective.discriminator):
    network.width = 8
  for penalty in config.objective.penalties.values():
    penalty.weight = 1.0  # as the paper's Stacked-MNIST, of nearly this size
  return config
