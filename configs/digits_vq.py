"""VQ-VAE (1711.00937) on scikit-learn's 8x8 digits, with a transformer over its 4x4 codes.

python train.py --config configs/digits_vq.py

Measured 2026-11-28 on a CPU core of a shared machine (Python 3.12, jax 0.12.0.1, commit 0e2e764): 1.3 minutes;
FID 0.63, recall 0.93 of 10,000 samples; 56.7 nats of the 297 test images (a bound). With more steps the prior memorizes the
1,500 images (LOG.md). Card: docs/comparison/latent/. Grid: docs/gallery/.
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('digits', resolution=8, steps=1000, batch_size=64)
  steps = config.train.get_ref('steps')
  config.objective = spec(
    'objectives.codes.vqvae.VQVAE',
    conditioner=spec('conditioners.ClassLabel'),
    encoder=spec('networks.grid.GridEncoder', dim=8, width=32, levels=1, blocks=1),
    decoder=spec('networks.grid.GridDecoder', width=32, levels=1, blocks=1),
    prior=spec('networks.pixel_transformer.PixelTransformer', image_shape=(4, 4, 8), outputs=64, width=64, depth=2),
    likelihood=spec('objectives.likelihoods.Bernoulli'),
    quantizer=spec('objectives.codes.quantizers.Codebook', size=64, dim=8),
  )
  rate = lambda: spec('optim.cosine', peak=2e-3, steps=steps, warmup=100)  # noqa: E731
  config.optim = {player: spec('optim.adam', learning_rate=rate()) for player in ('model', 'prior')}
  return config
