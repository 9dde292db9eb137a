"""25 Gaussians with the non-saturating loss: which modes are missing? (docs/models/gan.md)

python train.py --config configs/gaussians_ns.py

Measured 2026-11-28 on a CPU core of a shared machine (Python 3.12, jax 0.12.0.1, commit 17a0eef), seeds 0, 1 and 2,
10,000 samples each (cards in docs/comparison/gan/): 25, 22 and 25 modes of 25, 0.81 to 0.89 of the samples of high quality;
2.5 minutes.
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('gaussians_25', resolution=1, steps=20_000, batch_size=256)
  config.objective = spec(
    'objectives.gan.gan.GAN',
    generator=spec('networks.mlp.MLPGenerator', z_dim=2, width=128, depth=3),
    discriminator=spec('networks.mlp.MLPDiscriminator', width=128, depth=3),
    loss=spec('objectives.gan.losses.NonSaturating'),
  )
  config.optim = {}
  for player in ('discriminator', 'generator'):
    schedule = spec('optim.cosine', peak=1e-3, steps=config.train.get_ref('steps'))
    config.optim[player] = spec('optim.adam', learning_rate=schedule, b1=0.5, b2=0.99)
  return config
