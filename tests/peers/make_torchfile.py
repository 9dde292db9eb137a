"""Makes named_tensors_zip.pth and named_tensors_legacy.pth, dictionaries saved by torch in both formats, and torchfile.npz.

Made with Python 3.11, torch 2.13.0 and numpy 2.4.6. The npz has the arrays that the two files should be read as, by name.

  python make_torchfile.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
import torch


def tensors():
  """An OrderedDict as Module.state_dict makes it, with its _metadata, and further tensors of other kinds."""
  torch.manual_seed(0)
  norm = torch.nn.BatchNorm2d(3)
  with torch.no_grad():
    norm(torch.randn(4, 3, 2, 2))  # so that its buffers are not what they begin as
    norm.weight.uniform_()
  state = torch.nn.Sequential(norm).state_dict()
  matrix = torch.arange(6, dtype=torch.float32).reshape(2, 3) / 4
  state['matrix'] = matrix
  state['transposed'] = matrix.T  # of the same storage, not contiguous
  state['column'] = matrix[:, 1]  # likewise, and it begins further on
  state['half'] = torch.tensor([0.5, -1.25, 65504, 2**-24], dtype=torch.float16)
  state['scalar'] = torch.tensor(-(2**40), dtype=torch.int64)
  state['empty'] = torch.zeros(0, dtype=torch.int32)
  state['parameter'] = torch.nn.Parameter(torch.tensor([1.5, -2.5]))
  return state


def main():
  folder, state = Path(sys.argv[1]), tensors()
  torch.save(state, folder / 'named_tensors_zip.pth')
  torch.save(state, folder / 'named_tensors_legacy.pth', _use_new_zipfile_serialization=False)
  np.savez_compressed(folder / 'torchfile.npz', **{name: x.detach().numpy() for name, x in state.items()})


if __name__ == '__main__':
  main()
