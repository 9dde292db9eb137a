"""R3GAN (2501.05441), small, on CIFAR-10, for a GPU: class-conditional, adaptive augmentation.

python train.py --config configs/cifar10_r3gan.py

Not yet reproduced.
"""

from configs import digits_r3gan
from configs.common import base
from genjax.build import spec


def get_config():
  config = digits_r3gan.get_config()
  config.update(base('cifar10', resolution=32, steps=100_000, batch_size=256))
  config.data.flip = True
  config.objective.augment = spec('objectives.gan.augment.AdaptiveAugment')
  for network in (config.objective.generator, config.objective.discriminator):
    network.width = 64
  for penalty in config.objective.penalties.values():
    penalty.weight = 0.05
  return config
