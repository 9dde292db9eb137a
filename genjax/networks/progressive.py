"""Networks for progressive growing (Karras et al. 1710.10196, section 2, appendix A): each level has layers from and to images.

`growth`, from 0 to the number of levels, is a buffer that the objective sets (genjax/objectives/gan/progressive.py): at 2 the
images are those of level 2 (4, 8, 16 pixels a side), at 2.3 they are 0.3 times those of level 3 plus 0.7 times those of level
2, upsampled. All images have the full size; pixels of lower levels are repeated. `top` is the highest level that is computed;
the result does not depend on it as long as it is not below `growth`. Adam's step count is not reset at each level as in the
authors' code: the first updates of a level's weights are 1 / sqrt(1 - b2) times the learning rate, but the level still has
little weight then. The drift term is omitted. Equalized learning rate as in genjax/networks/stylegan2.py.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from genjax.networks.layers import LABEL, NO_COND, concat_label, condition_vector, halvings, square_side
from genjax.networks.resample import double, halve
from genjax.networks.stylegan2 import DiscriminatorEpilogue, EqualConv, EqualDense, activate, channels
from genjax.types import Cond


def shares(growth: Float[Array, ''], levels: int) -> list[Float[Array, '']]:
  """The weights of the levels 0 to `levels`: their sum is 1, and at most two neighbors are not 0."""
  return [jnp.maximum(0.0, 1 - jnp.abs(growth - level)) for level in range(levels + 1)]


def blended(images: Float[Array, 'b h w c'], growth: Float[Array, ''], levels: int) -> Float[Array, 'b h w c']:
  """Real images at full size, blended for the level `growth`."""
  total, small = 0.0, images
  for level, share in reversed(list(enumerate(shares(growth, levels)))):
    large = small
    for _ in range(levels - level):
      large = double(large)
    total, small = total + share * large, halve(small) if level else small
  return total


def unit(h: Float[Array, '*b c']) -> Float[Array, '*b c']:
  """Each pixel's features scaled to a mean square of 1 (section 4.2)."""
  return h * jax.lax.rsqrt(jnp.square(h).mean(axis=-1, keepdims=True) + 1e-8)


class ProgressiveGenerator(nn.Module):
  """Latent [B, z_dim] -> image around [-1, 1], float32 [B, H, W, C]."""

  image_shape: tuple[int, int, int]
  z_dim: int = 128
  width: int = 16
  max_width: int = 512
  top: int | None = None
  dtype: str = 'float32'
  normalizes: ClassVar[bool] = True  # z is normalized, with its label

  fields = LABEL

  @property
  def levels(self) -> int:
    return halvings(square_side(self.image_shape, 'ProgressiveGenerator'))

  @nn.compact
  def __call__(self, z: Float[Array, 'b z'], cond: Cond = NO_COND, train: bool = True):
    label = condition_vector(cond, self.fields)
    levels, base = self.levels, self.image_shape[0] >> self.levels
    share = shares(self.variable('growth', 'level', lambda: jnp.zeros(())).value, levels)
    h, image = unit(concat_label(z, label)), 0.0
    for level in range((levels if self.top is None else self.top) + 1):
      n = channels(levels - level, self.width, self.max_width)
      if level:
        h = unit(activate(EqualConv(n, dtype=self.dtype, name=f'{level}_first')(double(h))))
      else:
        h = EqualDense(base * base * n, dtype=self.dtype, name='0_first')(h).reshape(-1, base, base, n)
        h = unit(activate(h))
      h = unit(activate(EqualConv(n, dtype=self.dtype, name=f'{level}_second')(h)))
      rgb = EqualConv(self.image_shape[-1], 1, dtype=self.dtype, name=f'{level}_rgb')(h).astype(jnp.float32)
      for _ in range(levels - level):
        rgb = double(rgb)
      image = image + share[level] * rgb
    return image


class ProgressiveDiscriminator(nn.Module):
  """Image [B, H, W, C] -> logit of being real, float32 [B].

  `stddev_group` is the group size of the minibatch deviation, 1 for none.
  """

  width: int = 16
  max_width: int = 512
  stddev_group: int = 4
  conditioning: str = 'projection'
  top: int | None = None
  dtype: str = 'float32'

  fields = LABEL

  @property
  def uses_batch_statistics(self) -> bool:
    return self.stddev_group > 1

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], cond: Cond = NO_COND, train: bool = True):
    label = condition_vector(cond, self.fields)
    levels = halvings(square_side(x.shape[1:], 'ProgressiveDiscriminator'))
    top = levels if self.top is None else self.top
    growth = self.variable('growth', 'level', lambda: jnp.zeros(())).value
    x = concat_label(x, label if self.conditioning == 'concat' else None)
    pyramid = [x]  # the smallest first
    for _ in range(levels):
      pyramid.insert(0, halve(pyramid[0]))
    h = None
    for level in reversed(range(top + 1)):
      n = channels(levels - level, self.width, self.max_width)
      features = activate(EqualConv(n, 1, dtype=self.dtype, name=f'{level}_rgb')(pyramid[level]))
      if h is not None:  # the weight of the level above increases as it grows
        part = jnp.clip(growth - level, 0, 1).astype(h.dtype)
        features = part * h + (1 - part) * features
      h = features
      if level:
        h = activate(EqualConv(n, dtype=self.dtype, name=f'{level}_first')(h))
        m = channels(levels - level + 1, self.width, self.max_width)
        h = halve(activate(EqualConv(m, dtype=self.dtype, name=f'{level}_second')(h)))
    return DiscriminatorEpilogue(self.stddev_group, self.conditioning, self.dtype, name='Ending_0')(h, label)
