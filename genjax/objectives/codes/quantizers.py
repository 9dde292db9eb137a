"""What turns vectors into one of finitely many: a codebook that follows them (VQ-VAE), or a grid that stands still (FSQ)."""

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
  """The nearest of `size` codes, which follow the means of what is nearest to them (1711.00937, section 3.1 and appendix A.1).

  Of the number and the sum of the vectors of each code, as parts of all vectors of a batch, averages are kept by `decay`; a
  code is their quotient. A code that is chosen less often than `restart` times the average goes to the place of one that is
  chosen most, a little apart, and they share what both have. All that is kept moves by means: how a batch is split does not
  matter.
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
    """Codes on a small sphere around 0, all chosen alike."""
    codes = jax.random.normal(rng.key(0), (self.size, self.dim)) / math.sqrt(self.dim)
    share = jnp.full(self.size, 1 / self.size)
    return {'share': share, 'sums': codes * share[:, None]}

  def codes(self, state: State) -> Float[Array, 'n d']:
    """All of them, a row each: the mean vector of what chose it."""
    return state['sums'] / jnp.maximum(state['share'], 1e-8)[:, None]

  def index(self, z: Float[Array, '*n d'], state: State) -> Int[Array, '*n']:
    """The nearest code."""
    codes = self.codes(state)
    flat = z.reshape(-1, self.dim)
    apart = jnp.square(codes).sum(axis=1)[None] - 2 * jnp.matmul(flat, codes.T, precision='highest')
    return apart.argmin(axis=1).reshape(z.shape[:-1])

  def vector(self, index: Int[Array, '*n'], state: State) -> Float[Array, '*n d']:
    return self.codes(state)[index]

  def quantize(
    self, z: Float[Array, 'b h w d'], state: State
  ) -> tuple[Float[Array, 'b h w d'], Int[Array, 'b h w'], Float[Array, 'b']]:
    """The codes, whose gradient is that of z (straight through); which; and what the distance costs, of each image."""
    index = self.index(jax.lax.stop_gradient(z), state)
    e = jax.lax.stop_gradient(self.vector(index, state))
    return z + jax.lax.stop_gradient(e - z), index, self.commitment * jnp.square(z - e).sum(axis=(1, 2, 3))

  def updated(self, z: Float[Array, 'b h w d'], index: Int[Array, 'b h w'], state: State) -> State:
    """After a batch."""
    flat, chosen = jax.lax.stop_gradient(z).reshape(-1, self.dim), jax.nn.one_hot(index.ravel(), self.size)
    share = state['share'] + (1 - self.decay) * (chosen.mean(axis=0) - state['share'])
    sums = state['sums'] + (1 - self.decay) * (chosen.T @ flat / len(flat) - state['sums'])
    return {'share': share, 'sums': sums}

  def reset_dead_codes(self, state: State) -> State:
    """With the dead codes beside the most chosen ones: the i-th least with the i-th most. Of buffers alone, before a batch."""
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
  """Finite scalar quantization (Mentzer et al. 2309.15505): each number of z rounded to one of `levels`, nothing learned."""

  levels: tuple[int, ...] = (8, 5, 5, 5)

  def __post_init__(self):
    if not self.levels or min(self.levels) < 3:
      raise UsageError(f'FSQ: levels={self.levels} must be 3 or more, one for each number of a code.')

  @property
  def size(self) -> int:
    return math.prod(self.levels)

  @property
  def dim(self) -> int:
    return len(self.levels)

  def buffers(self) -> State:
    return {}

  def bounded(self, z: Float[Array, '*n d']) -> Float[Array, '*n d']:
    """Between the outer levels, which are whole numbers; an even number of them lies half a level aside (section 3.1)."""
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
    return whole / self._low(z.ndim).astype(jnp.float32), self.index(z, state), jnp.zeros(len(z))

  def updated(self, z, index, state: State) -> State:
    return {}

  def reset_dead_codes(self, state: State) -> State:
    return state

  def _low(self, ndim: int) -> Int[Array, '...']:
    """By how much the lowest level lies below 0."""
    return jnp.asarray([n // 2 for n in self.levels]).reshape(*[1] * (ndim - 1), -1)

  def _places(self, ndim: int) -> Int[Array, '...']:
    return jnp.asarray(np.cumprod([1, *self.levels[:-1]])).reshape(*[1] * (ndim - 1), -1)
