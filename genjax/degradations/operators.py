"""Operators A of measurements y = A(x) + noise (genjax/degradations/measurement.py): masks, resampling, blur, marks, levels.

An operator is a frozen dataclass of plain values. What varies from image to image, a mask or a kernel, is its state, a dict of
arrays with leading axis B, which `draw` samples from the keys of the images and a user may set. Images [B, H, W, C] are in
[-1, 1].
"""

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax import rng
from genjax.errors import UsageError, unknown
from genjax.types import Images, Keys

State = Mapping[str, Array]
Shape = tuple[int, int, int]  # H, W, C
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclasses.dataclass(frozen=True)
class Operator(abc.ABC):
  """Abstract. `is_linear`: whether A(x) - A(0) is a linear function of x."""

  is_linear: ClassVar[bool] = True

  def check(self, shape: Shape) -> None:  # noqa: B027
    """Raises UsageError for images that it cannot be applied to."""

  def draw(self, keys: Keys, shape: Shape) -> State:
    """The state for one image of `shape` per key; {} for an operator that has none."""
    self.check(shape)
    return {}

  @abc.abstractmethod
  def apply(self, state: State, x: Images) -> Images:
    """A(x)."""

  def pseudo_inverse(self, state: State, y: Images, shape: Shape) -> Images | None:
    """A^+ y for images of `shape`, of a linear A without A(0); None if there is no closed form."""
    return None


class Mask(Operator):
  """Abstract: pixels that are not known are 0. The state is `known` [B, H, W, 1], 1 where a pixel is known and 0 elsewhere."""

  @abc.abstractmethod
  def known(self, keys: Keys, shape: Shape) -> Float[Array, 'b h w 1']:
    """Draws the masks."""

  def draw(self, keys: Keys, shape: Shape) -> State:
    self.check(shape)
    return {'known': self.known(keys, shape)}

  def apply(self, state: State, x: Images) -> Images:
    return state['known'] * x

  def pseudo_inverse(self, state: State, y: Images, shape: Shape) -> Images:
    return state['known'] * y


@dataclasses.dataclass(frozen=True)
class BoxMask(Mask):
  """Hides a rectangle whose sides are `size` times those of the image, at a random place."""

  size: float = 0.5

  def __post_init__(self):
    check_fraction(self, 'size')

  def known(self, keys: Keys, shape: Shape) -> Float[Array, 'b h w 1']:
    place = rng.uniform(keys, (2,))
    inside = 1.0
    for axis, length in enumerate(shape[:2]):
      side = max(1, round(self.size * length))
      first = jnp.floor(place[:, axis] * (length - side + 1))[:, None]
      position = jnp.arange(length)[None]
      inside = inside * jnp.expand_dims((first <= position) & (position < first + side), 2 - axis)
    return 1.0 - inside[..., None].astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class HalfMask(Mask):
  """Hides the half of the image on `side`: left, right, top or bottom."""

  side: str = 'right'

  def __post_init__(self):
    if self.side not in ('left', 'right', 'top', 'bottom'):
      raise UsageError(unknown('side', self.side, ('left', 'right', 'top', 'bottom')))

  def known(self, keys: Keys, shape: Shape) -> Float[Array, 'b h w 1']:
    axis = 0 if self.side in ('top', 'bottom') else 1
    first = jnp.arange(shape[axis]) < shape[axis] // 2
    half = first if self.side in ('right', 'bottom') else ~first
    mask = jnp.broadcast_to(jnp.expand_dims(half, 1 - axis), shape[:2])
    return jnp.broadcast_to(mask[None, :, :, None], (len(keys), *shape[:2], 1)).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class RandomMask(Mask):
  """Hides each pixel with probability `share`."""

  share: float = 0.7

  def __post_init__(self):
    check_fraction(self, 'share')

  def known(self, keys: Keys, shape: Shape) -> Float[Array, 'b h w 1']:
    return (rng.uniform(keys, (*shape[:2], 1)) >= self.share).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class GivenMask(Mask):
  """A mask of the user's: the state `known` is set, not drawn."""

  def known(self, keys: Keys, shape: Shape) -> Float[Array, 'b h w 1']:
    raise UsageError("GivenMask: set its state {'known': mask} [B, H, W, 1], 1 where a pixel is known and 0 elsewhere.")


