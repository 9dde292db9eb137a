"""beta-TCVAE (Chen et al. 1802.04942): the KL in three parts, of which the total correlation weighs more."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax.objectives.vae.vae import Posterior, RegularizedVAE, check_not_negative, log_normal, warmup_weight
from genjax.types import Context


@dataclasses.dataclass(frozen=True)
class BetaTCVAE(RegularizedVAE):
  """alpha I(x; z) + beta TC(z) + gamma sum_j KL(q(z_j) || p(z_j)) in the place of the KL, their sum (1802.04942, section 3).

  q(z) of a z ~ q(z|x) is estimated from the batch as q(z|x) / N and (N - 1) / N of the mean over the other images, N the size
  of the data set: without bias (its logarithm has one), as by the paper's stratified sampling, and exactly where the batch is
  the data set. An image's loss so depends on the others with which it is computed, and parts of a batch (`accumulate`, pmap)
  are not the whole, as with batch statistics.
  """

  beta: float = 6.0
  alpha: float = 1.0
  gamma: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    check_not_negative(self, 'beta', 'alpha', 'gamma')

  def regularizer(self, posterior: Posterior, z: Float[Array, 'b z'], context: Context) -> tuple[Float[Array, ''], dict]:
    parts = self.decomposition(posterior, z, context.data_size)
    information, total_correlation, dimensions = (part.mean() for part in parts)
    weight = self.beta * warmup_weight(self.warmup, context)
    value = self.alpha * information + weight * total_correlation + self.gamma * dimensions
    return value, {
      'information_nats': information, 'total_correlation_nats': total_correlation, 'dimensions_nats': dimensions
    }  # fmt: skip

  def decomposition(self, posterior: Posterior, z: Float[Array, 'b z'], data_size: int) -> tuple[Float[Array, 'b'], ...]:
    """log q(z|x) / q(z), log q(z) / prod_j q(z_j) and sum_j log q(z_j) / p(z_j) at the z of each image."""
    pairs = log_normal(z[:, None, :, None], posterior.mean[None, :, :, None], posterior.log_var[None, :, :, None])
    log_prior = -0.5 * (jnp.square(z) + math.log(2 * math.pi)).sum(axis=1)
    return decomposition(pairs, log_prior, data_size)


def decomposition(
  pairs: Float[Array, 'b b z'], log_prior: Float[Array, 'b'], data_size: int
) -> tuple[Float[Array, 'b'], Float[Array, 'b'], Float[Array, 'b']]:
  """log q(z|x) - log p(z) in three parts, at the z of each image; pairs[i, k, j] = log q(z_j|x_k) at that of image i."""
  n = len(pairs)
  own = jnp.eye(n)
  log_share = jnp.log(own / data_size + (1 - own) * (1 - 1 / data_size) / max(n - 1, 1))
  log_q = jax.nn.logsumexp(pairs.sum(axis=2) + log_share, axis=1)
  log_each = jax.nn.logsumexp(pairs + log_share[:, :, None], axis=1).sum(axis=1)
  return jnp.diagonal(pairs).sum(axis=0) - log_q, log_q - log_each, log_each - log_prior
