"""VDVAE (2011.10650) on CIFAR-10 as in its table 3: 39M parameters, 10 logistics per pixel, without labels. For a GPU.

python train.py --config configs/cifar10_vdvae.py
python evaluate.py --run runs/cifar10_vdvae --metrics likelihood

Not yet reproduced. The paper has 2.87 bits per dimension. Its loss, and therefore the norms at which gradients are clipped
(200) and skipped (400), are in nats per pixel and channel; here they are per image.
"""

from configs.common import base
from genjax.build import spec

DIMS = 32 * 32 * 3


def get_config():
  config = base('cifar10', resolution=32, steps=1_000_000, batch_size=32)
  config.objective = spec(
    'objectives.vae.hierarchical.HierarchicalVAE',
    encoder=spec('networks.vdvae.VDVAEEncoder', sides=(32, 16, 8, 4, 1), blocks=(12, 7, 7, 4, 3), width=384),
    decoder=spec(
      'networks.vdvae.VDVAEDecoder', sides=(32, 16, 8, 4, 1), blocks=(22, 11, 6, 3, 1), width=384, z_dim=16, outputs=100
    ),
    likelihood=spec('objectives.likelihoods.LogisticMixture', mixtures=10),
  )
  rate = spec('optim.constant', value=2e-4, warmup=100)
  config.optim = {
    'model': spec('optim.adam', learning_rate=rate, b1=0.9, b2=0.9, weight_decay=0.01, clip=200.0 * DIMS, skip=400.0 * DIMS)
  }
  return config
