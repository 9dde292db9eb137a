"""Hierarchical VAE (VDVAE, 2011.10650) whose patches follow one another (PixelVAE, 1611.05013), on binarized MNIST, small.

python train.py --config configs/mnist_pixelvae.py
python evaluate.py --run runs/mnist_pixelvae --metrics likelihood

Each of the three blocks of latents has two free nats in training, and beta increases over the first images. Otherwise the
PixelCNN learns first and the latents are not used (LOG.md). The likelihood is computed without free nats.

Measured 2026-11-28 on a CPU core of a shared machine (Python 3.12, jax 0.12.0.1, commit 4d160df): 64 minutes; -ELBO 81.62 nats
[81.23, 82.01] of the 10,000 test images (card in docs/comparison/likelihood/). Its first 5,643 steps had the schedule of 11,000
steps. Grid: docs/gallery/.
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('mnist', resolution=28, steps=16_000, batch_size=16)
  steps, sides = config.train.get_ref('steps'), (7, 1)
  config.objective = spec(
    'objectives.vae.pixel_vae.PixelVAE',
    encoder=spec('networks.vdvae.VDVAEEncoder', sides=sides, blocks=(2, 1), width=64, patch=4),
    decoder=spec(
      'networks.vdvae.VDVAEDecoder', sides=sides, blocks=(2, 1), width=64, z_dim=8, patch=4, place=(2, 2), outputs=32
    ),
    network=spec('networks.pixelcnn.PixelCNN', outputs=16, width=32, blocks=1, levels=1),
    likelihood=spec('objectives.likelihoods.BinarizedPatches', patch=(2, 2)),
    warmup=16_000,
    free_bits=2.0,
  )
  rate = spec('optim.cosine', peak=1.5e-3, steps=steps, warmup=200)
  config.optim = {'model': spec('optim.adam', learning_rate=rate, b2=0.99, clip=100.0)}
  return config
