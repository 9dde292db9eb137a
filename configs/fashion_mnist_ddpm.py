"""DDPM (Ho et al. 2006.11239) on Fashion-MNIST: configs/fashion_mnist_flow.py with its noise levels and eps.

Not yet reproduced.

python train.py --config configs/fashion_mnist_ddpm.py
"""

from configs import digits_ddpm, fashion_mnist_flow


def get_config():
  config, parent = fashion_mnist_flow.get_config(), digits_ddpm.get_config()
  for part in ('path', 'prediction', 'times', 'sampler'):
    config.objective[part] = parent.objective[part]
  return config
