"""VAE of fully connected networks on dynamically binarised MNIST, unconditional: for its likelihood.

python train.py --config configs/mnist_binarised_vae.py
python evaluate.py --run runs/mnist_binarised_vae --metrics likelihood --estimator iwae_50

Not yet reproduced.
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('mnist', resolution=28, steps=40_000, batch_size=128)
  steps = config.train.get_ref('steps')
  config.objective = spec(
    'objectives.vae.VAE',
    encoder=spec('networks.mlp.MLPEncoder', z_dim=40, width=512),
    decoder=spec('networks.mlp.MLPDecoder', width=512),
    likelihood=spec('objectives.likelihoods.BinarisedBernoulli'),
    warmup=500_000,
  )
  config.optim = {'model': spec('optim.adam', learning_rate=spec('optim.cosine', peak=1e-3, steps=steps, warmup=500))}
  return config
