"""MeanFlow (2505.13447) on Fashion-MNIST, one step: the network of configs/fashion_mnist_flow.py. Not yet reproduced.

python train.py --config configs/fashion_mnist_meanflow.py
"""

from configs import digits_meanflow, fashion_mnist_flow


def get_config():
  config, parent = fashion_mnist_flow.get_config(), digits_meanflow.get_config()
  config.objective = parent.objective.to_dict() | {'network': config.objective.network.to_dict()}
  return config
