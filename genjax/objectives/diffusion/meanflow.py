"""MeanFlow (Geng et al. 2505.13447): a network for the average velocity between any two times, for sampling in one step."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from genjax import rng
from genjax.conditioners import Unconditional, complete, is_null, only
from genjax.errors import UsageError
from genjax.objectives.common import check_num_outputs, dropout_keys
from genjax.samplers.solvers import Solution
from genjax.samplers.timesteps import MAX_STEPS
from genjax.types import Aux, Batch, Cond, Conditioner, Context, Images, Keys, Player, Variables


@dataclasses.dataclass(frozen=True)
class MeanFlow:
  """One player, 'model': u(z_t, r, t) is the mean velocity over [r, t] of the flow of the straight path.

  `network(z, times, cond) -> u` with times [B, 2] = (t, t - r), the best of table 1c. They are not scaled to [0, 1000], since
  the target contains du/dt (2410.11081, section 4.1).
  """

  network: nn.Module
  image_shape: tuple[int, int, int]
  conditioner: Conditioner = Unconditional()  # noqa: RUF009 - frozen
  cond_dropout: float = 0.1
  guidance: float = 1.0  # omega of eq. 13, part of the training: it does not make sampling more expensive
  apart: float = 0.25  # fraction of the images with r != t (table 1a)
  mean: float = -0.4  # t and r are logit-normal (table 1d)
  std: float = 1.0
  p: float = 1.0  # power of the adaptive weight 1 / (|error|^2 + c)^p (eq. 22); 0: none
  c: float = 1e-3

  no_nll = 'a few-step model has no tractable density: its map is not inverted, and no ODE is solved'

  def __post_init__(self):
    for name in ('cond_dropout', 'apart'):
      if not 0 <= getattr(self, name) <= 1:
        raise UsageError(f'{name}={getattr(self, name)} must be a probability, from 0 to 1.')
    if self.guidance != 1 and not self.conditioner.fields:
      raise UsageError(f'guidance={self.guidance} needs a conditional model: set objective.conditioner.')
    if self.guidance != 1 and not self.cond_dropout:
      raise UsageError(f'guidance={self.guidance} needs an unconditional model: set cond_dropout above 0.')
    check_num_outputs(self.network)
    if self.std <= 0 or self.c <= 0:
      raise UsageError(f'std={self.std} and c={self.c} must be positive.')

  @property
  def players(self) -> dict[str, Player]:
    return {'model': Player(self.loss)}

  def init(self, key: jax.Array, batch: Batch) -> Variables:
    times, embedded = jnp.zeros((batch.image.shape[0], 2)), self.conditioner.embed(batch.cond)
    return Variables({'model': self.network.init(key, batch.image, times, embedded)['params']}, {})

  def loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """E w |u(z_t, r, t) - sg(v - (t - r) (v d_z u + d_t u))|^2 (eqs. 10 and 11, algorithm 1), v the velocity eps - x_0."""
    t_keys, r_keys, apart_keys, eps_keys, cond_keys, network_keys = rng.split(keys, 6)
    dropout = dropout_keys(self.network, network_keys)
    pair = [jax.nn.sigmoid(self.mean + self.std * rng.normal(k, ())) for k in (t_keys, r_keys)]
    t, r = jnp.maximum(*pair), jnp.minimum(*pair)
    r = jnp.where(rng.bernoulli(apart_keys, self.apart), r, t)
    eps = rng.normal(eps_keys, batch.image.shape[1:])
    cond = self.conditioner.drop(cond_keys, only(self.conditioner, batch.cond), self.cond_dropout)
    t_image = t[:, None, None, None]
    z, v = (1 - t_image) * batch.image + t_image * eps, eps - batch.image
    if self.guidance != 1:
      null = jax.lax.stop_gradient(self.u(params, z, t, t, self.conditioner.null(cond), *dropout))
      dropped = is_null(self.conditioner, cond)[:, None, None, None]
      v = jnp.where(dropped, v, self.guidance * v + (1 - self.guidance) * null)  # eq. 13
    ones = jnp.ones_like(t)
    u, du_dt = jax.jvp(lambda z, r, t: self.u(params, z, r, t, cond, *dropout), (z, r, t), (v, 0 * ones, ones))
    error = u - jax.lax.stop_gradient(v - (t - r)[:, None, None, None] * du_dt)
    squared = (error**2).sum(axis=(1, 2, 3))
    weight = jax.lax.stop_gradient((squared + self.c) ** -self.p)
    return jnp.mean(weight * squared), Aux({'squared_error': jnp.mean(error**2)})

  def u(self, params: dict, z: Images, r: Float[Array, 'b'], t: Float[Array, 'b'], cond: Cond, *dropout_keys: Keys) -> Images:
    times = jnp.stack([t, t - r], axis=1)
    return self.network.apply({'params': params['model']}, z, times, self.conditioner.embed(cond), *dropout_keys)

  def sample(self, variables: Variables, keys: Keys, cond: Cond, *, steps: int = 1) -> Images:
    """z_r = z_t - (t - r) u(z_t, r, t) (eq. 12) from t = 1 to 0 in `steps` equal steps. Missing fields of `cond` are drawn."""
    return self.solve(variables, keys, cond, steps=steps).x

  def solve(self, variables: Variables, keys: Keys, cond: Cond, *, steps: int = 1) -> Solution:
    """Like `sample`, but returns the whole trajectory; its x_0 is z_t - t u(z_t, r, t), the extrapolation of the step."""
    if not 1 <= steps <= MAX_STEPS:
      raise UsageError(f'steps={steps} must be from 1 to {MAX_STEPS:,}.')
    cond = complete(self.conditioner, cond, keys)

    def step(z, t):
      now = jnp.full(keys.shape, t)
      u = self.u(variables.params, z, now - 1 / steps, now, cond)
      return z - u / steps, (z, z - t * u)

    times = 1 - jnp.arange(steps) / steps
    z, way = jax.lax.scan(step, rng.normal(rng.fold_in(keys, 0), self.image_shape), times)
    return Solution(jnp.clip(z, -1, 1), jnp.full(keys.shape, steps), *way)
