"""StyleGAN2 (1912.04958), small, with adaptive augmentation (2006.06676) on CIFAR-10, for a GPU: class-conditional.

python train.py --config configs/cifar10_stylegan2.py

Not yet reproduced.
"""

from configs import digits_stylegan2
from configs.common import base


def get_config():
  config = digits_stylegan2.get_config()
  config.update(base('cifar10', resolution=32, steps=100_000, batch_size=64))
  config.data.flip = True
  generator, discriminator = config.objective.generator, config.objective.discriminator
  generator.z_dim = generator.w_dim = 256
  generator.width = discriminator.width = 64
  generator.max_width = discriminator.max_width = 256
  config.objective.penalties.r1.weight = 0.01
  config.objective.augment.kimg = 500.0
  return config
