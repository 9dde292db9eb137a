"""configs/digits_gan.py with a penalty on the variation of the generator's Jacobian. docs/models/gan.md describes its effect.

python train.py --config configs/digits_jacobian.py

Measured 2026-11-28 on a CPU core (Python 3.12, jax 0.12.0.1, commit 82d49f6): FID 1.19, recall 0.66 of
10,000 samples (card in docs/comparison/gan/).
"""

from configs import digits_gan
from genjax.build import spec


def get_config():
  config = digits_gan.get_config()
  config.objective.generator_penalties = {'jacobian': spec('objectives.gan.penalties.JacobianVariation', weight=0.1)}
  return config
