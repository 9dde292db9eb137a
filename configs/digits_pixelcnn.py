"""PixelCNN++ (1701.05517), small, on dynamically binarised 8x8 digits: exact likelihoods.

python train.py --config configs/digits_pixelcnn.py

Not yet reproduced.
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('digits', resolution=8, steps=3000, batch_size=64)
  steps = config.train.get_ref('steps')
  config.objective = spec(
    'objectives.autoregressive.Autoregressive',
    num_classes=10,
    network=spec('networks.pixelcnn.PixelCNN', outputs=1, width=16, blocks=1, levels=2),
    likelihood=spec('objectives.likelihoods.BinarisedBernoulli'),
  )
  config.optim = {'model': spec('optim.adam', learning_rate=spec('optim.cosine', peak=2e-3, steps=steps, warmup=100))}
  return config
