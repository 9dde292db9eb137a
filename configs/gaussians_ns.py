"""25 Gaussians by the non-saturating loss: which modes does the generator leave out? (docs/gan.md)

python train.py --config configs/gaussians_ns.py

Measured 2026-11-22 on 2 shared CPU cores (jax 0.12.0.1, commit 40dc2a3), 10,000 samples (card in
docs/comparison/gan/): 23 modes of 25, 0.838 of the samples of high quality; 1.5 minutes.
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('gaussians_25', resolution=1, steps=20_000, batch_size=256)
  config.objective = spec(
    'objectives.gan.GAN',
    generator=spec('networks.mlp.MLPGenerator', z_dim=2, width=128, depth=3),
    discriminator=spec('networks.mlp.MLPDiscriminator', width=128, depth=3),
    loss=spec('objectives.adversarial.NonSaturating'),
  )
  config.optim = {}
  for player in ('discriminator', 'generator'):
    schedule = spec('optim.cosine', peak=1e-3, steps=config.train.get_ref('steps'))
    config.optim[player] = spec('optim.adam', learning_rate=schedule, b1=0.5, b2=0.99)
  return config
