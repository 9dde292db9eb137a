"""SNGAN (1802.05957) on Fashion-MNIST: residual networks, spectral norms, hinge loss, labels by projection (1802.05637).

python train.py --config configs/fashion_mnist_sngan.py

An eighth of the paper's width (generator) and a quarter; rates within those that it tries (table 1).

Measured 2026-11-29 on a CPU core of a shared machine (Python 3.12, jax 0.12.0.1, commit df275c7): 35 minutes; FID 13.9, recall
0.53 of 10,000 samples (`python evaluate.py --run runs/fashion_mnist_sngan`, card in docs/comparison/gan/). Grid:
docs/gallery/. With 2e-4 for both, as for its CIFAR-10, labels are learned late (LOG.md).
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('fashion_mnist', resolution=28, steps=4000, batch_size=64)
  config.objective = spec(
    'objectives.gan.gan.GAN',
    conditioner=spec('conditioners.ClassLabel'),
    generator=spec('networks.sngan.ResNetGenerator', width=32),
    discriminator=spec('networks.sngan.ResNetDiscriminator', width=32),
    loss=spec('objectives.gan.losses.Hinge'),
  )
  rates = {'discriminator': 1e-3, 'generator': 5e-4}
  config.optim = {player: spec('optim.adam', learning_rate=rate, b1=0.0, b2=0.9) for player, rate in rates.items()}
  return config
