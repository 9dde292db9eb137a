"""Autoregressive model of pixels, p(x) = prod_i p(x_i | x_1, ..., x_{i-1}), row by row (1601.06759, eq. 1).

With patches, x_i is all pixels of a patch.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from genjax import rng
from genjax.conditioners import Unconditional, complete
from genjax.errors import UsageError
from genjax.networks.layers import from_patches, to_patches
from genjax.objectives.common import bits_per_dim, dropout_keys
from genjax.objectives.likelihoods import Likelihood
from genjax.types import Aux, Batch, Cond, Conditioner, Context, Images, Keys, Player, Variables


def check_causal(part: str, network: nn.Module) -> None:
  """Raises UsageError unless a network declares that its outputs depend only on previous positions. Otherwise the likelihood
  would be meaningless, and too good."""
  if not getattr(network, 'causal', False):
    raise UsageError(
      f'objective.{part}: {type(network).__name__} is not declared causal: use networks.pixelcnn.PixelCNN, '
      'networks.row_lstm.PixelRNN or networks.pixel_transformer.PixelTransformer, or set causal = True in a custom class.'
    )


@dataclasses.dataclass(frozen=True)
class Autoregressive:
  """One player, 'model', that minimizes -log p(x), exactly, in nats per image.

  `network(x, cond)` returns the parameters of the likelihood at each pixel, which depend only on previous pixels. A network
  with `step` and `cache` is sampled with them, pixel by pixel; others are applied to the whole image for each pixel. With a
  likelihood of patches, these are the pixels of the network: H / rows x W / columns pixels of rows x columns x C channels.
  """

  network: nn.Module
  likelihood: Likelihood
  image_shape: tuple[int, int, int]
  conditioner: Conditioner = Unconditional()  # noqa: RUF009 - frozen

  nll_is_expensive = False

  def __post_init__(self):
    if any(p < 1 or side % p for side, p in zip(self.image_shape, self.patch, strict=False)):
      raise UsageError(f'objective.likelihood.patch={self.patch} must divide the sides of images {self.image_shape}.')
    if getattr(self.network, 'image_shape', self.patched) != self.patched:
      shape = self.network.image_shape
      raise UsageError(
        f'objective.network.image_shape={shape}: in patches of {self.patch} images are {self.patched}, set it to that.'
      )
    check_causal('network', self.network)
    check_samples_pixels(self.likelihood)

  @property
  def patch(self) -> tuple[int, int]:
    """Rows and columns of pixels that are one pixel of the network."""
    return self.likelihood.patch

  @property
  def patched(self) -> tuple[int, int, int]:
    """The shape of images in patches, as the network gets them."""
    (h, w, c), (rows, columns) = self.image_shape, self.patch
    return h // rows, w // columns, rows * columns * c

  @property
  def players(self) -> dict[str, Player]:
    return {'model': Player(self.loss)}

  def init(self, key: jax.Array, batch: Batch) -> Variables:
    check_likelihood_outputs(self.network, self.likelihood, batch.image)
    x, embedded = to_patches(batch.image, *self.patch), self.conditioner.embed(batch.cond)
    return Variables({'model': self.network.init(key, x, embedded)['params']}, {})

  def loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """-log p(x), the mean over the batch."""
    network_keys, x_keys = rng.split(keys, 2)  # observed as VAEs do
    nats = -self.log_prob(params, batch, x_keys, dropout_keys(self.network, network_keys)).mean()
    return nats, Aux({'nll_nats': nats, 'bits_per_dim': bits_per_dim(nats, batch.image)})

  def log_prob(self, params: dict, batch: Batch, keys: Keys, dropout: tuple[Keys, ...] = ()) -> Float[Array, 'b']:
    x = self.likelihood.observe(batch.image, keys, batch.row)
    patches, embedded = to_patches(x, *self.patch), self.conditioner.embed(batch.cond)
    out = self.network.apply({'params': params['model']}, patches, embedded, *dropout)
    return self.likelihood.log_prob(out, x, {})

  def nll(self, variables: Variables, batch: Batch, keys: Keys, estimator: str = 'exact') -> Float[Array, 'b']:
    """-log p(x), in nats per image."""
    return -self.log_prob(variables.params, batch, rng.split(keys, 2)[1])

  @property
  def estimators(self) -> dict[str, str]:
    return {'exact': f'exact, of {self.likelihood.measures}'}

  def sample(self, variables: Variables, keys: Keys, cond: Cond, *, cached: bool = True) -> Images:
    """x ~ p(x), pixel i from stream i of each image's key. Missing fields of `cond` are drawn.

    `cached=False`: evaluates the whole network for each pixel even if it has a `step`.
    """
    embedded = self.conditioner.embed(complete(self.conditioner, cond, keys))
    params, pixel_keys = variables.params['model'], rng.fold_in(keys, 0)
    return sample_pixels(self.network, params, self.likelihood, self.patched, embedded, pixel_keys, cached)

  def evaluations(self, variables: Variables) -> int:
    """One evaluation per pixel or patch."""
    return self.patched[0] * self.patched[1]


def check_samples_pixels(likelihood: Likelihood) -> None:
  """Raises UsageError for a likelihood whose pixels cannot be sampled one by one."""
  if not hasattr(likelihood, 'sample') or likelihood.params() or likelihood.buffers():
    kind = type(likelihood).__name__
    raise UsageError(f'{kind} cannot be sampled pixel by pixel: use BinarizedBernoulli or LogisticMixture.')


def check_likelihood_outputs(network: nn.Module, likelihood: Likelihood, image: Images) -> None:
  """Raises UsageError unless the network has the outputs that the likelihood needs."""
  if network.outputs != (read := likelihood.outputs(image.shape[-1])):
    kind = type(likelihood).__name__
    raise UsageError(f'objective.network.outputs={network.outputs}: {kind} needs {read}, set outputs={read}.')


def sample_pixels(
  network: nn.Module,
  params: dict,
  likelihood: Likelihood,
  shape: tuple[int, int, int],
  embedded: Cond,
  keys: Keys,
  cached: bool = True,
) -> Images:
  """Images whose pixels or patches, in an array of `shape`, are drawn in order by `row_by_row`, position i from stream i."""
  draw = lambda out, place: to_patches(likelihood.sample(out, rng.fold_in(keys, place)), *likelihood.patch)  # noqa: E731
  return from_patches(row_by_row(network, params, shape, embedded, draw, keys.shape[0], cached), *likelihood.patch)


def row_by_row(
  network: nn.Module,
  params: dict,
  shape: tuple[int, int, int],
  embedded: Cond,
  draw: Callable[[Float[Array, 'b 1 1 o'], Int[Array, '']], Float[Array, 'b 1 1 c']],
  batch: int,
  cached: bool = True,
) -> Float[Array, 'b h w c']:
  """Samples an autoregressive network, each pixel by `draw(network output, position)`, in a compiled loop over positions."""
  rows, columns, channels = shape
  model, places = {'params': params}, jnp.arange(rows * columns)

  def step(carry, place):
    last, cache = carry
    out, cache = network.apply(model, last, place, cache, embedded, method='step')
    pixel = draw(out, place)[:, 0, 0]
    return (pixel, cache), pixel

  def whole(x, place):
    out = network.apply(model, x, embedded)
    row, column = place // columns, place % columns
    here = jax.lax.dynamic_slice(out, (0, row, column, 0), (batch, 1, 1, out.shape[-1]))
    return jax.lax.dynamic_update_slice(x, draw(here, place), (0, row, column, 0)), None

  if cached and hasattr(network, 'step'):
    start = jnp.zeros((batch, channels)), network.cache(batch)
    _, pixels = jax.lax.scan(step, start, places)
    return jnp.moveaxis(pixels, 0, 1).reshape(batch, *shape)
  return jax.lax.scan(whole, jnp.zeros((batch, *shape)), places)[0]
