"""Class-conditional convolutional VAE on CIFAR-10 with a Gaussian likelihood of calibrated deviation. Not yet reproduced.

python train.py --config configs/cifar10_vae.py
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('cifar10', resolution=32, steps=50_000, batch_size=128)
  config.data.flip = True
  steps = config.train.get_ref('steps')
  config.objective = spec(
    'objectives.vae.vae.VAE',
    conditioner=spec('conditioners.ClassLabel'),
    encoder=spec('networks.conv_vae.ConvEncoder', z_dim=128, width=64),
    decoder=spec('networks.conv_vae.ConvDecoder', width=64),
    likelihood=spec('objectives.likelihoods.CalibratedGaussian'),
  )
  config.optim = {
    'model': spec('optim.adam', learning_rate=spec('optim.cosine', peak=1e-3, steps=steps, warmup=1000), clip=1000.0)
  }
  return config
