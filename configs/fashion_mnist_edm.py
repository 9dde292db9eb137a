"""EDM (Karras et al. 2206.00364) on Fashion-MNIST: configs/fashion_mnist_flow.py with its noise levels and preconditioning.

python train.py --config configs/fashion_mnist_edm.py

Measured 2026-11-27 on an H100 shared by eight processes (jax 0.11.2, commit 9107b30): 2.1 minutes; FID 7.2 of 10,000
samples by Heun in 10 steps (`python evaluate.py --run runs/fashion_mnist_edm --steps 10`, card in
docs/comparison/cards/); on that grid ten steps are few (LOG.md, of 2026-11-22). Grid: docs/gallery/.
"""

from configs import digits_edm, fashion_mnist_flow


def get_config():
  config, parent = fashion_mnist_flow.get_config(), digits_edm.get_config()
  for part in ('path', 'parameterization', 'times'):
    config.objective[part] = parent.objective[part]
  config.objective.parameterization.sigma_data = 0.71  # of these images
  # At the paper's -1.2, 1.2 a short training sees too little of high noise.
  config.objective.times.P_mean, config.objective.times.P_std = 0.0, 1.0
  config.objective.network.fourier = 1.0  # DDPM's sines hardly distinguish these times, from -1.5 to 1.1
  return config
