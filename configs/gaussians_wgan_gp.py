"""25 Gaussians by the Wasserstein loss with gradient penalty (1704.00028): configs/gaussians_ns.py with five critic steps.

python train.py --config configs/gaussians_wgan_gp.py

Not yet reproduced.
"""

from configs import gaussians_ns
from genjax.build import spec


def get_config():
  config = gaussians_ns.get_config()
  config.objective.loss = spec('objectives.adversarial.Wasserstein')
  config.objective.penalties = {'gradient': spec('objectives.penalties.GradientPenalty', weight=0.1)}
  config.objective.critic_steps = 5
  # A schedule counts its player's own updates.
  config.optim.generator.learning_rate = spec('optim.cosine', peak=1e-3, steps=config.train.get_ref('steps') // 5)
  return config
