"""configs/fashion_mnist_vae.py, unconditional, with its total correlation weighed six times (1802.04942).

python train.py --config configs/fashion_mnist_beta_tc.py

Not yet reproduced.
"""

from configs import fashion_mnist_vae
from genjax.build import spec


def get_config():
  config = fashion_mnist_vae.get_config()
  parts = {key: config.objective[key] for key in ('encoder', 'decoder', 'likelihood')}
  config.objective = spec('objectives.beta_tc.BetaTCVAE', images=60_000, **parts)
  return config
