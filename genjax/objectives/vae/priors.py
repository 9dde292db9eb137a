"""What autoencoders with one latent vector draw from its prior."""

from jaxtyping import Array, Float

from genjax import rng
from genjax.objectives.common import check_scale, labels_or_random, one_hot
from genjax.types import Images, Keys, Labels, Variables


class Latents:
  """Of an autoencoder whose prior is z ~ N(0, I), with `z_dim`, `decode(params, z, label)`, `likelihood` and `num_classes`."""

  def sample(self, variables: Variables, keys: Keys, labels: Labels | None = None, *, temperature: float = 1.0) -> Images:
    """The mean of p(x|z) for z ~ N(0, temperature^2 I). Without labels a conditional model draws them uniformly."""
    check_scale('temperature', temperature)
    label = one_hot(labels_or_random(labels, keys, self.num_classes), self.num_classes)
    return self.from_latents(variables, self.latents(keys), label, keys, temperature)

  def latents(self, keys: Keys) -> Float[Array, 'b z']:
    """z as `sample` draws it."""
    return rng.normal(rng.fold_in(keys, 0), (self.z_dim,))

  def from_latents(
    self, variables: Variables, z: Float[Array, 'b z'], label: Float[Array, 'b k'] | None, keys: Keys, temperature: float = 1.0
  ) -> Images:
    """The means of p(x|z) of latents that the caller chose, `temperature` times as long."""
    return self.likelihood.mean(self.decode(variables.params, temperature * z, label))
