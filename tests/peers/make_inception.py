"""Makes inception.npz: activations of pytorch-fid's Inception with seeded weights, and torch-fidelity's resizing.

Made with Python 3.11, torch 2.13.0, torchvision 0.28.0, pytorch-fid 0.3.0 and torch-fidelity 0.4.0 (the last three installed
without dependencies), numpy 2.4.6 and scipy 1.17.1. Computed in float64 from float32 weights, stored as float32.

  python make_inception.py inception.npz
"""

import json
import sys
import zlib
from unittest import mock

import numpy as np
import torch

operators = torch.library.Library('torchvision', 'DEF')  # torchvision looks for them, and does without compiled ones
operators.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
operators.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')

from pytorch_fid import inception  # noqa: E402
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x  # noqa: E402


def weight(name, shape):
  """The seeded array of this name."""
  r = np.random.default_rng(zlib.crc32(name.encode()))
  if name.startswith('fc.'):
    x = r.normal(0, 0.02, shape)
  elif name.endswith('.conv.weight'):
    x = r.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
  elif name.endswith('.bn.weight'):
    x = r.uniform(0.8, 1.2, shape)
  elif name.endswith(('.bn.bias', '.running_mean')):
    x = r.normal(0, 0.1, shape)
  elif name.endswith('.running_var'):
    x = r.uniform(0.5, 1.5, shape)
  else:
    raise ValueError(name)
  return x.astype(np.float32)


def network():
  """pytorch-fid's network with the seeded arrays, and the names and shapes of its state."""
  with mock.patch.object(inception, 'load_state_dict_from_url'), mock.patch.object(torch.nn.Module, 'load_state_dict'):
    model = inception.fid_inception_v3().eval()
  state = {name: tuple(x.shape) for name, x in model.state_dict().items()}
  samples = sorted(name for name in state if not name.endswith('num_batches_tracked'))
  missing, unexpected = model.load_state_dict(
    {name: torch.from_numpy(weight(name, state[name])) for name in samples}, strict=False
  )
  assert not unexpected
  assert all(name.endswith('num_batches_tracked') for name in missing)
  return model, state, samples


def summary(name, x, count):
  """What is kept of an array: shape, mean, deviation and values at seeded places of it when flat."""
  x = np.asarray(x)
  places = np.random.default_rng(2).integers(0, x.size, count)
  values = dict(shape=x.shape, mean=x.mean(dtype=np.float64), std=x.std(dtype=np.float64), places=places.astype(np.int32))
  return {f'{name}/{key}': np.asarray(value) for key, value in values.items()} | {
    f'{name}/values': x.reshape(-1)[places].astype(np.float32)
  }


def main():
  model, state, samples = network()
  result, blocks = {}, []

  def keep(name):
    def hook(module, arguments, output):
      blocks.append(name)
      result.update(summary(name, output, 64))

    return hook

  for name, module in model.named_children():
    if name != 'dropout':
      module.register_forward_hook(keep(name))
  model.avgpool.register_forward_hook(
    lambda module, arguments, x: result.update(features=x.flatten(1).numpy().astype(np.float32))
  )
  x = np.random.default_rng(1).uniform(-1, 1, (1, 3, 299, 299)).astype(np.float32)
  with torch.no_grad():
    result['logits'] = model.double()(torch.from_numpy(x).double()).numpy().astype(np.float32)
  result['blocks'] = json.dumps(blocks)
  result['state_dict'] = json.dumps(list(state.items()))
  result['drawn'] = json.dumps(samples)

  image = np.random.default_rng(3).integers(0, 256, (1, 3, 32, 40), dtype=np.uint8)
  resized = interpolate_bilinear_2d_like_tensorflow1x(torch.from_numpy(image).float(), size=(299, 299), align_corners=False)
  result.update(resize_input=image, **summary('resized', resized, 2000))
  np.savez_compressed(sys.argv[1], **result)


if __name__ == '__main__':
  main()
