"""configs/digits_pixelcnn.py by a transformer over the 64 pixels, sampled from its cache.

python train.py --config configs/digits_transformer.py

Not yet reproduced.
"""

from configs import digits_pixelcnn
from genjax.build import spec


def get_config():
  config = digits_pixelcnn.get_config()
  config.objective.network = spec('networks.pixel_transformer.PixelTransformer', outputs=1, width=64, depth=3)
  return config
