"""DDPM on CIFAR-10 (Ho et al. 2006.11239): the paper's 35.7M U-Net, unconditional, for a GPU. Not yet reproduced.

The paper: FID 3.17 (Inception-V3, 50,000 samples, training set) after 800,000 steps of batch 128.

python train.py --config configs/cifar10_ddpm.py --config.train.dtype=bfloat16
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('cifar10', resolution=32, steps=800_000, batch_size=128)
  config.data.flip = True
  config.train.ema_halflife = 887_000.0  # decay 0.9999 a step
  config.train.checkpoint_every = config.train.sample_every = 10_000
  config.objective = spec(
    'objectives.diffusion.diffusion.Diffusion',
    path=spec('samplers.paths.DiscreteLinear'),
    parameterization=spec('objectives.diffusion.parameterizations.Eps'),
    times=spec('objectives.diffusion.times.DiscreteTimes'),
    sampler=spec('samplers.sampler.Sampler', solver='ancestral', steps=1000, clip_denoised=True),
    network=spec(
      'networks.unet.UNet',
      width=128,
      multipliers=(1, 2, 2, 2),
      attention=(16,),
      head_features=256,
      adaptive=False,
      dropout=0.1,
    ),
  )
  config.optim = {'model': spec('optim.adam', learning_rate=spec('optim.constant', value=2e-4, warmup=5000), clip=1.0)}
  return config
