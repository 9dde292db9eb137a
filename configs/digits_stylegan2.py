"""StyleGAN2 (1912.04958) with adaptive augmentation (2006.06676) on scikit-learn's 8x8 digits, 1,500 of them.

python train.py --config configs/digits_stylegan2.py

Without mixing of styles and path length, as 2006.06676 has it for CIFAR-10: with them samples are less varied (LOG.md).

Measured 2026-11-29 on a CPU core (Python 3.12, jax 0.12.0.1, commit 028313f): 5.2 minutes;
FID 0.84, recall 0.61 of 10,000 samples (`python evaluate.py --run runs/digits_stylegan2`, card in docs/comparison/gan/).
Grid: docs/gallery/.
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('digits', resolution=8, steps=6000, batch_size=64)
  config.objective = spec(
    'objectives.gan.gan.GAN',
    conditioner=spec('conditioners.ClassLabel'),
    generator=spec('networks.stylegan2.StyleGAN2Generator', z_dim=32, w_dim=32, mapping_depth=2, width=32, mixing=0.0),
    discriminator=spec('networks.stylegan2.StyleGAN2Discriminator', width=32),
    penalties={'r1': spec('objectives.gan.penalties.R1', weight=1.0, every=16)},
    augment=spec('objectives.gan.augment.AdaptiveAugment', kimg=50.0),
  )
  config.optim = {player: spec('optim.adam', learning_rate=2e-3, b1=0.0, b2=0.99) for player in ('discriminator', 'generator')}
  return config
