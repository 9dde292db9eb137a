"""Class-conditional rectified flow on Fashion-MNIST.

python train.py --config configs/fashion_mnist_flow.py

Measured 2026-11-27 on an H100 shared by eight processes (jax 0.11.2, commit 9107b30): 3.2 minutes; FID of 10,000
samples by Heun in 10 steps 3.07, three trainings from 2.94 to 3.26 (`python evaluate.py --run runs/fashion_mnist_flow
--steps 10`, cards in docs/comparison/cards/). Grid: docs/gallery/. On 2 CPU cores 32 minutes (2026-11-21, commit
e327064).
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('fashion_mnist', resolution=28, steps=6000, batch_size=32)
  steps = config.train.get_ref('steps')
  config.objective = spec(
    'objectives.diffusion.diffusion.Diffusion',
    conditioner=spec('conditioners.ClassLabel'),
    path=spec('samplers.paths.RectifiedFlow'),
    parameterization=spec('objectives.diffusion.parameterizations.Velocity'),
    times=spec('objectives.diffusion.times.LogitNormal'),
    network=spec('networks.unet.UNet', width=48, multipliers=(1, 2), blocks=1, attention=(7,), patch=2),
  )
  config.optim = {'model': spec('optim.adam', learning_rate=spec('optim.cosine', peak=1e-3, steps=steps, warmup=200), clip=1.0)}
  return config
