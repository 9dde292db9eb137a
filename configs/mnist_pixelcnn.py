"""PixelCNN++ (1701.05517), small, over 2x2 patches of dynamically binarized MNIST, one softmax per patch: exact likelihoods.

python train.py --config configs/mnist_pixelcnn.py
python evaluate.py --run runs/mnist_pixelcnn --metrics likelihood

Measured 2026-11-28 on a CPU core of a shared machine (Python 3.12, jax 0.12.0.1, commit 95ac2e7): 57 minutes; 80.51 nats
[80.12, 80.90] of the 10,000 test images, exact (card in docs/comparison/likelihood/). Grid: docs/gallery/.
"""

from configs.common import base
from genjax.build import spec


def get_config():
  config = base('mnist', resolution=28, steps=8_000, batch_size=16)
  steps = config.train.get_ref('steps')
  config.objective = spec(
    'objectives.autoregressive.pixels.Autoregressive',
    network=spec('networks.pixelcnn.PixelCNN', outputs=16, width=32, blocks=2, levels=2),
    likelihood=spec('objectives.likelihoods.BinarizedPatches', patch=(2, 2)),
  )
  rate = spec('optim.cosine', peak=2e-3, steps=steps, warmup=200)
  config.optim = {'model': spec('optim.adam', learning_rate=rate, b2=0.99)}
  return config
