"""DDPM (Ho et al. 2006.11239) on Fashion-MNIST: configs/fashion_mnist_flow.py with its noise levels and eps.

python train.py --config configs/fashion_mnist_ddpm.py

Measured 2026-11-22 on 2 CPU cores beside other work (jax 0.12.0.1, commit 2346e36), with --config.train.steps=3000: 19 minutes;
FID 11.4 of 2,000 samples by 100 ancestral steps (a quick estimate by the classifier, card in docs/comparison/diffusion/).
Grid: docs/gallery/.
"""

from configs import digits_ddpm, fashion_mnist_flow


def get_config():
  config, parent = fashion_mnist_flow.get_config(), digits_ddpm.get_config()
  for part in ('path', 'prediction', 'times', 'sampler'):
    config.objective[part] = parent.objective[part]
  return config
