"""PixelRNN with the row LSTM (van den Oord et al. 1601.06759, section 3.1), and its output layers (section 3.4)."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from genjax.networks.layers import LABEL, NO_COND, condition_vector
from genjax.types import Cond

Images = Float[Array, 'b h w c']


def before(x: Float[Array, 'b *h w c'], size: int) -> Float[Array, 'b *h w d']:
  """Concatenates each position with the `size` - 1 positions to its left along the channels."""
  return jnp.concatenate([moved(x, i) for i in range(size)], axis=-1)


def moved(x: Float[Array, 'b *h w c'], places: int) -> Float[Array, 'b *h w c']:
  """Shifts rows by `places` to the right, or to the left if negative, with zero padding."""
  pads = [(0, 0)] * x.ndim
  pads[-2] = (max(places, 0), max(-places, 0))
  start = max(-places, 0)
  return jax.lax.slice_in_dim(jnp.pad(x, pads), start, start + x.shape[-2], axis=x.ndim - 2)


class RowLSTM(nn.Module):
  """An LSTM over rows. The state depends on that of the row above, through a convolution of size 3, and on the previous inputs.

  A compiled loop runs over the rows. Its convolutions are matrix products of shifted rows, because gradients of convolutions
  in loops are slow on CPU.
  """

  width: int
  dtype: str

  @nn.compact
  def __call__(self, x: Images) -> Images:
    b, _, w, _ = x.shape
    from_input = nn.Dense(4 * self.width, dtype=self.dtype)(before(x, 2))  # masked convolution of three: here and on the left
    kernel = self.param('kernel', nn.initializers.lecun_normal(), (3 * self.width, 4 * self.width)).astype(self.dtype)

    def row(state, gates):
      h, c = state
      around = jnp.concatenate([moved(h, 1), h, moved(h, -1)], axis=-1)
      o, f, i, g = jnp.split(gates + around @ kernel, 4, axis=-1)
      c = nn.sigmoid(f + 1) * c + nn.sigmoid(i) * jnp.tanh(g)
      h = nn.sigmoid(o) * jnp.tanh(c)
      return (h, c), h

    zeros = jnp.zeros((b, w, self.width), self.dtype)
    _, rows = jax.lax.scan(row, (zeros, zeros), jnp.moveaxis(from_input, 1, 0))
    return jnp.moveaxis(rows, 0, 1)


class PixelRNN(nn.Module):
  """Image [B, H, W, C] -> parameters of the likelihood of each pixel given the previous ones, float32 [B, H, W, outputs].

  The first layer covers three pixels to the left and seven in the row above, instead of a 7x7 convolution with mask A as in
  the paper. The states carry information from the rows farther up.
  """

  outputs: int
  width: int = 32
  depth: int = 3
  dtype: str = 'float32'
  causal = True  # outputs depend only on previous positions

  fields = LABEL

  @nn.compact
  def __call__(self, x: Images, cond: Cond = NO_COND) -> Images:
    label = condition_vector(cond, self.fields)
    x = x.astype(self.dtype)
    left = before(moved(x, 1), 3)  # mask A of the first layer: only previous positions
    above = jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]
    above = jnp.concatenate([moved(above, i) for i in (3, 2, 1, 0, -1, -2, -3)], axis=-1)
    h = nn.Dense(2 * self.width, dtype=self.dtype)(jnp.concatenate([left, above], axis=-1))
    if label is not None:
      h = h + nn.Dense(2 * self.width, use_bias=False, dtype=self.dtype)(label)[:, None, None]
    for _ in range(self.depth):
      h = h + nn.Dense(2 * self.width, dtype=self.dtype)(RowLSTM(self.width, self.dtype)(h))
    h = nn.relu(nn.Dense(2 * self.width, dtype=self.dtype)(nn.relu(h)))
    return nn.Dense(self.outputs)(h.astype(jnp.float32))
