"""DDPM (Ho et al. 2006.11239) on Fashion-MNIST: configs/fashion_mnist_flow.py with its noise levels and eps.

python train.py --config configs/fashion_mnist_ddpm.py

Measured 2026-11-27 on an H100 shared by eight processes (jax 0.11.2, commit 9107b30): 2.5 minutes; FID 5.2 of 10,000
samples by 100 ancestral steps (`python evaluate.py --run runs/fashion_mnist_ddpm`, card in docs/comparison/cards/).
Grid: docs/gallery/. On 2 CPU cores half as many steps took 19 minutes on a shared machine.
"""

from configs import digits_ddpm, fashion_mnist_flow


def get_config():
  config, parent = fashion_mnist_flow.get_config(), digits_ddpm.get_config()
  for part in ('path', 'parameterization', 'times', 'sampler'):
    config.objective[part] = parent.objective[part]
  return config
