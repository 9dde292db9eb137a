"""25 Gaussians with Wasserstein loss and gradient penalty (1704.00028): configs/gaussians_ns.py with five critic steps.

python train.py --config configs/gaussians_wgan_gp.py

Measured 2026-11-28 on a CPU core of a shared machine (Python 3.12, jax 0.12.0.1, commit 17a0eef), seeds 0, 1 and 2,
10,000 samples each (cards in docs/comparison/gan/): 25 modes, 0.25 to 0.37 of the samples of high quality; 2.4 minutes.
"""

from configs import gaussians_ns
from genjax.build import spec


def get_config():
  config = gaussians_ns.get_config()
  config.objective.loss = spec('objectives.gan.losses.Wasserstein')
  config.objective.penalties = {'gradient': spec('objectives.gan.penalties.GradientPenalty', weight=0.1)}
  config.objective.critic_steps = 5
  # A schedule counts its player's own updates.
  config.optim.generator.learning_rate = spec('optim.cosine', peak=1e-3, steps=config.train.get_ref('steps') // 5)
  return config
