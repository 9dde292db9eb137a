"""configs/fashion_mnist_flow.py on MNIST: class-conditional rectified flow. Not yet reproduced.

python train.py --config configs/mnist_flow.py
"""

from configs import fashion_mnist_flow


def get_config():
  config = fashion_mnist_flow.get_config()
  config.data.name = 'mnist'
  return config
