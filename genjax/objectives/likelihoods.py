"""Observation models p(x|z). Images x are in [-1, 1]; log-likelihoods are nats per image, [B].

A `Likelihood`, a frozen dataclass, describes in `measures` which images its nats refer to. `observe` converts images to these,
also for an encoder. It reads `outputs(channels)` values from a decoder for each pixel or patch of pixels. Its learned
parameters (`params`, trained with the model) and running buffers (`buffers`) are passed to it as `state`.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from genjax import rng
from genjax.densities import log_normal
from genjax.errors import UsageError
from genjax.networks.layers import from_patches, to_patches
from genjax.types import Images, Keys

LEVEL = 2 / 255  # from one 8-bit level to the next


class Likelihood:
  """Independent pixels with one parameter each, the mean."""

  measures: str
  patch: tuple[int, int] = (1, 1)  # rows and columns of pixels that one position of `out` describes

  def outputs(self, channels: int) -> int:
    """The number of values read per position, for images with this number of channels."""
    return channels

  def check(self, out: tuple[int, ...], image: tuple[int, ...]) -> None:
    """Raises UsageError unless decoder outputs of shape `out` fit images of shape `image`."""
    kind, patch = type(self).__name__, self.patch
    if (read := self.outputs(image[-1])) != out[-1]:
      raise UsageError(f'{kind} needs {read} outputs per position, but the decoder has {out[-1]}: set its outputs={read}.')
    if out[1:3] != (image[1] // patch[0], image[2] // patch[1]):
      raise UsageError(
        f'{kind} needs patches of {patch}, but the decoder has {out[1:3]} positions for {image[1:3]} pixels.'
        + ' Set the field `place` of VDVAEDecoder.' * (patch != (1, 1))
      )

  def params(self) -> dict[str, Array]:
    return {}

  def buffers(self) -> dict[str, Array]:
    return {}

  def observe(self, x: Images, keys: Keys, row: Int[Array, 'b']) -> Images:
    """The images that `log_prob` takes; `row` are their indices in the data set."""
    return x

  def log_prob(self, out: Float[Array, 'b h w o'], x: Images, state: dict[str, Array]) -> Float[Array, 'b']:
    raise NotImplementedError

  def updated(self, out: Float[Array, 'b h w o'], x: Images, state: dict[str, Array]) -> dict[str, Array]:
    """The buffers after this batch."""
    return {}

  def mean(self, out: Float[Array, 'b h w o']) -> Images:
    return jnp.clip(out, -1, 1)


@dataclasses.dataclass(frozen=True)
class Bernoulli(Likelihood):
  """Binary pixels whose probability is the gray value (x + 1) / 2; `out` are logits.

  The log-likelihood is the exact expectation over dynamic binarization, E_b log p(b|z): the nats refer to binarized images, not
  to grayscale images. Since the encoder sees the grayscale image instead of b, the bound is looser than that of
  `BinarizedBernoulli`.
  """

  measures = 'binarized images'

  def log_prob(self, out: Float[Array, 'b h w c'], x: Images, state: dict[str, Array]) -> Float[Array, 'b']:
    p = (x + 1) / 2
    log_prob = p * jax.nn.log_sigmoid(out) + (1 - p) * jax.nn.log_sigmoid(-out)
    return log_prob.sum(axis=(1, 2, 3))

  def mean(self, out: Float[Array, 'b h w c']) -> Images:
    return 2 * jax.nn.sigmoid(out) - 1


@dataclasses.dataclass(frozen=True)
class BinarizedBernoulli(Bernoulli):
  """Binary pixels of images that are binarized before the encoder: 1 with probability (x + 1) / 2, else -1.

  Images are binarized anew each time, from the image's key (dynamic binarization, as in 1509.00519, section 5), or, if
  `static`, once, from a key that depends on the image's index in the data set.
  """

  static: bool = False

  @property
  def measures(self) -> str:
    return f'{"statically" if self.static else "dynamically"} binarized images'

  def observe(self, x: Images, keys: Keys, row: Int[Array, 'b']) -> Images:
    if self.static:
      keys = rng.image_keys(rng.key(0), row)
    return jnp.where(rng.uniform(keys, x.shape[1:]) < (x + 1) / 2, 1.0, -1.0)

  def sample(self, out: Float[Array, 'b h w c'], keys: Keys) -> Images:
    """Draws each pixel, -1 or 1."""
    return jnp.where(rng.uniform(keys, out.shape[1:]) < jax.nn.sigmoid(out), 1.0, -1.0)


@dataclasses.dataclass(frozen=True)
class BinarizedPatches(BinarizedBernoulli):
  """BinarizedBernoulli with dependent pixels within a patch of n pixels: `out` are logits of the 2^n patterns."""

  patch: tuple[int, int] = (2, 2)

  def outputs(self, channels: int) -> int:
    """Raises UsageError for patches of more than 8 pixels."""
    pixels = math.prod(self.patch) * channels
    if not 1 <= pixels <= 8:
      raise UsageError(f'patch={self.patch} of {channels} channels has 2^{pixels} patterns: use patches of 1 to 8 values.')
    return 2**pixels

  def log_prob(self, out: Float[Array, 'b h w o'], x: Images, state: dict[str, Array]) -> Float[Array, 'b']:
    bits = to_patches(x, *self.patch) > 0
    index = (bits * 2 ** jnp.arange(bits.shape[-1])[None, None, None]).sum(axis=-1)
    return jnp.take_along_axis(jax.nn.log_softmax(out), index[..., None], axis=-1).sum(axis=(1, 2, 3))

  def mean(self, out: Float[Array, 'b h w o']) -> Images:
    return from_patches(jax.nn.softmax(out) @ self.patterns(out.shape[-1]), *self.patch)

  def sample(self, out: Float[Array, 'b h w o'], keys: Keys) -> Images:
    drawn = jax.vmap(jax.random.categorical)(keys, out)
    return from_patches(self.patterns(out.shape[-1])[drawn], *self.patch)

  def patterns(self, number: int) -> Float[Array, 'n c']:
    """All patterns, with values -1 and 1."""
    bits = jnp.arange(number)[:, None] >> jnp.arange(number.bit_length() - 1)[None] & 1
    return 2.0 * bits - 1


@dataclasses.dataclass(frozen=True)
class Gaussian(Likelihood):
  """Independent normal pixels with mean `out` and a fixed standard deviation `sigma`, in the units of x.

  The 256 levels are dequantized uniformly (1511.01844, section 3.1) with noise from each image's key. The density is per level,
  so that the negative log-likelihood is an upper bound of that of the 8-bit image.
  """

  sigma: float = 0.1
  measures = '8-bit images, dequantized uniformly'

  def __post_init__(self):
    if self.sigma <= 0:
      raise UsageError(f'sigma={self.sigma} must be positive.')

  def observe(self, x: Images, keys: Keys, row: Int[Array, 'b']) -> Images:
    return x + LEVEL * rng.uniform(keys, x.shape[1:], -0.5, 0.5)

  def log_prob(self, out: Float[Array, 'b h w c'], x: Images, state: dict[str, Array]) -> Float[Array, 'b']:
    return (log_normal(x, out, 2 * self.log_sigma(state)) + math.log(LEVEL)).sum(axis=(1, 2, 3))

  def log_sigma(self, state: dict[str, Array]) -> Float[Array, '']:
    return jnp.log(jnp.float32(self.sigma))


@dataclasses.dataclass(frozen=True)
class SharedGaussian(Gaussian):
  """One learned standard deviation for all pixels, initially `sigma` (sigma-VAE, 2006.13202, section 4.1)."""

  sigma: float = 1.0

  def params(self) -> dict[str, Array]:
    return {'log_sigma': jnp.log(jnp.float32(self.sigma))}

  def log_sigma(self, state: dict[str, Array]) -> Float[Array, '']:
    return jax.nn.softplus(state['log_sigma'] + 6) - 6  # above -6, as in the appendix of the paper


@dataclasses.dataclass(frozen=True)
class CalibratedGaussian(Gaussian):
  """One standard deviation for all pixels, the root of the mean squared error (optimal sigma-VAE, 2006.13202, section 4.2).

  The error is a moving average over previous batches with rate 0.01. The gradient is that of the paper, where the loss is the
  logarithm of the error, and the loss of an image does not depend on the others of its batch.
  """

  sigma: float = 1.0  # before the first step

  def buffers(self) -> dict[str, Array]:
    return {'mse': jnp.float32(self.sigma) ** 2}

  def log_sigma(self, state: dict[str, Array]) -> Float[Array, '']:
    return 0.5 * jnp.log(state['mse'])

  def updated(self, out: Float[Array, 'b h w c'], x: Images, state: dict[str, Array]) -> dict[str, Array]:
    return {'mse': state['mse'] + 0.01 * (jnp.square(x - out).mean() - state['mse'])}


@dataclasses.dataclass(frozen=True)
class LogisticMixture(Likelihood):
  """Mixture of discretized logistic distributions over the 256 levels of a pixel (PixelCNN++, 1701.05517, section 2.1).

  The mean of each channel is shifted linearly by the previous channels (section 2.2). For each pixel, `out` has the logits of
  the K `mixtures`, and then for each of them the means, log-scales and coefficients of the channels.
  """

  mixtures: int = 10
  measures = '8-bit images'

  def __post_init__(self):
    if self.mixtures < 1:
      raise UsageError(f'mixtures={self.mixtures} must be 1 or more.')

  def outputs(self, channels: int) -> int:
    return self.mixtures * (1 + 2 * channels + channels * (channels - 1) // 2)

  def parts(self, out: Float[Array, 'b h w o'], channels: int):
    """Logits [B, H, W, K], means and log-scales [B, H, W, K, C], coefficients [B, H, W, K, C (C - 1) / 2]."""
    k, c = self.mixtures, channels
    rest = out[..., k:].reshape(*out.shape[:-1], k, -1)
    return out[..., :k], rest[..., :c], jnp.clip(rest[..., c : 2 * c], -7, 30), jnp.tanh(rest[..., 2 * c :])

  def shift(self, coefficients: Float[Array, '*n m'], before: list[Array]) -> Array | float:
    """The shift of the mean of the next channel by the channels `before`, each [*n]."""
    first = len(before) * (len(before) - 1) // 2
    return sum(coefficients[..., first + i] * value for i, value in enumerate(before))

  def log_prob(self, out: Float[Array, 'b h w o'], x: Images, state: dict[str, Array]) -> Float[Array, 'b']:
    c = x.shape[-1]
    logits, means, log_scales, coefficients = self.parts(out, c)
    total = jax.nn.log_softmax(logits)
    for i in range(c):
      value = x[..., i, None]
      mean = means[..., i] + self.shift(coefficients, [x[..., j, None] for j in range(i)])
      inverse = jnp.exp(-log_scales[..., i])
      upper, lower = ((value - mean + side * LEVEL / 2) * inverse for side in (1, -1))
      # The outer levels extend to infinity. Inside: sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)).
      below = jnp.where(value > 1 - LEVEL / 2, 0.0, jax.nn.log_sigmoid(upper))
      above = jnp.where(value < -1 + LEVEL / 2, 0.0, jax.nn.log_sigmoid(-lower))
      between = jnp.where(jnp.abs(value) > 1 - LEVEL / 2, 0.0, jnp.log(-jnp.expm1(-LEVEL * inverse)))
      total += below + above + between
    return jax.nn.logsumexp(total, axis=-1).sum(axis=(1, 2))

  def mean(self, out: Float[Array, 'b h w o']) -> Images:
    logits, means, _, coefficients = self.parts(out, self.channels(out))
    values: list[Array] = []
    for i in range(means.shape[-1]):
      values.append(means[..., i] + self.shift(coefficients, values))
    return jnp.clip((jax.nn.softmax(logits)[..., None] * jnp.stack(values, axis=-1)).sum(axis=-2), -1, 1)

  def sample(self, out: Float[Array, 'b h w o'], keys: Keys) -> Images:
    """Draws the levels of each pixel from the distributions `out`."""
    logits, means, log_scales, coefficients = self.parts(out, self.channels(out))
    mixture_keys, level_keys = rng.split(keys, 2)
    chosen = jnp.argmax(logits - jnp.log(-jnp.log(rng.uniform(mixture_keys, logits.shape[1:], 1e-7))), axis=-1)
    of_chosen = lambda a: jnp.take_along_axis(a, chosen[..., None, None], axis=-2)[..., 0, :]  # noqa: E731
    means, log_scales, coefficients = (of_chosen(a) for a in (means, log_scales, coefficients))
    u = rng.uniform(level_keys, means.shape[1:], 1e-5, 1 - 1e-5)
    noise = jnp.exp(log_scales) * (jnp.log(u) - jnp.log1p(-u))
    levels: list[Array] = []
    for i in range(means.shape[-1]):
      value = means[..., i] + self.shift(coefficients, levels) + noise[..., i]
      levels.append(jnp.round((jnp.clip(value, -1, 1) + 1) / LEVEL) * LEVEL - 1)
    return jnp.stack(levels, axis=-1)

  def channels(self, out: Float[Array, 'b h w o']) -> int:
    """The number of channels of the images that `out` describes."""
    return next(c for c in range(1, 5) if self.outputs(c) == out.shape[-1])
