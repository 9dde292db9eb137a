"""Quantizers of vectors: a learned codebook (VQ-VAE), or a fixed grid (FSQ)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from genjax import rng
from genjax.errors import UsageError

State = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Codebook:
  """Quantizes to the nearest of `size` codes, learned by exponential moving averages (1711.00937, section 3.1, appendix A.1).

  The averages, with rate `decay`, are of the number and the sum of the vectors assigned to each code, as fractions of all
  vectors of a batch; a code is their quotient. A code that is used less often than `restart` times the mean is moved next to
  one of the most used codes, and both share its statistics. All statistics are means, so that they do not depend on how a batch
  is split.
  """

  size: int = 256
  dim: int = 16
  decay: float = 0.99
  commitment: float = 0.25  # weight of |z - sg(e)|^2 (eq. 3)
  restart: float = 0.05

  def __post_init__(self):
    if self.size < 2 or self.dim < 1:
      raise UsageError(f'Codebook: size={self.size} must be 2 or more, dim={self.dim} 1 or more.')
    if not 0 <= self.decay < 1 or self.commitment < 0 or not 0 <= self.restart < 1:
      raise UsageError(
        f'Codebook: decay={self.decay} and restart={self.restart} must be in [0, 1), commitment={self.commitment} not negative.'
      )

  def buffers(self) -> State:
    """Random codes near 0, all with the same frequency."""
    codes = jax.random.normal(rng.key(0), (self.size, self.dim)) / math.sqrt(self.dim)
    share = jnp.full(self.size, 1 / self.size)
    return {'share': share, 'sums': codes * share[:, None]}

  def codes(self, state: State) -> Float[Array, 'n d']:
    """All codes, one per row: the mean of the vectors assigned to each."""
    return state['sums'] / jnp.maximum(state['share'], 1e-8)[:, None]

  def index(self, z: Float[Array, '*n d'], state: State) -> Int[Array, '*n']:
    """The index of the nearest code."""
    codes = self.codes(state)
    flat = z.reshape(-1, self.dim)
    distances = jnp.square(codes).sum(axis=1)[None] - 2 * jnp.matmul(flat, codes.T, precision='highest')
    return distances.argmin(axis=1).reshape(z.shape[:-1])

  def vector(self, index: Int[Array, '*n'], state: State) -> Float[Array, '*n d']:
    return self.codes(state)[index]

  def quantize(
    self, z: Float[Array, 'b h w d'], state: State
  ) -> tuple[Float[Array, 'b h w d'], Int[Array, 'b h w'], Float[Array, 'b']]:
    """The codes, whose gradient is that of z (straight-through); their indices; and the commitment loss of each image."""
    index = self.index(jax.lax.stop_gradient(z), state)
    e = jax.lax.stop_gradient(self.vector(index, state))
    return z + jax.lax.stop_gradient(e - z), index, self.commitment * jnp.square(z - e).sum(axis=(1, 2, 3))

  def updated(self, z: Float[Array, 'b h w d'], index: Int[Array, 'b h w'], state: State) -> State:
    """The state after a batch."""
    flat, chosen = jax.lax.stop_gradient(z).reshape(-1, self.dim), jax.nn.one_hot(index.ravel(), self.size)
    share = state['share'] + (1 - self.decay) * (chosen.mean(axis=0) - state['share'])
    sums = state['sums'] + (1 - self.decay) * (chosen.T @ flat / len(flat) - state['sums'])
    return {'share': share, 'sums': sums}

  def reset_dead_codes(self, state: State) -> State:
    """Moves dead codes next to the most used ones, the i-th least used to the i-th most used. Depends only on buffers."""
    order = jnp.argsort(state['share'])  # stable
    least, most = order[: self.size // 2], order[::-1][: self.size // 2]
    dead = state['share'][least] < self.restart / self.size
    half, half_sums, middle = state['share'][most] / 2, state['sums'][most] / 2, self.codes(state)[most]
    aside = 1e-2 * jax.random.normal(rng.key(1), middle.shape) * jnp.abs(middle).mean()
    pick = lambda new, old: jnp.where(dead.reshape(-1, *[1] * (old.ndim - 1)), new, old)  # noqa: E731
    share = state['share'].at[least].set(pick(half, state['share'][least])).at[most].set(pick(half, state['share'][most]))
    moved = pick((middle + aside) * half[:, None], state['sums'][least])
    sums = state['sums'].at[least].set(moved).at[most].set(pick(half_sums, state['sums'][most]))
    return {'share': share, 'sums': sums}


@dataclasses.dataclass(frozen=True)
class FSQ:
  """Finite scalar quantization (Mentzer et al. 2309.15505): rounds each dimension of z to one of `levels`; not learned."""

  levels: tuple[int, ...] = (8, 5, 5, 5)

  def __post_init__(self):
    if not self.levels or min(self.levels) < 3:
      raise UsageError(f'FSQ: levels={self.levels} must be 3 or more for each dimension of a code.')

  @property
  def size(self) -> int:
    return math.prod(self.levels)

  @property
  def dim(self) -> int:
    return len(self.levels)

  def buffers(self) -> State:
    return {}

  def bounded(self, z: Float[Array, '*n d']) -> Float[Array, '*n d']:
    """z bounded to the outer levels, which are integers; an even number of levels is offset by half a level (section 3.1)."""
    levels = jnp.asarray(self.levels, jnp.float32)
    half = (levels - 1) * (1 - 1e-3) / 2
    offset = jnp.where(levels % 2 == 0, 0.5, 0.0)
    offset, half, shape = (a.reshape(*[1] * (z.ndim - 1), -1) for a in (offset, half, jnp.arctanh(offset / half)))
    return jnp.tanh(z + shape) * half - offset

  def index(self, z: Float[Array, '*n d'], state: State) -> Int[Array, '*n']:
    whole = jnp.round(self.bounded(z)).astype(jnp.int32) + self._low(z.ndim)
    return (whole * self._places(z.ndim)).sum(axis=-1)

  def vector(self, index: Int[Array, '*n'], state: State) -> Float[Array, '*n d']:
    """The levels, scaled to [-1, 1]."""
    ndim = index.ndim + 1
    levels = jnp.asarray(self.levels).reshape(*[1] * index.ndim, -1)
    whole = index[..., None] // self._places(ndim) % levels
    return (whole - self._low(ndim)) / self._low(ndim).astype(jnp.float32)

  def quantize(
    self, z: Float[Array, 'b h w d'], state: State
  ) -> tuple[Float[Array, 'b h w d'], Int[Array, 'b h w'], Float[Array, 'b']]:
    bounded = self.bounded(z)
    whole = bounded + jax.lax.stop_gradient(jnp.round(bounded) - bounded)
    return whole / self._low(z.ndim).astype(jnp.float32), self.index(z, state), jnp.zeros(z.shape[0])

  def updated(self, z, index, state: State) -> State:
    return {}

  def reset_dead_codes(self, state: State) -> State:
    return state

  def _low(self, ndim: int) -> Int[Array, '...']:
    """The distance of the lowest level below 0."""
    return jnp.asarray([n // 2 for n in self.levels]).reshape(*[1] * (ndim - 1), -1)

  def _places(self, ndim: int) -> Int[Array, '...']:
    return jnp.asarray(np.cumprod([1, *self.levels[:-1]])).reshape(*[1] * (ndim - 1), -1)
