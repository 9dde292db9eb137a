"""configs/digits_pixelcnn.py with the row LSTM of PixelRNN (1601.06759).

python train.py --config configs/digits_row_lstm.py

Measured 2026-11-28 on a CPU core of a shared machine (Python 3.12, jax 0.12.0.1, commit 0e2e764): 6.8 minutes;
19.58 nats [19.12, 20.04] of the 297 test images, exact (`python evaluate.py --run runs/digits_row_lstm --metrics likelihood`,
card in docs/comparison/likelihood/). Grid, of binary images: docs/gallery/.
"""

from configs import digits_pixelcnn
from genjax.build import spec


def get_config():
  config = digits_pixelcnn.get_config()
  config.objective.network = spec('networks.row_lstm.PixelRNN', outputs=1)
  return config
