"""Convolutional VAE on dynamically binarised MNIST, unconditional: for its likelihood.

python train.py --config configs/mnist_binarised_vae.py
python evaluate.py --run runs/mnist_binarised_vae --metrics likelihood --estimator iwae_50

Not yet reproduced.
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('mnist', resolution=28, steps=32_000, batch_size=64)
  steps = config.train.get_ref('steps')
  config.objective = spec(
    'objectives.vae.VAE',
    encoder=spec('networks.conv_vae.ConvEncoder', z_dim=32, width=16),
    decoder=spec('networks.conv_vae.ConvDecoder', width=16),
    likelihood=spec('objectives.likelihoods.BinarisedBernoulli'),
    warmup=100_000,
  )
  config.optim = {'model': spec('optim.adam', learning_rate=spec('optim.cosine', peak=2e-3, steps=steps, warmup=500))}
  return config
