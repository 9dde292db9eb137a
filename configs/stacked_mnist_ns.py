"""Stacked-MNIST, 1,000 modes, with the non-saturating loss: which modes are missing? (docs/models/gan.md)

python train.py --config configs/stacked_mnist_ns.py

Measured 2026-11-28 on a CPU core of a shared machine (Python 3.12, jax 0.12.0.1, commit 21b7b1f): 4.4 minutes; 759 of 1,000
modes (10,000 samples). docs/models/gan.md has the table.
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('stacked_mnist', resolution=28, steps=4000, batch_size=64)
  config.objective = spec(
    'objectives.gan.gan.GAN',
    generator=spec('networks.dcgan.DCGANGenerator', width=32),
    discriminator=spec('networks.dcgan.DCGANDiscriminator', width=32, norm='none'),
    loss=spec('objectives.gan.losses.NonSaturating'),
  )
  config.optim = {player: spec('optim.adam', learning_rate=2e-4, b1=0.5) for player in ('discriminator', 'generator')}
  return config
