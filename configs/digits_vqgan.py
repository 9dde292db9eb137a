"""VQGAN (2012.09841) on scikit-learn's 8x8 digits: configs/digits_vq.py, whose decoder also plays against a discriminator.

python train.py --config configs/digits_vqgan.py

Not yet reproduced.
"""

from configs import digits_vq
from genjax.build import spec


def get_config():
  config = digits_vq.get_config()
  config.objective = spec(
    'objectives.vqgan.VQGAN',
    **{name: part for name, part in config.objective.items() if name != 'cls'},
    discriminator=spec('networks.dcgan.PatchDiscriminator', width=32, levels=1),
    perceptual=10.0,
    start=50_000,
  )
  config.optim.discriminator = spec('optim.adam', learning_rate=2e-4, b1=0.5)
  return config
