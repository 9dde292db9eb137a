"""Stacked-MNIST with the loss of R3GAN (2501.05441): configs/stacked_mnist_ns.py with relativistic pairing, R1 and R2.

python train.py --config configs/stacked_mnist_r3gan.py

Measured 2026-11-28 on a CPU core of a shared machine (Python 3.12, jax 0.12.0.1, commit 21b7b1f): 25 minutes; 913 of 1,000
modes (10,000 samples). docs/models/gan.md has the table.
"""

from configs import stacked_mnist_ns
from genjax.build import spec


def get_config():
  config = stacked_mnist_ns.get_config()
  config.objective.loss = spec('objectives.gan.losses.RelativisticPairing')
  config.objective.penalties = {name: spec(f'objectives.gan.penalties.{name.upper()}', weight=1.0) for name in ('r1', 'r2')}
  return config
