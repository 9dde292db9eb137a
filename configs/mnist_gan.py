"""configs/fashion_mnist_gan.py on MNIST: class-conditional DCGAN. Not yet reproduced.

python train.py --config configs/mnist_gan.py
"""

from configs import fashion_mnist_gan


def get_config():
  config = fashion_mnist_gan.get_config()
  config.data.name = 'mnist'
  return config
