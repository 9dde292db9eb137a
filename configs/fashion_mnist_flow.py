"""Class-conditional rectified flow on Fashion-MNIST.

python train.py --config configs/fashion_mnist_flow.py

Measured 2026-11-21 on 2 CPU cores (jax 0.12.0.1, commit e327064): 32 minutes; mean squared error of the velocity over the
last 100 steps 0.187. Grid: docs/gallery/. FID: not measured; with --config.train.steps=3000
(2026-11-22, commit 2346e36) 6.3 of 2,000 samples by Heun in 10 steps (a quick estimate, docs/comparison/diffusion/).
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('fashion_mnist', resolution=28, steps=6000, batch_size=32)
  steps = config.train.get_ref('steps')
  config.objective = spec(
    'objectives.diffusion.Diffusion',
    num_classes=10,
    path=spec('samplers.paths.RectifiedFlow'),
    prediction=spec('objectives.predictions.Velocity'),
    times=spec('objectives.times.LogitNormal'),
    network=spec('networks.unet.UNet', width=48, multipliers=(1, 2), blocks=1, attention=(7,), patch=2),
  )
  config.optim = {'model': spec('optim.adam', learning_rate=spec('optim.cosine', peak=1e-3, steps=steps, warmup=200), clip=1.0)}
  return config
