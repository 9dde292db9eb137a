"""EDM on CIFAR-10 (Karras et al. 2206.00364): DDPM++ of 55.7M parameters, unconditional, for a GPU. Not yet reproduced.

The paper: FID 1.97 (Inception-V3, 50,000 samples, 35 evaluations) after 200 million images.

python train.py --config configs/cifar10_edm.py --config.train.dtype=bfloat16
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('cifar10', resolution=32, steps=390_625, batch_size=512)
  config.train.ema_halflife = 500_000.0
  config.train.checkpoint_every = config.train.sample_every = 5000
  config.objective = spec(
    'objectives.diffusion.diffusion.Diffusion',
    augment=0.12,
    path=spec('samplers.paths.EDM'),
    parameterization=spec('objectives.diffusion.parameterizations.EDMPrecond'),
    times=spec('objectives.diffusion.times.LogNormal'),
    sampler=spec('samplers.sampler.Sampler', steps=18),
    network=spec('networks.ddpmpp.DDPMpp'),
  )
  config.optim = {'model': spec('optim.adam', learning_rate=spec('optim.constant', value=1e-3, warmup=19_531))}
  return config
