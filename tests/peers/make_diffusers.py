"""Makes diffusers.npz: outputs of diffusers' UNet2DModel with seeded weights.

Made with Python 3.11, torch 2.13.0, diffusers 0.42.1 and numpy 2.4.6. Of each network the file has its config, the names and
shapes of its arrays, and its outputs at three time steps. Weights and inputs are drawn again from their names. Computed in
float64 from float32 weights (diffusers embeds times in float32), stored as float32.

  python make_diffusers.py diffusers.npz
"""

import json
import sys

import numpy as np
import torch
from diffusers import UNet2DModel
from seeded import weight

CIFAR10 = {  # config.json of google/ddpm-cifar10-32
  'sample_size': 32,
  'block_out_channels': (128, 256, 256, 256),
  'layers_per_block': 2,
  'down_block_types': ('DownBlock2D', 'AttnDownBlock2D', 'DownBlock2D', 'DownBlock2D'),
  'up_block_types': ('UpBlock2D', 'UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D'),
  'attention_head_dim': None,
  'downsample_padding': 0,
  'flip_sin_to_cos': False,
  'freq_shift': 1,
  'norm_eps': 1e-6,
  'norm_num_groups': 32,
}
NETWORKS = {
  'full': CIFAR10,
  'narrow': CIFAR10 | {'block_out_channels': (32, 64, 64, 64)},
  'options': {  # every value that the shapes do not show differs from CIFAR10
    'sample_size': 16,
    'in_channels': 1,
    'out_channels': 1,
    'block_out_channels': (16, 32),
    'layers_per_block': 1,
    'down_block_types': ('AttnDownBlock2D', 'DownBlock2D'),
    'up_block_types': ('UpBlock2D', 'AttnUpBlock2D'),
    'attention_head_dim': 8,
    'downsample_padding': 1,
    'flip_sin_to_cos': True,
    'freq_shift': 0,
    'norm_eps': 1e-3,
    'norm_num_groups': 8,
  },
}
TIMES = (0, 37, 999)


def main():
  result = {}
  for name, config in NETWORKS.items():
    model = UNet2DModel(**config).eval()
    state = {key: tuple(x.shape) for key, x in model.state_dict().items()}
    model.load_state_dict({key: torch.from_numpy(weight(key, shape)) for key, shape in state.items()})
    side = config['sample_size']
    shape = (len(TIMES), config.get('in_channels', 3), side, side)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with torch.no_grad():
      output = model.double()(torch.from_numpy(x).double(), torch.tensor(TIMES)).sample.numpy().astype(np.float32)
    print(name, sum(np.prod(shape) for shape in state.values()), 'parameters, outputs of deviation', output.std())
    result[f'{name}/config'] = json.dumps(dict(model.config))
    result[f'{name}/shapes'] = json.dumps(state)
    result[f'{name}/times'] = np.array(TIMES)
    result[f'{name}/output'] = output[:, :, ::3, ::3]
  np.savez_compressed(sys.argv[1], **result)


if __name__ == '__main__':
  main()
