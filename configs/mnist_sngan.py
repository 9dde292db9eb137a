"""configs/fashion_mnist_sngan.py on MNIST: SNGAN, small.

python train.py --config configs/mnist_sngan.py

Measured 2026-11-28 on a CPU core of a shared machine (Python 3.12, jax 0.12.0.1, commit 21b7b1f with these rates): 39 minutes,
stopped and resumed once; FID 5.24, recall 0.69 of 10,000 samples (`python evaluate.py --run runs/mnist_sngan`, card in
docs/comparison/gan/). Grid: docs/gallery/.
"""

from configs import fashion_mnist_sngan


def get_config():
  config = fashion_mnist_sngan.get_config()
  config.data.name = 'mnist'
  return config
