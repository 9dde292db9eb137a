"""configs/digits_vq.py by finite scalar quantisation (2309.15505): 8 x 8 levels, 64 codes.

python train.py --config configs/digits_fsq.py

Not yet reproduced.
"""

from configs import digits_vq
from genjax.build import spec


def get_config():
  config = digits_vq.get_config()
  config.objective.quantiser = spec('objectives.quantisers.FSQ', levels=(8, 8))
  config.objective.encoder.dim = 2
  config.objective.prior.image_shape = (4, 4, 2)
  return config
