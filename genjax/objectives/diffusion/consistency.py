"""Consistency models by easy consistency tuning (Geng et al. 2406.14548): maps any noise level to the image in one step."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from genjax import rng
from genjax.conditioners import Unconditional, complete, only
from genjax.errors import UsageError
from genjax.objectives.common import check_num_outputs, dropout_keys
from genjax.objectives.diffusion.parameterizations import EDMPrecond
from genjax.objectives.diffusion.times import LogNormal
from genjax.samplers.paths import EDM
from genjax.samplers.solvers import Solution
from genjax.types import Aux, Batch, Cond, Conditioner, Context, Images, Keys, Player, Variables

NEAREST = 1e-3  # smallest relative distance of the times: below, float32 cannot resolve the difference of f


@dataclasses.dataclass(frozen=True)
class Consistency:
  """One player, 'model': f(x_t, t) = f(x_r, r) along the flow, with f(x_0, 0) = x_0 by EDM's preconditioning.

  `network(x, c_noise, cond) -> F` as in genjax/objectives/diffusion/diffusion.py. r starts at 0, which trains a denoiser, and
  approaches t in stages (section 3.2).
  """

  network: nn.Module
  image_shape: tuple[int, int, int]
  stage: int  # steps until 1 - r / t is divided by q
  conditioner: Conditioner = Unconditional()  # noqa: RUF009 - frozen
  q: float = 2.0
  k: float = 8.0  # of n(t) = 1 + k sigmoid(-b t)
  b: float = 1.0
  P_mean: float = -1.1  # log t ~ N(P_mean, P_std^2)
  P_std: float = 2.0
  huber: float = 0.00054  # c / sqrt(D) of the pseudo-Huber distance (2310.14189, section 3.3), instead of L2 in ECT
  sigma_data: float = 0.5
  cond_dropout: float = 0.0  # probability of dropping conditions in training, for unconditional samples

  no_nll = 'a few-step model has no tractable density: its map is not inverted, and no ODE is solved'

  def __post_init__(self):
    if self.stage < 1 or self.q <= 1 or self.huber <= 0:
      raise UsageError(f'stage={self.stage} must be 1 or more, q={self.q} above 1, huber={self.huber} positive.')
    if self.k < 0 or self.P_std <= 0 or self.sigma_data <= 0:
      raise UsageError(
        f'k={self.k} must not be negative, P_std={self.P_std} and sigma_data={self.sigma_data} must be positive.'
      )
    if not 0 <= self.cond_dropout <= 1:
      raise UsageError(f'cond_dropout={self.cond_dropout} must be a probability, from 0 to 1.')
    check_num_outputs(self.network)

  @property
  def path(self) -> EDM:
    return EDM()

  @property
  def players(self) -> dict[str, Player]:
    return {'model': Player(self.loss)}

  def init(self, key: jax.Array, batch: Batch) -> Variables:
    embedded, t = self.conditioner.embed(batch.cond), jnp.zeros(batch.image.shape[0])
    return Variables({'model': self.network.init(key, batch.image, t, embedded)['params']}, {})

  def loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """E d(f(x_t, t), sg f(x_r, r)) / (t - r), both with the same eps (eq. 7 and section 3.3)."""
    t_keys, eps_keys, network_keys = rng.split(keys, 3)
    dropout = dropout_keys(self.network, network_keys)  # the same for both, as the conditions
    cond = self.conditioner.drop(rng.fold_in(keys, 3), only(self.conditioner, batch.cond), self.cond_dropout)
    t = LogNormal(self.P_mean, self.P_std)(self.path, t_keys)
    r = self.before(t, context.step)
    eps = rng.normal(eps_keys, batch.image.shape[1:])
    t_image, r_image = (s[:, None, None, None] for s in (t, r))
    later = self.f(params, batch.image + t_image * eps, t, cond, *dropout)
    nearer = self.f(params, batch.image + r_image * eps, jnp.where(r > 0, r, t), cond, *dropout)
    nearer = jax.lax.stop_gradient(jnp.where(r_image > 0, nearer, batch.image))
    squared = ((later - nearer) ** 2).sum(axis=(1, 2, 3))
    c = self.huber * math.sqrt(math.prod(batch.image.shape[1:]))
    distance = jnp.sqrt(squared + c**2) - c
    return jnp.mean(distance / (t - r)), Aux({'squared_error': squared.mean() / math.prod(batch.image.shape[1:])})

  def before(self, t: Float[Array, 'b'], step) -> Float[Array, 'b']:
    """r = t (1 - n(t) / q^a) in stage a = step // stage (section 3.2), clipped to [0, (1 - NEAREST) t]."""
    n = 1 + self.k * jax.nn.sigmoid(-self.b * t)
    return t * (1 - jnp.clip(n / self.q ** (step // self.stage).astype(jnp.float32), NEAREST, 1.0))

  def f(self, params: dict, x: Images, t: Float[Array, 'b'], cond: Cond, *dropout_keys: Keys) -> Images:
    prediction, t = EDMPrecond(self.sigma_data), t[:, None, None, None]
    c_noise = prediction.c_noise(self.path, t)[:, 0, 0, 0]
    scaled = prediction.c_in(self.path, t) * x
    out = self.network.apply({'params': params['model']}, scaled, c_noise, self.conditioner.embed(cond), *dropout_keys)
    return prediction.x0(self.path, t, x, out)

  def sample(self, variables: Variables, keys: Keys, cond: Cond, *, steps: int = 1, middle: float = 0.821) -> Images:
    """f of pure noise; with steps=2 again after adding noise with standard deviation `middle` (2303.01469, algorithm 1)."""
    return self.solve(variables, keys, cond, steps=steps, middle=middle).x

  def solve(self, variables: Variables, keys: Keys, cond: Cond, *, steps: int = 1, middle: float = 0.821) -> Solution:
    """Like `sample`, but returns the whole trajectory: each x_t and f(x_t, t)."""
    if steps not in (1, 2):
      raise UsageError(f'steps={steps} must be 1 or 2 for a consistency model.')
    if isinstance(middle, int | float) and not 0 < middle <= self.path.end:
      raise UsageError(f'middle={middle} must be above 0 and at most {self.path.end}.')
    cond = complete(self.conditioner, cond, keys)
    noise = lambda i: rng.normal(rng.fold_in(keys, i), self.image_shape)  # noqa: E731
    end = self.path.end
    states = [end * noise(0)]
    x0s = [self.f(variables.params, states[0], jnp.full(keys.shape, end), cond)]
    if steps == 2:
      states.append(x0s[0] + middle * noise(2))
      x0s.append(self.f(variables.params, states[1], jnp.full(keys.shape, middle), cond))
    return Solution(jnp.clip(x0s[-1], -1, 1), jnp.full(keys.shape, steps), jnp.stack(states), jnp.stack(x0s))
