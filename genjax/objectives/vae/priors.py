"""Sampling of autoencoders with the prior z ~ N(0, I), one vector per image."""

import abc

from jaxtyping import Array, Float

from genjax import rng
from genjax.conditioners import complete
from genjax.objectives.common import check_scale
from genjax.objectives.likelihoods import Likelihood
from genjax.types import Cond, Conditioner, Images, Keys, Variables


class NormalPrior(abc.ABC):
  """A base of autoencoders with a `conditioner`, a `likelihood`, latents of dimension `z_dim`, and `decode`."""

  conditioner: Conditioner
  likelihood: Likelihood

  @property
  @abc.abstractmethod
  def z_dim(self) -> int: ...

  @abc.abstractmethod
  def decode(self, params: dict, z: Float[Array, 'b z'], embedded: Cond) -> Float[Array, 'b h w o']:
    """The parameters of the likelihood."""

  def sample(self, variables: Variables, keys: Keys, cond: Cond, *, temperature: float = 1.0) -> Images:
    """The mean of p(x|z) for z ~ N(0, temperature^2 I). Missing fields of `cond` are drawn."""
    check_scale('temperature', temperature)
    embedded = self.conditioner.embed(complete(self.conditioner, cond, keys))
    return self.from_latents(variables, self.latents(keys), embedded, keys, temperature)

  def latents(self, keys: Keys) -> Float[Array, 'b z']:
    """z as `sample` draws it."""
    return rng.normal(rng.fold_in(keys, 0), (self.z_dim,))

  def from_latents(
    self, variables: Variables, z: Float[Array, 'b z'], embedded: Cond, keys: Keys, temperature: float = 1.0
  ) -> Images:
    """The means of p(x|z) for latents scaled by `temperature`."""
    return self.likelihood.mean(self.decode(variables.params, temperature * z, embedded))
