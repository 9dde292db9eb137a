"""Improved DDPM (Nichol & Dhariwal 2102.09672): the network also predicts the variance of each reverse step."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax import rng
from genjax.errors import UsageError
from genjax.objectives.common import bits_per_dim
from genjax.objectives.diffusion.denoising import EVALUATIONS, postprocess
from genjax.objectives.diffusion.diffusion import DiffusionModel
from genjax.samplers.elbo import discrete, log_clipped, step_nats
from genjax.samplers.guidance import guided
from genjax.samplers.paths import DiscretePath, NoisePath
from genjax.samplers.process import posterior
from genjax.samplers.sampler import Sampler
from genjax.samplers.solvers import Denoiser, Solution, learned_ancestral
from genjax.types import Aux, Batch, Cond, Context, Images, Keys, Variables


@dataclasses.dataclass(frozen=True)
class LearnedVariance(DiffusionModel):
  """Minimizes L_hybrid = L_simple + lambda L_vlb (eq. 16), where L_vlb, in bits per dimension, affects only the variance.

  `network` has `outputs=2`: F, and v in [-1, 1], which interpolates between the log-variances of the posterior and of the
  forward step (eq. 15). The path and its times are discrete. Solvers other than 'ancestral' use only F.
  """

  vlb_weight: float = 1e-3  # lambda

  num_outputs = 2
  estimators = {name: DiffusionModel.estimators[name] for name in ('bound', 'ode', 'ode_exact')}

  def __post_init__(self):
    super().__post_init__()
    if not isinstance(self.path, DiscretePath):
      raise UsageError(f'{self.path} has no discrete steps: use samplers.paths.DiscreteCosine.')
    if getattr(self.times, 'T', None) is None:
      raise UsageError(f'{self.times} has times between the steps: use objectives.diffusion.times.DiscreteTimes.')
    if self.vlb_weight < 0:
      raise UsageError(f'vlb_weight={self.vlb_weight} must not be negative.')

  def loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """L_hybrid; L_vlb is estimated as T times its term at the sampled time."""
    point = self.training_point(batch, keys)
    f, v = self.both(params, point.x_t, point.t, point.cond, *point.dropout_keys)
    x_0 = self.parameterization.x0(self.path, point.t, point.x_t, jax.lax.stop_gradient(f))
    nats = step_nats(self.path, point.t, point.x_0, point.x_t, x_0, self.log_variance(point.t, v))
    bits = bits_per_dim(self.path.T * nats.mean(), batch.image)
    return self.error(f, point) + self.vlb_weight * bits, Aux({'vlb_bits': bits})

  def both(self, params: dict, *inputs) -> tuple[Images, Images]:
    """F and v; the arguments are those of `apply_network`."""
    out = self.apply_network(params, *inputs)
    return out[..., : out.shape[-1] // 2], out[..., out.shape[-1] // 2 :]

  def output(self, params: dict, *inputs) -> Images:
    return self.both(params, *inputs)[0]

  def log_variance(self, t: Float[Array, 'b 1 1 1'], v: Images) -> Images:
    """The log-variance of the step from t to t - 1/T (eq. 15)."""
    q = posterior(self.path, t, (jnp.round(t * self.path.T) - 1) / self.path.T)
    part = 0.5 * (1 + v)
    return part * jnp.log(q.forward) + (1 - part) * log_clipped(self.path, t, q)

  def predict(self, variables: Variables, cond: Cond):
    """(x_t, t) -> x_0 and v."""

    def predict(x, t):
      t = jnp.broadcast_to(t, x.shape[:1])[:, None, None, None]
      f, v = self.both(variables.params, x, t, self.network_cond(cond, size=x.shape[0]))
      return self.parameterization.x0(self.path, t, x, f), v

    return predict

  def bound(self, variables: Variables, batch: Batch, keys: Keys) -> Float[Array, 'b']:
    predict = self.predict(variables, batch.cond)

    def with_variance(x, t):
      x_0, v = predict(x, t)
      return x_0, self.log_variance(t[:, None, None, None], v)

    return discrete(with_variance, self.path, batch.image, keys, EVALUATIONS)

  def solve_with(
    self,
    sampler: Sampler,
    variables: Variables,
    keys: Keys,
    cond: Cond,
    guide: Denoiser | None = None,
    to_posterior: Callable[[Denoiser, NoisePath], Denoiser] | None = None,
  ) -> Solution:
    """Like `Diffusion`; solver 'ancestral' uses the learned variance, also for longer steps (section 4), unless it restores."""
    if sampler.solver != 'ancestral' or to_posterior is not None:
      return super().solve_with(sampler, variables, keys, cond, guide, to_posterior)
    predict = self.predict(variables, cond)
    if sampler.is_guided:
      guide = guide or self.unconditional_denoiser(variables, cond)

    def predict_guided(x, t):
      x_0, v = predict(x, t)
      if sampler.is_guided:
        x_0 = guided(lambda x, t: x_0, guide, sampler.guidance, self.path, sampler.guidance_interval)(x, t)
      return (jnp.clip(x_0, -1, 1) if sampler.clip_denoised else x_0), v

    times, noise = sampler.times(self.path), rng.normal(rng.fold_in(keys, 0), self.image_shape)
    solution = learned_ancestral(predict_guided, self.path, self.path.sigma(times[0]) * noise, times, rng.fold_in(keys, 2))
    return postprocess(solution, sampler)
