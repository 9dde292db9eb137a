"""VQGAN (2012.09841) on scikit-learn's 8x8 digits: configs/digits_vq.py, with a discriminator for the decoder.

python train.py --config configs/digits_vqgan.py

Measured 2026-11-28 on a CPU core of a shared machine (Python 3.12, jax 0.12.0.1, commit 0e2e764): 3.1 minutes;
FID 0.60, recall 0.92 of 10,000 samples; 53.9 nats of the 297 test images (a bound). It needs more
steps than digits_vq: the codes change when the discriminator starts (LOG.md).
Card: docs/comparison/latent/. Grid: docs/gallery/.
"""

from configs import digits_vq
from genjax.build import spec


def get_config():
  config = digits_vq.get_config()
  config.train.steps = 2000  # the prior adapts to the codes, which change when the discriminator starts
  config.objective = spec(
    'objectives.codes.vqgan.VQGAN',
    **{name: part for name, part in config.objective.items() if name != 'cls'},
    discriminator=spec('networks.dcgan.PatchDiscriminator', width=32, levels=1),
    perceptual=10.0,
    start=25_000,
  )
  config.optim.discriminator = spec('optim.adam', learning_rate=2e-4, b1=0.5)
  return config
