"""R3GAN (2501.05441), small, on Fashion-MNIST: configs/digits_r3gan.py with three levels of 8, 32 and 128 channels.

python train.py --config configs/fashion_mnist_r3gan.py

Measured 2026-11-28 on a CPU core of a shared machine (Python 3.12, jax 0.12.0.1, commit 17a0eef): 77 minutes; FID 8.19,
recall 0.24 of 10,000 samples (`python evaluate.py --run runs/fashion_mnist_r3gan`, card in docs/comparison/gan/). Grid:
docs/gallery/. Penalties of 30 for 784 pixels correspond to those of 3 for the 64 pixels of digits. With 1, as in the paper for
Stacked-MNIST, and 8, 16 and 32 channels the generator used only one direction of its latent, as the collapse panel showed
(LOG.md).
"""

from configs import digits_r3gan
from configs.common import base


def get_config():
  config = digits_r3gan.get_config()
  config.update(base('fashion_mnist', resolution=28, steps=6000, batch_size=32))
  for network in (config.objective.generator, config.objective.discriminator):
    network.width, network.growth = 8, 4
  for penalty in config.objective.penalties.values():
    penalty.weight = 30.0
  return config