@dataclasses.dataclass(frozen=True)
class Downsample(Operator):
  """Reduces height and width by `factor`: means of squares (`box`), or Keys's cubic filter with antialiasing (`bicubic`)."""

  factor: int = 2
  kernel: str = 'box'

  def __post_init__(self):
    if self.factor < 2:
      raise UsageError(f'factor={self.factor} must be 2 or more.')
    if self.kernel not in ('box', 'bicubic'):
      raise UsageError(unknown('kernel', self.kernel, ('box', 'bicubic')))

  def check(self, shape: Shape) -> None:
    if shape[0] % self.factor or shape[1] % self.factor:
      raise UsageError(
        f'factor={self.factor} does not divide the sides of {shape[0]} x {shape[1]} pixels: use a divisor of both.'
      )

  def apply(self, state: State, x: Images) -> Images:
    b, h, w, c = x.shape
    small = h // self.factor, w // self.factor
    if self.kernel == 'box':
      return x.reshape(b, small[0], self.factor, small[1], self.factor, c).mean(axis=(2, 4))
    return jax.image.resize(x, (b, *small, c), 'cubic', antialias=True)

  def pseudo_inverse(self, state: State, y: Images, shape: Shape) -> Images | None:
    if self.kernel != 'box':
      return None
    return jnp.repeat(jnp.repeat(y, self.factor, axis=1), self.factor, axis=2)


@dataclasses.dataclass(frozen=True)
class Grayscale(Operator):
  """The luma of a color image, 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), with one channel."""

  def check(self, shape: Shape) -> None:
    if shape[2] != 3:
      raise UsageError(f'Grayscale needs images with 3 channels, not {shape[2]}.')

  def apply(self, state: State, x: Images) -> Images:
    return (x * luma(x)).sum(axis=3, keepdims=True)

  def pseudo_inverse(self, state: State, y: Images, shape: Shape) -> Images:
    return y * luma(y) / sum(weight**2 for weight in LUMA)


def luma(like: Images) -> Float[Array, '1 1 1 3']:
  """The weights of the channels."""
  return jnp.array(LUMA, like.dtype)[None, None, None]


class Blur(Operator):
  """Abstract: convolution with the state `kernel` [B, k, k], k odd, of sum 1; pixels outside are those of the nearest edge."""

  @abc.abstractmethod
  def kernel(self, keys: Keys) -> Float[Array, 'b k k']:
    """Draws the kernels."""

  def draw(self, keys: Keys, shape: Shape) -> State:
    self.check(shape)
    return {'kernel': self.kernel(keys)}

  def apply(self, state: State, x: Images) -> Images:
    radius = state['kernel'].shape[1] // 2
    padded = jnp.pad(x, ((0, 0), (radius, radius), (radius, radius), (0, 0)), mode='edge')
    sides = padded.shape[1:3]  # by Fourier transform: CPUs are slow at convolutions with one kernel per image
    product = jnp.fft.rfft2(padded, axes=(1, 2)) * jnp.fft.rfft2(state['kernel'], sides)[..., None]
    return jnp.fft.irfft2(product, sides, axes=(1, 2))[:, 2 * radius :, 2 * radius :]


