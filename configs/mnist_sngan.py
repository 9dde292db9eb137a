"""configs/fashion_mnist_sngan.py on MNIST: SNGAN, small.

python train.py --config configs/mnist_sngan.py

Not yet reproduced.
"""

from configs import fashion_mnist_sngan


def get_config():
  config = fashion_mnist_sngan.get_config()
  config.data.name = 'mnist'
  return config
