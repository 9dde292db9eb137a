"""MeanFlow (2505.13447) on Fashion-MNIST, one step: the network of configs/fashion_mnist_flow.py.

python train.py --config configs/fashion_mnist_meanflow.py

Measured 2026-11-22 on 2 CPU cores beside other work (jax 0.12.0.1, commit 2346e36), with --config.train.steps=5000: 30 minutes;
FID 8.1 of 2,000 samples of one evaluation each (a quick estimate by the classifier, card in docs/comparison/diffusion/).
Grid: docs/gallery/.
"""

from configs import digits_meanflow, fashion_mnist_flow


def get_config():
  config, parent = fashion_mnist_flow.get_config(), digits_meanflow.get_config()
  config.objective = parent.objective.to_dict() | {'network': config.objective.network.to_dict()}
  return config
