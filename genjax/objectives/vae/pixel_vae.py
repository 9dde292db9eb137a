"""Hierarchical VAE whose pixels, given z, follow one another (PixelVAE, Gulrajani et al. 1611.05013)."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax import rng
from genjax.errors import UsageError
from genjax.networks.layers import to_patches
from genjax.networks.pixelcnn import LocalPixelCNN, PixelCNN
from genjax.networks.vdvae import Descent
from genjax.objectives.autoregressive.pixels import check_drawn, check_outputs, drawn
from genjax.objectives.common import check_no_dropout
from genjax.objectives.vae.hierarchical import HierarchicalVAE
from genjax.types import Batch, Images, Keys, Variables


@dataclasses.dataclass(frozen=True)
class PixelVAE(HierarchicalVAE):
  """p(x|z) = prod_i p(x_i | x_<i, z) (1611.05013, eq. 1): `network` sees the pixels, or patches, before each, and the decoder's
  answer there, any number of `outputs` a place. A `LocalPixelCNN` leaves to z what is far apart, a deep PixelCNN nothing.
  """

  network: PixelCNN | LocalPixelCNN = dataclasses.field(kw_only=True)

  def __post_init__(self):
    super().__post_init__()
    check_drawn(self.likelihood)
    check_no_dropout(self.network, 'network', 'PixelVAE')
    if not isinstance(self.network, PixelCNN | LocalPixelCNN):
      kind = type(self.network).__name__
      raise UsageError(f'objective.network={kind} hears no decoder: take networks.pixelcnn.LocalPixelCNN or PixelCNN.')

  def with_likelihood(self, params: dict, given: tuple[int, ...], image: tuple[int, ...]) -> Variables:
    return super().with_likelihood(params, (*given[:3], self.network.outputs), image)

  def init(self, key: jax.Array, batch: Batch) -> Variables:
    check_outputs(self.network, self.likelihood, batch.image)
    params, buffers = super().init(key, batch)
    x = to_patches(batch.image, *self.likelihood.patch)
    given = jnp.zeros((*x.shape[:3], self.decoder.outputs or batch.image.shape[-1]))
    network = self.network.init(jax.random.fold_in(key, 1), x, given)['params']
    return Variables({'model': params['model'] | {'network': network}}, buffers)

  def answer(self, params: dict, descent: Descent, x: Images) -> Float[Array, 'b h w o']:
    seen = to_patches(x, *self.likelihood.patch)
    return self.network.apply({'params': params['model']['network']}, seen, descent.out)

  def shown(self, params: dict, descent: Descent, keys: Keys) -> Images:
    """x ~ p(x|z), pixel after pixel."""
    rows, columns = self.likelihood.patch
    shape = (*descent.out.shape[1:3], rows * columns * self.decoder.image_shape[-1])
    pixel_keys = rng.fold_in(keys, 0)
    return drawn(self.network, params['model']['network'], self.likelihood, shape, descent.out, pixel_keys)
