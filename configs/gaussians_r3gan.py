"""25 Gaussians with the loss of R3GAN (2501.05441): configs/gaussians_ns.py with relativistic pairing, R1 and R2.

python train.py --config configs/gaussians_r3gan.py

Measured 2026-11-28 on a CPU core of a shared machine (Python 3.12, jax 0.12.0.1, commit 17a0eef), seeds 0, 1 and 2,
10,000 samples each (cards in docs/comparison/gan/): 25 modes, 0.81 to 0.87 of the samples of high quality; 4.0 minutes.
"""

from configs import gaussians_ns
from genjax.build import spec


def get_config():
  config = gaussians_ns.get_config()
  config.objective.loss = spec('objectives.gan.losses.RelativisticPairing')
  config.objective.penalties = {name: spec(f'objectives.gan.penalties.{name.upper()}', weight=1e-3) for name in ('r1', 'r2')}
  return config
