"""A transformer over the patches of dynamically binarised MNIST, 2x2 pixels each: exact likelihoods.

python train.py --config configs/mnist_transformer.py
python evaluate.py --run runs/mnist_transformer --metrics likelihood

Not yet reproduced.
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('mnist', resolution=28, steps=8000, batch_size=64)
  steps = config.train.get_ref('steps')
  config.objective = spec(
    'objectives.autoregressive.Autoregressive',
    network=spec('networks.pixel_transformer.PixelTransformer', image_shape=(7, 14, 8), outputs=256, width=128, depth=4),
    likelihood=spec('objectives.likelihoods.BinarisedPatches'),
    patch=(4, 2),
  )
  rate = spec('optim.cosine', peak=2e-3, steps=steps, warmup=200)
  config.optim = {'model': spec('optim.adam', learning_rate=rate, b2=0.99)}
  return config
