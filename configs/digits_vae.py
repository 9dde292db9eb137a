"""Class-conditional VAE of fully connected networks on scikit-learn's 8x8 digits.

python train.py --config configs/digits_vae.py

Measured 2026-11-21 on 2 CPU cores (jax 0.12.0.1, commit a6e9216): 0.7 minutes; -ELBO of the training images, as binarized,
20.3 nats over the last 100 steps. Grid: docs/gallery/.
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('digits', resolution=8, steps=6000, batch_size=64)
  steps = config.train.get_ref('steps')
  config.objective = spec(
    'objectives.vae.vae.VAE',
    conditioner=spec('conditioners.ClassLabel'),
    encoder=spec('networks.mlp.MLPEncoder', z_dim=8),
    decoder=spec('networks.mlp.MLPDecoder'),
    likelihood=spec('objectives.likelihoods.Bernoulli'),
  )
  config.optim = {'model': spec('optim.adam', learning_rate=spec('optim.cosine', peak=1e-3, steps=steps, warmup=100))}
  return config
