"""SNGAN (1802.05957) on Fashion-MNIST: residual networks, spectral norms, hinge loss, labels by projection (1802.05637).

python train.py --config configs/fashion_mnist_sngan.py

An eighth of the paper's width (generator) and a quarter; rates within those that it tries (table 1). With these not yet
reproduced; with 2e-4 for both, as for its CIFAR-10, FID 20.4, recall 0.38 of 10,000 samples (commit 959ec15), and classes of
MNIST were still mixed after 2,000 steps (LOG.md).
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('fashion_mnist', resolution=28, steps=4000, batch_size=64)
  config.objective = spec(
    'objectives.gan.GAN',
    num_classes=10,
    generator=spec('networks.sngan.ResNetGenerator', width=32),
    discriminator=spec('networks.sngan.ResNetDiscriminator', width=32),
    loss=spec('objectives.adversarial.Hinge'),
  )
  rates = {'discriminator': 1e-3, 'generator': 5e-4}
  config.optim = {player: spec('optim.adam', learning_rate=rate, b1=0.0, b2=0.9) for player, rate in rates.items()}
  return config
