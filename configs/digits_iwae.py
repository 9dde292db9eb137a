"""Importance-weighted autoencoder (1509.00519) on dynamically binarized 8x8 digits: configs/digits_vae.py with five draws,
and an encoder that sees the binarized images.

python train.py --config configs/digits_iwae.py

Measured 2026-11-28 on a CPU core (Python 3.12, jax 0.12.0.1, commit 82d49f6): 0.8 minutes; the bound of
training 20.70 nats (not to be compared with digits_vae's, whose encoder sees gray images), FID 1.02, recall 0.65 of 10,000
samples (card in docs/comparison/latent/).
"""

from configs import digits_vae
from genjax.build import spec


def get_config():
  config = digits_vae.get_config()
  parts = {key: config.objective[key] for key in ('conditioner', 'encoder', 'decoder')}
  config.objective = spec('objectives.vae.iwae.IWAE', likelihood=spec('objectives.likelihoods.BinarizedBernoulli'), **parts)
  return config
