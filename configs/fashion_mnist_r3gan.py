"""R3GAN (2501.05441), small, on Fashion-MNIST: configs/digits_r3gan.py with three levels of 8, 32 and 128 channels.

python train.py --config configs/fashion_mnist_r3gan.py

Not yet reproduced. Penalties of 30 do to 784 pixels what the digits' 3 do to 64: with 1, as the paper's Stacked-MNIST has
it, and with 8, 16 and 32 channels the generator hears one direction of its latent (the collapse panel says so): FID 32.5,
recall 0.002 of 10,000 samples (2026-11-28, a CPU core, Python 3.12, jax 0.12.0.1, commit 959ec15, 86 minutes; card in
docs/comparison/gan/).
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
