"""configs/digits_pixelcnn.py by PixelRNN's row LSTM (1601.06759).

python train.py --config configs/digits_row_lstm.py

Not yet reproduced.
"""

from configs import digits_pixelcnn
from genjax.build import spec


def get_config():
  config = digits_pixelcnn.get_config()
  config.objective.network = spec('networks.row_lstm.PixelRNN', outputs=1)
  return config
