"""configs/digits_aae.py with the labels of only a tenth of the digits (1511.05644, section 5).

python train.py --config configs/digits_semi_aae.py

Measured 2026-11-28 on a CPU core of a shared machine (Python 3.12, jax 0.12.0.1, commit c06f1c9): 1.8 minutes;
FID 3.84, recall 0.88 of 10,000 samples.
Card: docs/comparison/latent/. Grid: docs/gallery/.
"""

from configs import digits_aae
from genjax.build import spec


def get_config():
  config = digits_aae.get_config()
  parts = {key: config.objective[key] for key in ('conditioner', 'decoder', 'discriminator', 'likelihood')}
  encoder = spec('networks.mlp.MLPEncoder', z_dim=18)  # 8 dimensions of style, 10 classes
  config.objective = spec('objectives.vae.aae.SemiSupervisedAAE', labeled=0.1, encoder=encoder, **parts)
  rate = spec('optim.cosine', peak=3e-4, steps=config.train.get_ref('steps'), warmup=100)
  config.optim['class_discriminator'] = spec('optim.adam', learning_rate=rate, b1=0.5)
  return config