@dataclasses.dataclass(frozen=True)
class GaussianBlur(Blur):
  """A Gaussian kernel of standard deviation `sigma` pixels, cut off at three standard deviations."""

  sigma: float = 1.0

  def __post_init__(self):
    check_positive(self, 'sigma')

  def kernel(self, keys: Keys) -> Float[Array, 'b k k']:
    radius = max(1, math.ceil(3 * self.sigma))
    line = jnp.exp(-0.5 * (jnp.arange(-radius, radius + 1) / self.sigma) ** 2)
    kernel = jnp.outer(line, line)
    return jnp.broadcast_to(kernel / kernel.sum(), (len(keys), *kernel.shape))


@dataclasses.dataclass(frozen=True)
class MotionBlur(Blur):
  """Motion in a straight line of `length` pixels, in a random direction."""

  length: float = 5.0

  def __post_init__(self):
    check_positive(self, 'length')

  def kernel(self, keys: Keys) -> Float[Array, 'b k k']:
    radius = max(1, math.ceil(self.length / 2))
    angle = math.pi * rng.uniform(keys, ())
    along = jnp.linspace(-self.length / 2, self.length / 2, 8 * radius + 1)[None, :, None]
    points = along * jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1)[:, None]  # [B, points, 2]
    pixels = jnp.arange(-radius, radius + 1)[None, None, None]
    near = jnp.maximum(1 - jnp.abs(points[..., None] - pixels), 0)  # bilinear, [B, points, 2, k]
    kernel = jnp.einsum('bpi,bpj->bij', near[:, :, 0], near[:, :, 1])
    return kernel / kernel.sum(axis=(1, 2), keepdims=True)


@dataclasses.dataclass(frozen=True)
class GivenBlur(Blur):
  """A kernel of the user's: the state `kernel` is set, not drawn."""

  def kernel(self, keys: Keys) -> Float[Array, 'b k k']:
    raise UsageError("GivenBlur: set its state {'kernel': kernel} [B, k, k], with k odd and of sum 1.")


@dataclasses.dataclass(frozen=True)
class Watermark(Operator):
  """A mark laid over the image: (1 - opacity) x + opacity mark.

  The state is `mark` [B, H, W, C] and `opacity` [B, H, W, 1] from 0 to 1; both are set, not drawn.
  """

  def draw(self, keys: Keys, shape: Shape) -> State:
    raise UsageError("Watermark: set its state {'mark': image [B, H, W, C], 'opacity': [B, H, W, 1]}.")

  def apply(self, state: State, x: Images) -> Images:
    return (1 - state['opacity']) * x + state['opacity'] * state['mark']

  def pseudo_inverse(self, state: State, y: Images, shape: Shape) -> Images:
    rest = 1 - state['opacity']
    return jnp.where(rest > 1e-3, y / jnp.maximum(rest, 1e-3), 0.0)


@dataclasses.dataclass(frozen=True)
class Clip(Operator):
  """Overexposure: gain x, clipped to [-1, 1]."""

  gain: float = 2.0
  is_linear = False

  def __post_init__(self):
    check_positive(self, 'gain')

  def apply(self, state: State, x: Images) -> Images:
    return jnp.clip(self.gain * x, -1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Quantize(Operator):
  """Rounds to `levels` evenly spaced values from -1 to 1."""

  levels: int = 4
  is_linear = False

  def __post_init__(self):
    if self.levels < 2:
      raise UsageError(f'levels={self.levels} must be 2 or more.')

  def apply(self, state: State, x: Images) -> Images:
    steps = self.levels - 1
    return jnp.round((jnp.clip(x, -1.0, 1.0) + 1) / 2 * steps) / steps * 2 - 1


def check_fraction(operator: Operator, name: str) -> None:
  """Raises UsageError unless the field `name` is between 0 and 1."""
  if not 0 < getattr(operator, name) < 1:
    raise UsageError(f'{name}={getattr(operator, name)} must be between 0 and 1.')


def check_positive(operator: Operator, name: str) -> None:
  """Raises UsageError unless the field `name` is positive and finite."""
  if not 0 < getattr(operator, name) < math.inf:
    raise UsageError(f'{name}={getattr(operator, name)} must be positive and finite.')
