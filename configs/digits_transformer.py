"""configs/digits_pixelcnn.py with a transformer over the 64 pixels, sampled from its cache.

python train.py --config configs/digits_transformer.py

Measured 2026-11-28 on a CPU core of a shared machine (Python 3.12, jax 0.12.0.1, commit 0e2e764): 16 minutes;
19.68 nats [19.20, 20.15] of the 297 test images, exact (`python evaluate.py --run runs/digits_transformer --metrics
likelihood`, card in docs/comparison/likelihood/). Grid, of binary images: docs/gallery/.
"""

from configs import digits_pixelcnn
from genjax.build import spec


def get_config():
  config = digits_pixelcnn.get_config()
  config.objective.network = spec('networks.pixel_transformer.PixelTransformer', outputs=1, width=64, depth=3)
  return config
