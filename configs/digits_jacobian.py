"""configs/digits_gan.py with the variation of the generator's Jacobian penalised: what that changes is in docs/gan.md.

python train.py --config configs/digits_jacobian.py

Measured 2026-11-22 on 2 CPU cores (jax 0.12.0.1, commit 0527a4b): 0.8 minutes; FID 20.3 (2,000 samples): the generator no longer
hears its latent. Not yet what the penalty is for.
"""

from configs import digits_gan
from genjax.build import spec


def get_config():
  config = digits_gan.get_config()
  config.objective.generator_penalties = {'jacobian': spec('objectives.penalties.JacobianVariation', weight=1.0)}
  return config
