"""Observation models p(x|z). Images x are in [-1, 1]; log-likelihoods are nats per image, [B].

A `Likelihood`, a frozen dataclass, says in `measures` of what images its nats are, turns images into those (`observe`, which
an encoder sees, too), and reads `outputs(channels)` numbers from a decoder for each pixel or patch of pixels. Its learned
parameters (`params`, trained with the model's) and running buffers (`buffers`) are passed to it as `state`.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from genjax import rng
from genjax.errors import UsageError
from genjax.networks.layers import from_patches, to_patches
from genjax.types import Images, Keys

LEVEL = 2 / 255  # from one 8-bit level to the next


class Likelihood:
  """Independent pixels of one parameter each, the mean."""

  measures: str
  patch: tuple[int, int] = (1, 1)  # rows and columns of pixels that are one place of `out`

  def outputs(self, channels: int) -> int:
    """How many numbers a place are read, of images of so many channels."""
    return channels

  def check(self, out: tuple[int, ...], image: tuple[int, ...]) -> None:
    """Raises UsageError unless arrays of shape `out` can be read as answers for images of shape `image`."""
    kind, patch = type(self).__name__, self.patch
    if (read := self.outputs(image[-1])) != out[-1]:
      raise UsageError(f'{kind} reads {read} numbers a place and the decoder answers {out[-1]}: set its outputs={read}.')
    if out[1:3] != (image[1] // patch[0], image[2] // patch[1]):
      raise UsageError(
        f'{kind} reads patches of {patch} and the decoder answers {out[1:3]} places of {image[1:3]} pixels.'
        + ' VDVAEDecoder has a field `place`.' * (patch != (1, 1))
      )

  def params(self) -> dict[str, Array]:
    return {}

  def buffers(self) -> dict[str, Array]:
    return {}

  def observe(self, x: Images, keys: Keys, row: Int[Array, 'b']) -> Images:
    """The images of which `log_prob` is; `row` are their places in the data set."""
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
  """Binary pixels, of which the gray value (x + 1) / 2 is the probability; `out` are logits.

  Gray images enter through the expectation over their dynamic binarization, E_b log p(b|z), computed exactly: the nats
  are those of binarized images, not of gray ones. Since the encoder sees the gray image and not b, the bound is looser than
  that of `BinarizedBernoulli`.
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
  """Binary pixels of images that are binarized before anyone sees them, -1 or 1, 1 with probability (x + 1) / 2.

  Anew each time, from the image's key (dynamic binarization, as in 1509.00519, section 5), or `static`: once and for all, from
  a key that follows from the image's place in the data set.
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
    """-1 or 1, drawn pixel by pixel."""
    return jnp.where(rng.uniform(keys, out.shape[1:]) < jax.nn.sigmoid(out), 1.0, -1.0)


@dataclasses.dataclass(frozen=True)
class BinarizedPatches(BinarizedBernoulli):
  """BinarizedBernoulli of which the n pixels of a patch hang together: `out` are logits of their 2^n patterns."""

  patch: tuple[int, int] = (2, 2)

  def outputs(self, channels: int) -> int:
    """Raises UsageError for patches of more than 8 pixels."""
    pixels = math.prod(self.patch) * channels
    if not 1 <= pixels <= 8:
      raise UsageError(f'patch={self.patch} of {channels} channels has 2^{pixels} patterns: take patches of 1 to 8 numbers.')
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
    """All there are, -1 and 1."""
    bits = jnp.arange(number)[:, None] >> jnp.arange(number.bit_length() - 1)[None] & 1
    return 2.0 * bits - 1


@dataclasses.dataclass(frozen=True)
class Gaussian(Likelihood):
  """Independent normal pixels with mean `out` and a fixed deviation `sigma`, in the units of x.

  The 256 levels are dequantized uniformly (1511.01844, section 3.1), noise from each image's key, and the density is per
  level, so that the negative log-likelihood bounds that of the 8-bit image.
  """

  sigma: float = 0.1
  measures = '8-bit images, dequantized uniformly'

  def __post_init__(self):
    if self.sigma <= 0:
      raise UsageError(f'sigma={self.sigma} must be positive.')

  def observe(self, x: Images, keys: Keys, row: Int[Array, 'b']) -> Images:
    return x + LEVEL * rng.uniform(keys, x.shape[1:], -0.5, 0.5)

  def log_prob(self, out: Float[Array, 'b h w c'], x: Images, state: dict[str, Array]) -> Float[Array, 'b']:
    log_sigma = self.log_sigma(state)
    log_density = -0.5 * ((x - out) * jnp.exp(-log_sigma)) ** 2 - log_sigma - 0.5 * math.log(2 * math.pi)
    return (log_density + math.log(LEVEL)).sum(axis=(1, 2, 3))

  def log_sigma(self, state: dict[str, Array]) -> Float[Array, '']:
    return jnp.log(jnp.float32(self.sigma))


@dataclasses.dataclass(frozen=True)
class SharedGaussian(Gaussian):
  """One deviation for all pixels, learned with the model from `sigma` on (sigma-VAE, 2006.13202, section 4.1)."""

  sigma: float = 1.0

  def params(self) -> dict[str, Array]:
    return {'log_sigma': jnp.log(jnp.float32(self.sigma))}

  def log_sigma(self, state: dict[str, Array]) -> Float[Array, '']:
    return jax.nn.softplus(state['log_sigma'] + 6) - 6  # not below -6: the paper's appendix


@dataclasses.dataclass(frozen=True)
class CalibratedGaussian(Gaussian):
  """One deviation for all pixels, the root of the mean squared error (optimal sigma-VAE, 2006.13202, section 4.2).

  Of the batches before, not of this one: a mean that follows by a hundredth a step. The gradient is the paper's, in which the
  error stands under a logarithm, and no image's loss depends on the others of its batch.
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
  """The 256 levels of a pixel by a mixture of discretized logistic distributions (PixelCNN++, 1701.05517, section 2.1).

  Channels follow one another: the mean of each is shifted linearly by those before it (section 2.2). `out` holds, a pixel, for
  each of K `mixtures` a logit, and then of each channel the mean, log-scale and coefficients of the channels before.
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
    """What channels `before`, each [*n], add to the mean of the next."""
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
      # The outer levels reach to infinity. Between: sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)).
      below = jnp.where(value > 1 - LEVEL / 2, 0.0, jax.nn.log_sigmoid(upper))
      above = jnp.where(value < -1 + LEVEL / 2, 0.0, jax.nn.log_sigmoid(-lower))
      between = jnp.where(jnp.abs(value) > 1 - LEVEL / 2, 0.0, jnp.log(-jnp.expm1(-LEVEL * inverse)))
      total += below + above + between
    return jax.nn.logsumexp(total, axis=-1).sum(axis=(1, 2))

  def mean(self, out: Float[Array, 'b h w o']) -> Images:
    logits, means, _, coefficients = self.parts(out, self.channels(out))
    found: list[Array] = []
    for i in range(means.shape[-1]):
      found.append(means[..., i] + self.shift(coefficients, found))
    return jnp.clip((jax.nn.softmax(logits)[..., None] * jnp.stack(found, axis=-1)).sum(axis=-2), -1, 1)

  def sample(self, out: Float[Array, 'b h w o'], keys: Keys) -> Images:
    """Levels drawn pixel by pixel from what `out` says."""
    logits, means, log_scales, coefficients = self.parts(out, self.channels(out))
    mixture_keys, level_keys = rng.split(keys, 2)
    chosen = jnp.argmax(logits - jnp.log(-jnp.log(rng.uniform(mixture_keys, logits.shape[1:], 1e-7))), axis=-1)
    of_chosen = lambda a: jnp.take_along_axis(a, chosen[..., None, None], axis=-2)[..., 0, :]  # noqa: E731
    means, log_scales, coefficients = (of_chosen(a) for a in (means, log_scales, coefficients))
    u = rng.uniform(level_keys, means.shape[1:], 1e-5, 1 - 1e-5)
    noise = jnp.exp(log_scales) * (jnp.log(u) - jnp.log1p(-u))
    found: list[Array] = []
    for i in range(means.shape[-1]):
      value = means[..., i] + self.shift(coefficients, found) + noise[..., i]
      found.append(jnp.round((jnp.clip(value, -1, 1) + 1) / LEVEL) * LEVEL - 1)
    return jnp.stack(found, axis=-1)

  def channels(self, out: Float[Array, 'b h w o']) -> int:
    """Of the images that `out` describes."""
    return next(c for c in range(1, 5) if self.outputs(c) == out.shape[-1])
