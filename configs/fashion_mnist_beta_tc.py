"""configs/fashion_mnist_vae.py, unconditional, with a weight of six for the total correlation (1802.04942).

python train.py --config configs/fashion_mnist_beta_tc.py

Measured 2026-11-28 on a CPU core of a shared machine (Python 3.12, jax 0.12.0.1, commit 0e2e764): 38 minutes; -ELBO 245.9 nats
[244.3, 247.4] of the 10,000 test images; FID 46.4, recall 0.07 of 10,000 samples (card in docs/comparison/latent/). Four
latents are used and each changes one thing; the others are not (traversal in docs/gallery/). The batch's total correlation, a
logarithm's estimate, ends at -1.8 nats.
"""

from configs import fashion_mnist_vae
from genjax.build import spec


def get_config():
  config = fashion_mnist_vae.get_config()
  parts = {key: config.objective[key] for key in ('encoder', 'decoder', 'likelihood')}
  config.objective = spec('objectives.vae.beta_tc.BetaTCVAE', **parts)
  return config
