"""VQ-VAE (1711.00937) on scikit-learn's 8x8 digits, with a transformer over its 4x4 codes.

python train.py --config configs/digits_vq.py

Not yet reproduced.
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('digits', resolution=8, steps=3000, batch_size=64)
  steps = config.train.get_ref('steps')
  config.objective = spec(
    'objectives.vqvae.VQVAE',
    num_classes=10,
    encoder=spec('networks.grid.GridEncoder', dim=8, width=32, levels=1, blocks=1),
    decoder=spec('networks.grid.GridDecoder', width=32, levels=1, blocks=1),
    prior=spec('networks.pixel_transformer.PixelTransformer', image_shape=(4, 4, 8), outputs=64, width=64, depth=2),
    likelihood=spec('objectives.likelihoods.Bernoulli'),
    quantiser=spec('objectives.quantisers.Codebook', size=64, dim=8),
  )
  rate = lambda: spec('optim.cosine', peak=2e-3, steps=steps, warmup=100)  # noqa: E731
  config.optim = {player: spec('optim.adam', learning_rate=rate()) for player in ('model', 'prior')}
  return config
