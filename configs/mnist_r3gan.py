"""configs/fashion_mnist_r3gan.py on MNIST: R3GAN, small.

python train.py --config configs/mnist_r3gan.py

Measured 2026-11-28 on a CPU core of a shared machine (Python 3.12, jax 0.12.0.1, commit 21b7b1f): 59 minutes; FID 5.90, recall
0.51 of 10,000 samples (`python evaluate.py --run runs/mnist_r3gan`, card in docs/comparison/gan/). Grid: docs/gallery/.
"""

from configs import fashion_mnist_r3gan


def get_config():
  config = fashion_mnist_r3gan.get_config()
  config.data.name = 'mnist'
  return config
