"""Class-conditional rectified flow on CIFAR-10, for a GPU: a U-Net of 38.3M parameters. Not yet reproduced.

python train.py --config configs/cifar10_flow.py --config.train.dtype=bfloat16

An H100 trains 4,350 images per second (2026-11-27, commit 9107b30): the 200,000 steps of the config take about 3.3 hours.
After 1,001 steps, with learning_rate.value=4e-4 and warmup=500, samples show horses and cars. FID: not
measured.
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('cifar10', resolution=32, steps=200_000, batch_size=256)
  config.data.flip = True
  config.train.ema_halflife = 500_000.0
  config.train.checkpoint_every = config.train.sample_every = 5000
  network = spec('networks.unet.UNet', width=128, multipliers=(1, 2, 2, 2), blocks=2, attention=(16,), head_features=64)
  config.objective = spec(
    'objectives.diffusion.diffusion.Diffusion',
    conditioner=spec('conditioners.ClassLabel'),
    path=spec('samplers.paths.RectifiedFlow'),
    parameterization=spec('objectives.diffusion.parameterizations.Velocity'),
    times=spec('objectives.diffusion.times.LogitNormal'),
    network=network,
  )
  config.optim = {'model': spec('optim.adam', learning_rate=spec('optim.constant', value=2e-4, warmup=5000), clip=1.0)}
  return config
