"""Class-conditional GAN of fully connected networks on scikit-learn's 8x8 digits.

python train.py --config configs/digits_gan.py
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('digits', resolution=8, steps=10_000, batch_size=64)
  config.objective = spec(
    'objectives.gan.GAN',
    num_classes=10,
    generator=spec('networks.mlp.MLPGenerator'),
    discriminator=spec('networks.mlp.MLPDiscriminator'),
  )
  adam = spec('optim.adam', learning_rate=2e-4, b1=0.5)
  config.optim = {'discriminator': adam, 'generator': adam}
  return config
