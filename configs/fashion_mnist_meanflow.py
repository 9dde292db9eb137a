"""MeanFlow (2505.13447) on Fashion-MNIST, one step: the network of configs/fashion_mnist_flow.py.

python train.py --config configs/fashion_mnist_meanflow.py

Measured 2026-11-27 on an H100 shared by eight processes (jax 0.11.2, commit 9107b30): 3.0 minutes; FID 6.8 of 10,000
samples of one evaluation each (`python evaluate.py --run runs/fashion_mnist_meanflow`, card in docs/comparison/cards/).
Grid: docs/gallery/. On 2 CPU cores 5,000 steps took 30 minutes on a shared machine.
"""

from configs import digits_meanflow, fashion_mnist_flow


def get_config():
  config, parent = fashion_mnist_flow.get_config(), digits_meanflow.get_config()
  config.objective = parent.objective.to_dict() | {'network': config.objective.network.to_dict()}
  return config
