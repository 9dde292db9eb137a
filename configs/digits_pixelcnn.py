"""PixelCNN++ (1701.05517), small, on dynamically binarized 8x8 digits: exact likelihoods.

python train.py --config configs/digits_pixelcnn.py

Measured 2026-11-28 on a CPU core of a shared machine (Python 3.12, jax 0.12.0.1, commit c06f1c9): 33 minutes; 19.67 nats
[19.20, 20.14] of the 297 test images given their labels, exact (card in docs/comparison/likelihood/). Samples are binary like
the training images, so that FID against gray images is not meaningful.
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('digits', resolution=8, steps=3000, batch_size=64)
  steps = config.train.get_ref('steps')
  config.objective = spec(
    'objectives.autoregressive.pixels.Autoregressive',
    conditioner=spec('conditioners.ClassLabel'),
    network=spec('networks.pixelcnn.PixelCNN', outputs=1, width=16, blocks=1, levels=2),
    likelihood=spec('objectives.likelihoods.BinarizedBernoulli'),
  )
  config.optim = {'model': spec('optim.adam', learning_rate=spec('optim.cosine', peak=2e-3, steps=steps, warmup=100))}
  return config
