"""configs/digits_vae.py, unconditional, with its KL led to 12 nats (1804.03599).

python train.py --config configs/digits_capacity.py

Not yet reproduced.
"""

from configs import digits_vae
from genjax.build import spec


def get_config():
  config = digits_vae.get_config()
  parts = {key: config.objective[key] for key in ('encoder', 'decoder', 'likelihood')}
  config.objective = spec('objectives.capacity_vae.CapacityVAE', gamma=10.0, capacity=12.0, warmup=200_000, **parts)
  return config
