"""Importance-weighted autoencoder (Burda et al. 1509.00519), doubly reparameterized (Tucker et al. 1810.04152)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax import rng
from genjax.errors import UsageError
from genjax.objectives.common import bits_per_dim
from genjax.objectives.vae.vae import GaussianVAE, Posterior
from genjax.types import Aux, Batch, Context, Keys


@dataclasses.dataclass(frozen=True)
class IWAE(GaussianVAE):
  """Minimizes the bound with `k` samples, -log 1/k sum_i p(x, z_i) / q(z_i|x) (1509.00519, eq. 8): -ELBO for k = 1.

  `doubly`: the encoder's gradient is sum_i w_i^2 d log w_i / dz_i dz_i / dphi with normalized weights w_i (1810.04152, eq. 9).
  It has the same expectation, and its signal-to-noise ratio does not decrease with k.
  """

  k: int = 5
  doubly: bool = True

  def __post_init__(self):
    super().__post_init__()
    if self.k < 1:
      raise UsageError(f'k={self.k} must be 1 or more.')

  def loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """-log 1/k sum_i w_i, and the gradient."""
    z_keys, x_keys = rng.split(keys, 2)
    one = self.encode(params, batch, x_keys)
    repeat = lambda tree: jax.tree.map(lambda a: jnp.repeat(a, self.k, axis=0), tree)  # noqa: E731 - [B, ...] -> [B k, ...]
    posterior, embedded = repeat(one), repeat(self.conditioner.embed(batch.cond))
    noise = rng.normal(z_keys, (self.k, *one.mean.shape[1:])).reshape(posterior.mean.shape)
    z = posterior.mean + jnp.exp(0.5 * posterior.log_var) * noise

    def log_weights(z: Float[Array, 'n z'], posterior: Posterior) -> Float[Array, 'b k']:
      return self.log_weights(params, context.buffers, posterior, z, embedded).reshape(-1, self.k)

    if self.doubly:
      fixed = jax.tree.map(jax.lax.stop_gradient, posterior)
      weights = jax.nn.softmax(jax.lax.stop_gradient(log_weights(z, fixed)), axis=1)
      log_w = log_weights(scale_gradient(z, weights.reshape(-1, 1)), fixed)
    else:
      log_w = log_weights(z, posterior)
    bound = (jax.nn.logsumexp(log_w, axis=1) - math.log(self.k)).mean()
    metrics = {'iwae_nats': bound, 'elbo_nats': log_w.mean(), 'bits_per_dim': bits_per_dim(-bound, batch.image)}
    metrics['effective_draws'] = (1 / jnp.square(jax.nn.softmax(log_w, axis=1)).sum(axis=1)).mean()
    out = self.decode(params, z, embedded)
    return -bound, Aux(metrics, self.update_buffers(params, context.buffers, posterior.x, out))


def scale_gradient(x: Array, scale: Array) -> Array:
  """Returns x, and scales its gradient by `scale`."""
  fixed = jax.lax.stop_gradient(x)
  return fixed + scale * (x - fixed)
