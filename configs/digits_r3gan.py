"""R3GAN (2501.05441) on scikit-learn's 8x8 digits: relativistic pairs, R1 and R2, networks without normalization.

python train.py --config configs/digits_r3gan.py

Measured 2026-11-28 on a CPU core (Python 3.12, jax 0.12.0.1, commit 82d49f6 with penalties of 3): 10 minutes; FID 1.55,
recall 0.22 of 10,000 samples (`python evaluate.py --run runs/digits_r3gan`, card in docs/comparison/gan/). Grid:
docs/gallery/. LOG.md has results for other penalties.
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('digits', resolution=8, steps=6000, batch_size=64)
  steps = config.train.get_ref('steps')
  config.objective = spec(
    'objectives.gan.gan.GAN',
    conditioner=spec('conditioners.ClassLabel'),
    generator=spec('networks.r3gan.R3GANGenerator', z_dim=32, width=16, blocks=1),
    discriminator=spec('networks.r3gan.R3GANDiscriminator', width=16, blocks=1),
    loss=spec('objectives.gan.losses.RelativisticPairing'),
    penalties={name: spec(f'objectives.gan.penalties.{name.upper()}', weight=3.0) for name in ('r1', 'r2')},
  )
  rate = spec('optim.cosine', peak=1e-3, steps=steps, warmup=100)
  config.optim = {player: spec('optim.adam', learning_rate=rate, b1=0.0, b2=0.99) for player in ('discriminator', 'generator')}
  return config
