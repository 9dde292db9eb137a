"""The Inception-V3 network of FID (1706.08500), with the details in which it differs from later versions.

Szegedy et al. 1512.00567 in TensorFlow's release of 2015-12-05: average pooling excludes the padding, the last block uses max
pooling, there are 1,008 classes, and images are resized bilinearly without antialiasing. Batch normalization is folded into
the convolutions. The weights cannot be distributed with genjax: see `open_inception` (genjax/metrics/extractors.py).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from genjax.metrics import import_weights

FILE = 'pt_inception-2015-12-05-6726825d.pth'  # published by pytorch-fid; the name contains the first digits of the hash
SHA256 = '6726825d'


class Conv(nn.Module):
  """Convolution, folded batch normalization, ReLU."""

  features: int
  kernel: tuple[int, int]
  stride: int = 1
  same: bool = True  # padded so that stride 1 keeps the size

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
    padding = [(k // 2, k // 2) if self.same else (0, 0) for k in self.kernel]
    return nn.relu(nn.Conv(self.features, self.kernel, self.stride, padding, name='conv')(x))


def average(x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
  """Average pooling, 3x3, stride 1, without counting the padding."""
  return nn.avg_pool(x, (3, 3), (1, 1), 'SAME', count_include_pad=False)


def maximum(x, stride: int):
  return nn.max_pool(x, (3, 3), (stride, stride), 'SAME' if stride == 1 else 'VALID')


class Block(nn.Module):
  """Branches of convolutions on the same input, concatenated in the output."""

  @staticmethod
  def conv(x, name, features, kernel, stride=1):
    return Conv(features, kernel, stride, same=stride == 1, name=name)(x)


class BlockA(Block):
  """35x35, four branches."""

  pool_features: int

  @nn.compact
  def __call__(self, x):
    conv = self.conv
    a = conv(x, 'branch1x1', 64, (1, 1))
    b = conv(conv(x, 'branch5x5_1', 48, (1, 1)), 'branch5x5_2', 64, (5, 5))
    c = conv(conv(x, 'branch3x3dbl_1', 64, (1, 1)), 'branch3x3dbl_2', 96, (3, 3))
    c = conv(c, 'branch3x3dbl_3', 96, (3, 3))
    d = conv(average(x), 'branch_pool', self.pool_features, (1, 1))
    return jnp.concatenate([a, b, c, d], axis=-1)


class BlockB(Block):
  """35x35 -> 17x17."""

  @nn.compact
  def __call__(self, x):
    conv = self.conv
    a = conv(x, 'branch3x3', 384, (3, 3), 2)
    b = conv(conv(x, 'branch3x3dbl_1', 64, (1, 1)), 'branch3x3dbl_2', 96, (3, 3))
    b = conv(b, 'branch3x3dbl_3', 96, (3, 3), 2)
    return jnp.concatenate([a, b, maximum(x, 2)], axis=-1)


class BlockC(Block):
  """17x17, convolutions of 1x7 and 7x1."""

  width: int

  @nn.compact
  def __call__(self, x):
    conv, w, row, column = self.conv, self.width, (1, 7), (7, 1)
    a = conv(x, 'branch1x1', 192, (1, 1))
    b = conv(conv(x, 'branch7x7_1', w, (1, 1)), 'branch7x7_2', w, row)
    b = conv(b, 'branch7x7_3', 192, column)
    c = conv(conv(x, 'branch7x7dbl_1', w, (1, 1)), 'branch7x7dbl_2', w, column)
    c = conv(conv(c, 'branch7x7dbl_3', w, row), 'branch7x7dbl_4', w, column)
    c = conv(c, 'branch7x7dbl_5', 192, row)
    d = conv(average(x), 'branch_pool', 192, (1, 1))
    return jnp.concatenate([a, b, c, d], axis=-1)


class BlockD(Block):
  """17x17 -> 8x8."""

  @nn.compact
  def __call__(self, x):
    conv = self.conv
    a = conv(conv(x, 'branch3x3_1', 192, (1, 1)), 'branch3x3_2', 320, (3, 3), 2)
    b = conv(conv(x, 'branch7x7x3_1', 192, (1, 1)), 'branch7x7x3_2', 192, (1, 7))
    b = conv(conv(b, 'branch7x7x3_3', 192, (7, 1)), 'branch7x7x3_4', 192, (3, 3), 2)
    return jnp.concatenate([a, b, maximum(x, 2)], axis=-1)


class BlockE(Block):
  """8x8, branches that fork into 1x3 and 3x1."""

  pool: str  # 'average', or 'maximum' in the last block

  @nn.compact
  def __call__(self, x):
    conv = self.conv

    def fork(x, name):
      return [conv(x, f'{name}a', 384, (1, 3)), conv(x, f'{name}b', 384, (3, 1))]

    a = conv(x, 'branch1x1', 320, (1, 1))
    b = fork(conv(x, 'branch3x3_1', 384, (1, 1)), 'branch3x3_2')
    c = conv(conv(x, 'branch3x3dbl_1', 448, (1, 1)), 'branch3x3dbl_2', 384, (3, 3))
    c = fork(c, 'branch3x3dbl_3')
    d = conv(average(x) if self.pool == 'average' else maximum(x, 1), 'branch_pool', 192, (1, 1))
    return jnp.concatenate([a, *b, *c, d], axis=-1)


class InceptionV3(nn.Module):
  """Images [B, 299, 299, 3], about [-1, 1] -> features [B, 2048] after the last pooling and logits [B, 1008]."""

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w 3']) -> tuple[Float[Array, 'b 2048'], Float[Array, 'b 1008']]:
    def conv(x, name, features, size, stride=1, same=False):
      return Conv(features, (size, size), stride, same, name=name)(x)

    x = conv(x, 'Conv2d_1a_3x3', 32, 3, 2)
    x = conv(x, 'Conv2d_2a_3x3', 32, 3)
    x = maximum(conv(x, 'Conv2d_2b_3x3', 64, 3, same=True), 2)
    x = conv(x, 'Conv2d_3b_1x1', 80, 1)
    x = maximum(conv(x, 'Conv2d_4a_3x3', 192, 3), 2)
    for letter, pool_features in zip('bcd', (32, 64, 64), strict=True):
      x = BlockA(pool_features, name=f'Mixed_5{letter}')(x)
    x = BlockB(name='Mixed_6a')(x)
    for letter, width in zip('bcde', (128, 160, 160, 192), strict=True):
      x = BlockC(width, name=f'Mixed_6{letter}')(x)
    x = BlockD(name='Mixed_7a')(x)
    x = BlockE('average', name='Mixed_7b')(x)
    x = BlockE('maximum', name='Mixed_7c')(x)
    features = x.mean(axis=(1, 2))
    return features, nn.Dense(1008, name='fc')(features)


def convert(tensors: Mapping[str, np.ndarray]) -> dict:
  """Parameters of InceptionV3 from the arrays of the PyTorch checkpoint, by name. Raises UsageError if they do not match."""
  norm_of = lambda name: f'{name.removesuffix(".conv")}.bn' if name.endswith('.conv') else None  # noqa: E731
  return import_weights.convert(InceptionV3(), 299, tensors, norm_of, FILE)


def resize_tensorflow(x: Float[Array, 'b h w c'], size: int = 299) -> Float[Array, 'b s s c']:
  """Bilinear as in TensorFlow 1: output pixel i samples position i * h / size between two neighbors, without antialiasing."""

  def weights(length):
    place = jnp.arange(size, dtype=jnp.float32) * (length / size)
    low = jnp.minimum(jnp.floor(place), length - 1).astype(jnp.int32)
    part = place - low
    high = jnp.minimum(low + 1, length - 1)
    return jax.nn.one_hot(low, length) * (1 - part)[:, None] + jax.nn.one_hot(high, length) * part[:, None]  # [size, length]

  rows, columns = weights(x.shape[1]), weights(x.shape[2])
  x = jnp.einsum('sh,bhwc->bswc', rows, x, precision='highest')
  return jnp.einsum('tw,bswc->bstc', columns, x, precision='highest')
