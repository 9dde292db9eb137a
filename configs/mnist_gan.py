"""configs/fashion_mnist_gan.py on MNIST: class-conditional DCGAN.

python train.py --config configs/mnist_gan.py

Measured 2026-11-27 on an H100 shared by eight processes (jax 0.11.2, commit 9107b30): 1.5 minutes; FID 5.7 of 10,000
samples (`python evaluate.py --run runs/mnist_gan`, card in docs/comparison/cards/). Grid: docs/gallery/.
"""

from configs import fashion_mnist_gan


def get_config():
  config = fashion_mnist_gan.get_config()
  config.data.name = 'mnist'
  return config
