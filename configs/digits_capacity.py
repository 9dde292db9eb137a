"""configs/digits_vae.py, unconditional, with a capacity of 12 nats for the KL (1804.03599).

python train.py --config configs/digits_capacity.py

Measured 2026-11-28 on a CPU core of a shared machine (Python 3.12, jax 0.12.0.1, commit c06f1c9): 0.6 minutes;
FID 5.58, recall 0.89 of 10,000 samples; 29.3 nats of the 297 test images (a bound).
Card: docs/comparison/latent/. Grid: docs/gallery/.
"""

from configs import digits_vae
from genjax.build import spec


def get_config():
  config = digits_vae.get_config()
  parts = {key: config.objective[key] for key in ('encoder', 'decoder', 'likelihood')}
  config.objective = spec('objectives.vae.capacity.CapacityVAE', gamma=10.0, capacity=12.0, warmup=200_000, **parts)
  return config
