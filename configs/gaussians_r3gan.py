"""25 Gaussians by R3GAN's loss (2501.05441): configs/gaussians_ns.py with relativistic pairs, R1 and R2.

python train.py --config configs/gaussians_r3gan.py

Measured 2026-11-22 on 2 shared CPU cores (jax 0.12.0.1, commit 40dc2a3), 10,000 samples (card in
docs/comparison/gan/): 25 modes, 0.892 of the samples of high quality; 2.8 minutes.
"""

from configs import gaussians_ns
from genjax.build import spec


def get_config():
  config = gaussians_ns.get_config()
  config.objective.loss = spec('objectives.adversarial.RelativisticPairing')
  config.objective.penalties = {name: spec(f'objectives.penalties.{name.upper()}', weight=1e-3) for name in ('r1', 'r2')}
  return config
