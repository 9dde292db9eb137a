"""Embeddings of times as sines and cosines."""

import math

import jax.numpy as jnp
from jax.scipy.special import ndtri
from jaxtyping import Array, Float


def sinusoidal_embedding(t: Float[Array, 'b'], features: int, max_period: float = 10_000.0) -> Float[Array, 'b d']:
  """cos and sin of t at `features / 2` geometric frequencies from 1 to 1 / max_period (1706.03762, section 3.5)."""
  half = features // 2
  frequencies = jnp.exp(-math.log(max_period) * jnp.arange(half, dtype=jnp.float32) / half)
  angles = t.astype(jnp.float32)[:, None] * frequencies[None]
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def fourier_embedding(t: Float[Array, 'b'], features: int, scale: float) -> Float[Array, 'b d']:
  """cos and sin of 2 pi f t at `features / 2` frequencies f of N(0, scale^2) (2006.10739, section 5; of times, 2011.13456).

  The frequencies are quantiles of |f| instead of draws (-f would be redundant), so that they need no seed and no buffer.
  """
  half = features // 2
  frequencies = scale * ndtri(0.5 + (jnp.arange(half) + 0.5) / (2 * half))
  angles = 2 * math.pi * t.astype(jnp.float32)[:, None] * frequencies[None]
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
