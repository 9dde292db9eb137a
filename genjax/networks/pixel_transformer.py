"""A decoder-only transformer (Radford et al. 2019; pre-norm) over the pixels of an image, or the codes of one, row by row."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from genjax.errors import UsageError
from genjax.networks.layers import LABEL, NO_COND, condition_vector
from genjax.types import Cond

Rows = Float[Array, 'b n d']


class Cache(NamedTuple):
  """Keys and values of the previous positions, for every block: [depth, B, N, heads, d]."""

  keys: Float[Array, 'l b n h d']
  values: Float[Array, 'l b n h d']


class CausalBlock(nn.Module):
  """Causal self-attention and an MLP, both residual."""

  width: int
  heads: int
  depth: int  # of the network: deeper networks start with smaller residuals
  dtype: str

  def setup(self):
    dense = lambda n, scale=1.0: nn.Dense(  # noqa: E731
      n, dtype=self.dtype, kernel_init=nn.initializers.variance_scaling(scale, 'fan_in', 'normal')
    )
    self.norms = [nn.LayerNorm(dtype=self.dtype) for _ in range(2)]
    self.qkv, self.out = dense(3 * self.width), dense(self.width, 0.5 / self.depth)
    self.up, self.down = dense(4 * self.width), dense(self.width, 0.5 / self.depth)

  def __call__(self, x: Rows) -> Rows:
    q, k, v = self.heads_of(x)
    return self.rest(x, jax.nn.dot_product_attention(q, k, v, is_causal=True))

  def step(self, x: Float[Array, 'b 1 d'], place: Int[Array, ''], keys, values):
    """The output at one position with keys and values [B, N, heads, d] of the previous ones, and both updated."""
    q, k, v = self.heads_of(x)
    keys, values = (jax.lax.dynamic_update_slice_in_dim(old, new, place, 1) for old, new in ((keys, k), (values, v)))
    visible = (jnp.arange(keys.shape[1]) <= place)[None, None, None]
    return self.rest(x, jax.nn.dot_product_attention(q, keys, values, mask=visible)), keys, values

  def heads_of(self, x: Rows):
    b, n, d = x.shape
    return jnp.split(self.qkv(self.norms[0](x)).reshape(b, n, 3 * self.heads, d // self.heads), 3, axis=2)

  def rest(self, x: Rows, attended: Float[Array, 'b n h d']) -> Rows:
    x = x + self.out(attended.reshape(x.shape))
    return x + self.down(nn.gelu(self.up(self.norms[1](x))))


class PixelTransformer(nn.Module):
  """Image [B, H, W, C] -> parameters of the likelihood of each pixel given the previous ones, float32 [B, H, W, outputs].

  `step` computes the same output for one position, from a `Cache` of the previous ones.
  """

  image_shape: tuple[int, int, int]
  outputs: int
  width: int = 128
  depth: int = 4
  heads: int = 4
  dtype: str = 'float32'
  causal = True  # outputs depend only on previous positions

  fields = LABEL

  def setup(self):
    if self.width % self.heads:
      raise UsageError(f'objective.network.width={self.width} must be a multiple of heads={self.heads}.')
    rows, columns = self.image_shape[:2]
    small = nn.initializers.normal(0.1)
    self.row, self.column = (self.param(name, small, (n, self.width)) for name, n in (('row', rows), ('column', columns)))
    self.pixel = nn.Dense(self.width, dtype=self.dtype)
    self.label = nn.Dense(self.width, use_bias=False, dtype=self.dtype)
    self.blocks = [CausalBlock(self.width, self.heads, self.depth, self.dtype) for _ in range(self.depth)]
    self.norm, self.head = nn.LayerNorm(dtype=self.dtype), nn.Dense(self.outputs)

  def __call__(self, x: Float[Array, 'b h w c'], cond: Cond = NO_COND) -> Float[Array, 'b h w o']:
    b, h, w, c = x.shape
    last = jnp.pad(x.reshape(b, h * w, c), ((0, 0), (1, 0), (0, 0)))[:, :-1]  # the input of each position is the previous pixel
    rows = self.embed(last, self.places()[None], cond)
    for block in self.blocks:
      rows = block(rows)
    return self.answer(rows).reshape(b, h, w, self.outputs)

  @nn.nowrap
  def cache(self, batch: int) -> Cache:
    """An empty cache."""
    shape = (self.depth, batch, self.image_shape[0] * self.image_shape[1], self.heads, self.width // self.heads)
    return Cache(jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype))

  def step(self, last: Float[Array, 'b c'], place: Int[Array, ''], cache: Cache, cond: Cond = NO_COND):
    """The output [B, 1, 1, outputs] at `place`, where `last` is the previous pixel (0 at the first), and the new cache."""
    rows, updated = self.embed(last[:, None], self.places()[place][None, None], cond), []
    for block, keys, values in zip(self.blocks, *cache, strict=True):
      rows, *keys_values = block.step(rows, place, keys, values)
      updated.append(keys_values)
    return self.answer(rows)[:, None], Cache(*(jnp.stack(layers) for layers in zip(*updated, strict=True)))

  def places(self) -> Float[Array, 'n d']:
    rows, columns = self.image_shape[:2]
    return (self.row[:, None] + self.column[None]).reshape(rows * columns, self.width)

  def embed(self, last: Float[Array, 'b n c'], places: Float[Array, 'l n d'], cond: Cond) -> Rows:
    label = condition_vector(cond, self.fields)
    rows = self.pixel(last) + jnp.broadcast_to(places, (last.shape[0], *places.shape[1:])).astype(self.dtype)
    return rows if label is None else rows + self.label(label)[:, None]

  def answer(self, rows: Rows) -> Float[Array, 'b n o']:
    return self.head(self.norm(rows).astype(jnp.float32))
