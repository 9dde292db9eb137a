"""EDM (Karras et al. 2206.00364) on Fashion-MNIST: configs/fashion_mnist_flow.py with its noise levels and preconditioning.

Not yet reproduced.

python train.py --config configs/fashion_mnist_edm.py
"""

from configs import digits_edm, fashion_mnist_flow


def get_config():
  config, parent = fashion_mnist_flow.get_config(), digits_edm.get_config()
  for part in ('path', 'prediction', 'times'):
    config.objective[part] = parent.objective[part]
  config.objective.prediction.sigma_data = 0.71  # of these images
  return config
