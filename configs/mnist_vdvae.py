"""Hierarchical VAE (VDVAE, 2011.10650), small, on dynamically binarized MNIST: for its likelihood.

python train.py --config configs/mnist_vdvae.py
python evaluate.py --run runs/mnist_vdvae --metrics likelihood --estimator iwae_50

Not yet reproduced.
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('mnist', resolution=28, steps=30_000, batch_size=32)
  steps, sides = config.train.get_ref('steps'), (7, 1)
  config.objective = spec(
    'objectives.vae.hierarchical.HierarchicalVAE',
    encoder=spec('networks.vdvae.VDVAEEncoder', sides=sides, blocks=(2, 1), width=128, patch=4),
    decoder=spec('networks.vdvae.VDVAEDecoder', sides=sides, blocks=(4, 2), width=128, z_dim=8, patch=4),
    likelihood=spec('objectives.likelihoods.BinarizedBernoulli'),
  )
  rate = spec('optim.cosine', peak=1e-3, steps=steps, warmup=500)
  config.optim = {'model': spec('optim.adam', learning_rate=rate, b2=0.99, skip=1000.0)}
  return config
