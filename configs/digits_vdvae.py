"""Hierarchical VAE (VDVAE, 2011.10650), small, on dynamically binarized 8x8 digits.

python train.py --config configs/digits_vdvae.py

Measured 2026-11-28 on a CPU core of a shared machine (Python 3.12, jax 0.12.0.1, commit 0e2e764): 3.4 minutes;
-ELBO 21.2 nats [20.6, 21.9] of the 297 test images; FID 1.73, recall 0.87 of 10,000 samples (card in docs/comparison/latent/).
Warm-up and free bits keep the latents in use (LOG.md). Grid: docs/gallery/.
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('digits', resolution=8, steps=3000, batch_size=64)
  steps, sides = config.train.get_ref('steps'), (8, 4, 1)
  config.objective = spec(
    'objectives.vae.hierarchical.HierarchicalVAE',
    conditioner=spec('conditioners.ClassLabel'),
    encoder=spec('networks.vdvae.VDVAEEncoder', sides=sides, blocks=(1, 1, 1), width=32),
    decoder=spec('networks.vdvae.VDVAEDecoder', sides=sides, blocks=(2, 2, 1), width=32, z_dim=4),
    likelihood=spec('objectives.likelihoods.BinarizedBernoulli'),
    warmup=64_000,
    free_bits=1.0,
  )
  rate = spec('optim.cosine', peak=2e-3, steps=steps, warmup=100)
  config.optim = {'model': spec('optim.adam', learning_rate=rate, b2=0.99, skip=1000.0)}
  return config
