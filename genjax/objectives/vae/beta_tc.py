"""beta-TCVAE (Chen et al. 1802.04942): decomposes the KL into three parts, and weights the total correlation."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax.densities import log_normal
from genjax.objectives.vae.vae import Posterior, RegularizedVAE, check_not_negative, warmup_weight
from genjax.types import Context


@dataclasses.dataclass(frozen=True)
class BetaTCVAE(RegularizedVAE):
  """alpha I(x; z) + beta TC(z) + gamma sum_j KL(q(z_j) || p(z_j)) instead of the KL, their sum (1802.04942, section 3).

  q(z) for z ~ q(z|x) is estimated from the batch as q(z|x) / N plus (N - 1) / N times the mean over the other images, where N
  is the size of the data set. As with the paper's stratified sampling, it is unbiased (its logarithm is not), and exact if the
  batch is the data set. The loss of an image depends on the others of the batch, so splitting a batch (`accumulate`, pmap)
  changes the result, as with batch statistics.
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
    pairs = log_normal(z[:, None], posterior.mean[None], posterior.log_var[None])
    return decomposition(pairs, log_normal(z, 0.0, 0.0).sum(axis=1), data_size)


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
