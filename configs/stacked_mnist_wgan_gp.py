"""Stacked-MNIST with Wasserstein loss and gradient penalty (1704.00028): configs/stacked_mnist_ns.py with five critic steps.

python train.py --config configs/stacked_mnist_wgan_gp.py

Measured 2026-11-28 on a CPU core of a shared machine (Python 3.12, jax 0.12.0.1, commit 21b7b1f): 12 minutes; 880 of 1,000
modes (10,000 samples). docs/models/gan.md has the table.
"""

from configs import stacked_mnist_ns
from genjax.build import spec


def get_config():
  config = stacked_mnist_ns.get_config()
  config.objective.loss = spec('objectives.gan.losses.Wasserstein')
  config.objective.penalties = {'gradient': spec('objectives.gan.penalties.GradientPenalty', weight=10.0)}
  config.objective.critic_steps = 5
  return config
