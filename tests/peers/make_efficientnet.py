"""Makes efficientnet.npz: features and logits of EfficientNet-Lite0 for a photograph, by efficientnet-lite-pytorch.

Made with Python 3.11, torch 2.13.0, efficientnet-lite-pytorch 0.1.0 (installed without dependencies), pillow 13.0.0 and
numpy 2.4.6. WEIGHTS is an npz of the arrays of its efficientnet-lite0-57934424.pth by name, IMAGE any photograph.
Computed in float64 from float32 weights, stored as float32.

  python make_efficientnet.py WEIGHTS IMAGE efficientnet.npz
"""

import sys

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image


def photograph(path, size=224):
  """The square in the middle of an image, resized: [size, size, 3] uint8."""
  image = Image.open(path).convert('RGB')
  side = min(image.size)
  left, top = ((length - side) // 2 for length in image.size)
  return np.asarray(image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC))


def main():
  weights, image, out = sys.argv[1:]
  model = EfficientNet.from_name('efficientnet-lite0').eval()
  with np.load(weights) as file:
    model.load_state_dict({name: torch.from_numpy(np.asarray(file[name])) for name in file.files})
  model.double()
  pixels = photograph(image)
  x = (torch.from_numpy(pixels.astype(np.float64).transpose(2, 0, 1))[None] - 127) / 128
  result = {}
  model._avg_pooling.register_forward_hook(lambda module, arguments, pooled: result.update(features=pooled.flatten(1)))
  with torch.no_grad():
    result['logits'] = model(x)
  np.savez_compressed(out, **{name: x.numpy().astype(np.float32) for name, x in result.items()})


if __name__ == '__main__':
  main()
