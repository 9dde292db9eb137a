"""configs/fashion_mnist_r3gan.py on MNIST: R3GAN, small.

python train.py --config configs/mnist_r3gan.py

Not yet reproduced.
"""

from configs import fashion_mnist_r3gan


def get_config():
  config = fashion_mnist_r3gan.get_config()
  config.data.name = 'mnist'
  return config
