"""configs/fashion_mnist_gan.py on CIFAR-10, with one more level. Not yet reproduced.

python train.py --config configs/cifar10_gan.py
"""

from configs import fashion_mnist_gan


def get_config():
  config = fashion_mnist_gan.get_config()
  config.data.update({'name': 'cifar10', 'resolution': 32, 'flip': True})
  config.train.update({'steps': 100_000, 'batch_size': 128, 'checkpoint_every': 5000, 'sample_every': 5000})
  return config
