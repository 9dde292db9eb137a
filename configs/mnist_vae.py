"""configs/fashion_mnist_vae.py on MNIST: class-conditional VAE. Not yet reproduced.

python train.py --config configs/mnist_vae.py
"""

from configs import fashion_mnist_vae


def get_config():
  config = fashion_mnist_vae.get_config()
  config.data.name = 'mnist'
  return config
