"""DDPM++ (Song et al. 2011.13456, appendix H), as Karras et al. train it (2206.00364, table 7)."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from genjax.errors import UsageError
from genjax.networks.layers import DIFFUSION, NO_COND, Conv, condition_vector
from genjax.networks.unet import Attention, Embedding, ResBlock, check_attention, group_norm
from genjax.types import Cond, Keys


class DDPMpp(nn.Module):
  """A variant of UNet (genjax/networks/unet.py) with 55.7M parameters by default.

  The embedding of the time is added and does not scale, residual blocks change the resolution, sums of branches are divided
  by sqrt(2), and in the upsampling path only the last block of each resolution has attention.
  """

  width: int = 128
  multipliers: tuple[int, ...] = (2, 2, 2)  # of `width`, one per resolution, each half of the previous one
  blocks: int = 4  # residual blocks per resolution
  attention: tuple[int, ...] = (16,)  # sides of the feature maps with self-attention
  dropout: float = 0.13
  outputs: int = 1
  remat: bool = False
  dtype: str = 'float32'

  fields = DIFFUSION

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b h w c'],
    t: Float[Array, 'b *k'],
    cond: Cond = NO_COND,
    keys: Keys | None = None,
  ) -> Float[Array, 'b h w c']:
    label = condition_vector(cond, self.fields)
    channels, factor = x.shape[-1], 1 << (len(self.multipliers) - 1)
    if x.shape[1] % factor or x.shape[2] % factor:
      raise UsageError(
        f'DDPMpp with {len(self.multipliers)} multipliers needs sides divisible by {factor}: set data.resolution.'
      )
    check_attention(self.attention, [x.shape[1] >> level for level in range(len(self.multipliers))], DDPMpp.attention)
    emb = Embedding(self.width, self.dtype, name='Embedding')(t, label)
    number = 0

    def block(h, features, resize='', attend=False):
      nonlocal number
      options = {'adaptive': False, 'rate': self.dropout, 'resize': resize, 'skip_scale': 0.5**0.5}
      cls = nn.remat(ResBlock) if self.remat else ResBlock
      h = cls(features, self.dtype, number, name=f'ResBlock_{number}', **options)(h, emb, keys)
      if attend:
        cls = nn.remat(Attention) if self.remat else Attention
        h = cls(features, self.dtype, 0.5**0.5, name=f'Attention_{number}')(h)
      number += 1
      return h

    h = Conv(self.width, (3, 3), dtype=self.dtype)(x)
    skips = [h]
    for level, multiplier in enumerate(self.multipliers):
      if level:
        h = block(h, h.shape[-1], 'halve')
        skips.append(h)
      for _ in range(self.blocks):
        h = block(h, self.width * multiplier, attend=h.shape[1] in self.attention)
        skips.append(h)
    h = block(h, h.shape[-1], attend=True)
    h = block(h, h.shape[-1])
    for level, multiplier in reversed(list(enumerate(self.multipliers))):
      for i in range(self.blocks + 1):
        attend = i == self.blocks and h.shape[1] in self.attention
        h = block(jnp.concatenate([h, skips.pop()], axis=-1), self.width * multiplier, attend=attend)
      if level:
        h = block(h, h.shape[-1], 'double')
    h = nn.silu(group_norm(h.shape[-1], self.dtype)(h)).astype(jnp.float32)
    return Conv(self.outputs * channels, (3, 3), kernel_init=nn.initializers.zeros)(h)
