"""configs/digits_gan.py with the variation of the generator's Jacobian penalised: what that changes is in docs/gan.md.

python train.py --config configs/digits_jacobian.py

Not yet reproduced.
"""

from configs import digits_gan
from genjax.build import spec


def get_config():
  config = digits_gan.get_config()
  config.objective.generator_penalties = {'jacobian': spec('objectives.penalties.JacobianVariation', weight=0.1)}
  return config
