"""Importance-weighted autoencoder (1509.00519) on dynamically binarised 8x8 digits: configs/digits_vae.py with five draws.

python train.py --config configs/digits_iwae.py

Not yet reproduced.
"""

from configs import digits_vae
from genjax.build import spec


def get_config():
  config = digits_vae.get_config()
  parts = {key: config.objective[key] for key in ('num_classes', 'encoder', 'decoder')}
  config.objective = spec('objectives.iwae.IWAE', likelihood=spec('objectives.likelihoods.BinarisedBernoulli'), **parts)
  return config
