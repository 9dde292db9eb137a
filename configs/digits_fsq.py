"""configs/digits_vq.py with finite scalar quantization (2309.15505): 8 x 8 levels, 64 codes.

python train.py --config configs/digits_fsq.py

Measured 2026-11-28 on a CPU core of a shared machine (Python 3.12, jax 0.12.0.1, commit 0e2e764): 0.8 minutes;
FID 0.73, recall 0.92 of 10,000 samples; 61.5 nats of the 297 test images (a bound).
Card: docs/comparison/latent/. Grid: docs/gallery/.
"""

from configs import digits_vq
from genjax.build import spec


def get_config():
  config = digits_vq.get_config()
  config.objective.quantizer = spec('objectives.codes.quantizers.FSQ', levels=(8, 8))
  config.objective.encoder.dim = 2
  config.objective.prior.image_shape = (4, 4, 2)
  return config
