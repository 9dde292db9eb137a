"""Hierarchical VAE with an autoregressive p(x|z) (PixelVAE, Gulrajani et al. 1611.05013)."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax import rng
from genjax.errors import UsageError
from genjax.networks.layers import to_patches
from genjax.networks.pixelcnn import LocalPixelCNN, PixelCNN
from genjax.networks.vdvae import Descent
from genjax.objectives.autoregressive.pixels import check_likelihood_outputs, check_samples_pixels, sample_pixels
from genjax.objectives.common import check_no_dropout
from genjax.objectives.vae.hierarchical import LadderVAE
from genjax.types import Batch, Images, Keys, Variables


@dataclasses.dataclass(frozen=True)
class PixelVAE(LadderVAE):
  """p(x|z) = prod_i p(x_i | x_<i, z) (1611.05013, eq. 1).

  `network` gets the previous pixels or patches and the decoder's feature map, which may have any number of `outputs`. With a
  `LocalPixelCNN`, z must represent long-range structure; with a deep PixelCNN it may represent nothing.
  """

  network: PixelCNN | LocalPixelCNN = dataclasses.field(kw_only=True)

  def __post_init__(self):
    super().__post_init__()
    check_samples_pixels(self.likelihood)
    check_no_dropout(self.network, 'network', 'PixelVAE')
    if not isinstance(self.network, PixelCNN | LocalPixelCNN):
      kind = type(self.network).__name__
      raise UsageError(
        f'objective.network={kind} does not take a feature map: use networks.pixelcnn.LocalPixelCNN or PixelCNN.'
      )

  def with_likelihood(self, params: dict, out: tuple[int, ...], image: tuple[int, ...]) -> Variables:
    return super().with_likelihood(params, (*out[:3], self.network.outputs), image)

  def init(self, key: jax.Array, batch: Batch) -> Variables:
    check_likelihood_outputs(self.network, self.likelihood, batch.image)
    params, buffers = super().init(key, batch)
    x = to_patches(batch.image, *self.likelihood.patch)
    features = jnp.zeros((*x.shape[:3], self.decoder.outputs or batch.image.shape[-1]))
    network = self.network.init(jax.random.fold_in(key, 1), x, {'features': features})['params']
    return Variables({'model': params['model'] | {'network': network}}, buffers)

  def likelihood_params(self, params: dict, descent: Descent, x: Images) -> Float[Array, 'b h w o']:
    patches = to_patches(x, *self.likelihood.patch)
    return self.network.apply({'params': params['model']['network']}, patches, {'features': descent.out})

  def evaluations(self, variables: Variables) -> int:
    """One evaluation of the decoder, and one of the network per pixel or patch."""
    (h, w, _), (rows, columns) = self.decoder.image_shape, self.likelihood.patch
    return 1 + (h // rows) * (w // columns)

  def sample_pixels(self, params: dict, descent: Descent, keys: Keys) -> Images:
    """x ~ p(x|z), pixel by pixel."""
    rows, columns = self.likelihood.patch
    shape = (*descent.out.shape[1:3], rows * columns * self.decoder.image_shape[-1])
    network = params['model']['network']
    return sample_pixels(self.network, network, self.likelihood, shape, {'features': descent.out}, rng.fold_in(keys, 0))
