"""Diffusion transformer with adaLN-Zero (Peebles & Xie 2212.09748)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from genjax.errors import UsageError
from genjax.networks.embeddings import sinusoidal_embedding
from genjax.networks.layers import DIFFUSION, NO_COND, condition_vector, from_patches, to_patches
from genjax.types import Cond

ZEROS = nn.initializers.zeros
XAVIER = nn.initializers.xavier_uniform()


def positions(rows: int, columns: int, features: int) -> np.ndarray:
  """Fixed sine and cosine embeddings of a grid, [rows * columns, features]: half for the row, half for the column."""
  quarter = features // 4
  frequencies = 10_000.0 ** (-np.arange(quarter) / quarter)
  angles = [np.arange(n)[:, None] * frequencies[None] for n in (rows, columns)]
  row, column = (np.concatenate([np.sin(a), np.cos(a)], axis=1) for a in angles)  # [n, features / 2]
  pairs = [np.repeat(row, columns, axis=0), np.tile(column, (rows, 1))]
  return np.concatenate(pairs, axis=1).astype(np.float32)


def modulate(x: Float[Array, 'b n d'], shift: Float[Array, 'b d'], scale: Float[Array, 'b d']) -> Float[Array, 'b n d']:
  return x * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
  """Attention and MLP, each scaled, shifted and gated by the embedding (section 3.2). Initially the identity."""

  heads: int
  dtype: str

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d'], emb: Float[Array, 'b d']) -> Float[Array, 'b n d']:
    b, n, d = x.shape
    modulation = jnp.split(nn.Dense(6 * d, kernel_init=ZEROS, dtype=self.dtype)(nn.silu(emb)), 6, axis=-1)
    norm = lambda x: nn.LayerNorm(epsilon=1e-6, use_bias=False, use_scale=False, dtype=self.dtype)(x)  # noqa: E731
    dense = lambda features: nn.Dense(features, kernel_init=XAVIER, dtype=self.dtype)  # noqa: E731
    q, k, v = jnp.split(dense(3 * d)(modulate(norm(x), *modulation[:2])).reshape(b, n, self.heads, -1), 3, axis=-1)
    x = x + modulation[2][:, None] * dense(d)(jax.nn.dot_product_attention(q, k, v).reshape(b, n, d))
    h = dense(d)(nn.gelu(dense(4 * d)(modulate(norm(x), *modulation[3:5]))))
    return x + modulation[5][:, None] * h


class DiT(nn.Module):
  """(x_t, t, cond) -> an image-shaped prediction, float32 [B, H, W, C]; same arguments as UNet. The output is initially 0.

  Sizes of table 1: S 384, 12, 6; B 768, 12, 12; L 1024, 24, 16; XL 1152, 28, 16 (width, depth, heads).
  """

  width: int = 384
  depth: int = 12
  heads: int = 6
  patch: int = 2
  outputs: int = 1
  remat: bool = False
  dtype: str = 'float32'

  fields = DIFFUSION

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], t: Float[Array, 'b *k'], cond: Cond = NO_COND) -> Float[Array, 'b h w c']:
    label = condition_vector(cond, self.fields)
    b, height, width, channels = x.shape
    p, d = self.patch, self.width
    if height % p or width % p:
      raise UsageError(f'a DiT with patch={p} needs sides divisible by {p}, not {height}x{width}.')
    if d % self.heads or d % 4:
      raise UsageError(f'width={d} of a DiT must be divisible by heads={self.heads} and by 4.')
    rows, columns = height // p, width // p
    small = nn.initializers.normal(0.02)
    times = t.reshape(b, -1)
    embedded = jnp.concatenate([sinusoidal_embedding(times[:, i], 256) for i in range(times.shape[1])], axis=1)
    emb = nn.Dense(d, kernel_init=small)(nn.silu(nn.Dense(d, kernel_init=small)(embedded)))
    if label is not None:
      emb = emb + nn.Dense(d, use_bias=False, kernel_init=nn.initializers.normal(1.0))(label)
    emb = emb.astype(self.dtype)

    h = to_patches(x, p, p).reshape(b, rows * columns, -1)
    h = nn.Dense(d, kernel_init=XAVIER, dtype=self.dtype)(h) + jnp.asarray(positions(rows, columns, d), self.dtype)[None]
    block = nn.remat(Block) if self.remat else Block
    for i in range(self.depth):
      h = block(self.heads, self.dtype, name=f'Block_{i}')(h, emb)
    shift, scale = jnp.split(nn.Dense(2 * d, kernel_init=ZEROS, dtype=self.dtype)(nn.silu(emb)), 2, axis=-1)
    h = modulate(nn.LayerNorm(epsilon=1e-6, use_bias=False, use_scale=False, dtype=self.dtype)(h), shift, scale)
    h = nn.Dense(p * p * self.outputs * channels, kernel_init=ZEROS)(h.astype(jnp.float32))
    return from_patches(h.reshape(b, rows, columns, -1), p, p)
