"""Variational diffusion models (Kingma et al. 2107.00630): the loss is the variational bound, with a learned noise schedule."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from genjax import rng
from genjax.conditioners import Unconditional, only
from genjax.errors import UsageError
from genjax.objectives.common import bits_per_dim, check_num_outputs, dropout_keys
from genjax.objectives.diffusion.denoising import Denoising
from genjax.samplers.elbo import prior_nats, reconstruction_nats
from genjax.samplers.paths import VPLearned
from genjax.samplers.sampler import Sampler
from genjax.samplers.solvers import Denoiser
from genjax.types import Aux, Batch, Cond, Conditioner, Context, Images, Keys, Player, Variables

PerImage = Float[Array, 'b']


@dataclasses.dataclass(frozen=True)
class VDM(Denoising):
  """Two players that share gamma(t) = -log SNR, which increases from gamma_0 to gamma_1 and is interpolated by `schedule`.

  'model' (the network and both ends) minimizes the bound in continuous time, which does not depend on the interpolation
  (section 5.1). 'schedule' minimizes the variance of the estimate of the bound by the interpolation (appendix I.2). Pixels have
  256 levels. `network(z, gamma / 8, cond) -> eps`, `schedule(t) -> [0, 1]`.
  """

  network: nn.Module
  schedule: nn.Module
  image_shape: tuple[int, int, int]
  gamma_0: float = -13.3  # initial values of the ends (appendix H)
  gamma_1: float = 5.0
  conditioner: Conditioner = Unconditional()  # noqa: RUF009 - frozen
  cond_dropout: float = 0.1
  sampler: Sampler = Sampler()  # noqa: RUF009 - frozen

  estimators = {name: Denoising.estimators[name] for name in ('bound', 'ode', 'ode_exact')}
  timesteps = VPLearned.timesteps

  def __post_init__(self):
    if not 0 <= self.cond_dropout <= 1:
      raise UsageError(f'cond_dropout={self.cond_dropout} must be a probability, from 0 to 1.')
    check_num_outputs(self.network)
    if self.gamma_0 >= self.gamma_1:
      raise UsageError(f'gamma_0={self.gamma_0} must be below gamma_1={self.gamma_1}.')

  @property
  def players(self) -> dict[str, Player]:
    return {'model': Player(self.loss), 'schedule': Player(self.variance)}

  def init(self, key: jax.Array, batch: Batch) -> Variables:
    network_key, schedule_key = jax.random.split(key)
    gamma, embedded = jnp.zeros(batch.image.shape[0]), self.conditioner.embed(batch.cond)
    params = {
      'network': self.network.init(network_key, batch.image, gamma, embedded)['params'],
      'gamma_0': jnp.asarray(self.gamma_0),
      'gamma_1': jnp.asarray(self.gamma_1),
    }
    return Variables({'model': params, 'schedule': self.schedule.init(schedule_key, gamma)['params']}, {})

  def gamma(self, params: dict, t: PerImage) -> PerImage:
    low, high = params['model']['gamma_0'], params['model']['gamma_1']
    return low + (high - low) * self.schedule.apply({'params': params['schedule']}, t)

  def loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """The bound in bits per dimension (eq. 11): prior, reconstruction and diffusion loss."""
    part_keys, eps_keys = rng.split(keys, 2)
    x_0, ends = batch.image, params['model']
    start, end = jnp.exp(0.5 * ends['gamma_0']), jnp.exp(0.5 * ends['gamma_1'])
    eps = rng.normal(eps_keys, x_0.shape[1:])
    parts = {
      'prior': prior_nats(x_0, end),
      'reconstruction': reconstruction_nats(x_0, eps, start),
      'diffusion': self.diffusion(params, batch, part_keys),
    }
    bits = {name: bits_per_dim(nats.mean(), x_0) for name, nats in parts.items()}
    return sum(bits.values()), Aux({f'{name}_bits': value for name, value in bits.items()})

  def variance(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """E L^2 of the diffusion loss L in bits per dimension: its variance, since the schedule does not change its mean."""
    part_keys, _ = rng.split(keys, 2)
    bits = bits_per_dim(self.diffusion(params, batch, part_keys), batch.image)
    return jnp.mean(bits**2), Aux({})

  def diffusion(self, params: dict, batch: Batch, keys: Keys) -> PerImage:
    """1/2 gamma'(t) |eps - eps_hat(z_t)|^2 at one time per image (eq. 17), in nats."""
    t_keys, eps_keys, cond_keys, network_keys = rng.split(keys, 4)
    t = rng.uniform(t_keys)
    gamma, slope = jax.jvp(lambda t: self.gamma(params, t), (t,), (jnp.ones_like(t),))
    alpha, sigma = (jnp.sqrt(jax.nn.sigmoid(s * gamma))[:, None, None, None] for s in (-1, 1))
    eps = rng.normal(eps_keys, batch.image.shape[1:])
    cond = self.conditioner.drop(cond_keys, only(self.conditioner, batch.cond), self.cond_dropout)
    z = alpha * batch.image + sigma * eps
    error = eps - self.eps(params, z, gamma, cond, *dropout_keys(self.network, network_keys))
    return 0.5 * slope * (error**2).sum(axis=(1, 2, 3))

  def eps(self, params: dict, z: Images, gamma: PerImage, cond: Cond, *dropout_keys: Keys) -> Images:
    embedded = self.conditioner.embed(cond)
    return self.network.apply({'params': params['model']['network']}, z, gamma / 8, embedded, *dropout_keys)

  def noise_path(self, variables: Variables) -> VPLearned:
    ends = variables.params['model']
    return VPLearned(lambda t: self.gamma(variables.params, t.reshape(-1)).reshape(t.shape), ends['gamma_0'], ends['gamma_1'])

  def denoiser(self, variables: Variables, cond: Cond) -> Denoiser:
    path = self.noise_path(variables)

    def denoise(x, t):
      t = jnp.broadcast_to(t, x.shape[:1])
      gamma = self.gamma(variables.params, t)
      t = t[:, None, None, None]
      return (x - path.sigma(t) * self.eps(variables.params, x, gamma, cond)) / path.alpha(t)

    return denoise
