"""What a network predicts: how x_0 follows from it, and what it is trained towards.

Each is a frozen dataclass that knows no network and no solver. `t` is [B, 1, 1, 1] and x_t = alpha x_0 + sigma eps of the
path's alpha(t), sigma(t). The network sees `scale` times x_t, and `condition` in the place of the time:
its sines and cosines are of that and of slower multiples.
"""

import dataclasses
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax.errors import UsageError
from genjax.samplers.paths import NoisePath, derivatives, deviation, ratio
from genjax.types import Images

PerImage = Float[Array, 'b 1 1 1']


@runtime_checkable
class Parameterization(Protocol):
  def c_in(self, path: NoisePath, t: PerImage) -> PerImage: ...

  def c_noise(self, path: NoisePath, t: PerImage) -> PerImage: ...

  def x0(self, path: NoisePath, t: PerImage, x_t: Images, f: Images) -> Images:
    """The x_0 that a network's answer `f` amounts to."""
    ...

  def target(self, path: NoisePath, t: PerImage, x_0: Images, eps: Images) -> Images:
    """The answer that is right for x_0 and eps."""
    ...

  def eps_error(self, path: NoisePath, t: PerImage) -> PerImage:
    """The error of eps for an error of 1 of the network's answer, at given x_t."""
    ...


class _UnitVariance:
  """The network sees x_t at unit variance (which is x_t itself on paths that preserve variance) and t in 1000 steps."""

  def c_in(self, path: NoisePath, t: PerImage) -> PerImage:
    return 1 / deviation(path, t)

  def c_noise(self, path: NoisePath, t: PerImage) -> PerImage:
    return 1000 * t / path.end


@dataclasses.dataclass(frozen=True)
class Eps(_UnitVariance):
  """F = eps (2006.11239, eq. 12). Where alpha = 0 it says nothing of x_0: not for a path that ends in pure noise."""

  def x0(self, path: NoisePath, t: PerImage, x_t: Images, f: Images) -> Images:
    return (x_t - path.sigma(t) * f) / path.alpha(t)

  def target(self, path: NoisePath, t: PerImage, x_0: Images, eps: Images) -> Images:
    return eps

  def eps_error(self, path: NoisePath, t: PerImage) -> PerImage:
    return jnp.ones_like(t)


@dataclasses.dataclass(frozen=True)
class X0(_UnitVariance):
  """F = x_0 (2202.00512, section 4)."""

  def x0(self, path: NoisePath, t: PerImage, x_t: Images, f: Images) -> Images:
    return f

  def target(self, path: NoisePath, t: PerImage, x_0: Images, eps: Images) -> Images:
    return x_0

  def eps_error(self, path: NoisePath, t: PerImage) -> PerImage:
    return 1 / ratio(path, t)


@dataclasses.dataclass(frozen=True)
class V(_UnitVariance):
  """F = alpha eps - sigma x_0 (2202.00512, appendix D)."""

  def x0(self, path: NoisePath, t: PerImage, x_t: Images, f: Images) -> Images:
    alpha, sigma = path.alpha(t), path.sigma(t)
    return (alpha * x_t - sigma * f) / (alpha**2 + sigma**2)

  def target(self, path: NoisePath, t: PerImage, x_0: Images, eps: Images) -> Images:
    return path.alpha(t) * eps - path.sigma(t) * x_0

  def eps_error(self, path: NoisePath, t: PerImage) -> PerImage:
    return path.alpha(t) / (path.alpha(t) ** 2 + path.sigma(t) ** 2)


@dataclasses.dataclass(frozen=True)
class Velocity(_UnitVariance):
  """F = d x_t / dt = alpha' x_0 + sigma' eps (2209.03003, eq. 1; 2210.02747, eq. 13); the network sees x_t as it is."""

  def c_in(self, path: NoisePath, t: PerImage) -> PerImage:
    return jnp.ones_like(t)

  def x0(self, path: NoisePath, t: PerImage, x_t: Images, f: Images) -> Images:
    d_alpha, d_sigma = derivatives(path, t)
    return (d_sigma * x_t - path.sigma(t) * f) / (path.alpha(t) * d_sigma - path.sigma(t) * d_alpha)

  def target(self, path: NoisePath, t: PerImage, x_0: Images, eps: Images) -> Images:
    d_alpha, d_sigma = derivatives(path, t)
    return d_alpha * x_0 + d_sigma * eps

  def eps_error(self, path: NoisePath, t: PerImage) -> PerImage:
    d_alpha, d_sigma = derivatives(path, t)
    return path.alpha(t) / (path.alpha(t) * d_sigma - path.sigma(t) * d_alpha)


@dataclasses.dataclass(frozen=True)
class EDMPrecond:
  """F of EDM's preconditioning, D = c_skip y + c_out F(c_in y; c_noise) with y = x_t / alpha (2206.00364, eq. 7, table 1).

  Written in alpha and sigma, so that it holds for any path. c_noise is log(sigma / alpha) / 4.
  """

  sigma_data: float = 0.5  # the deviation of the images

  def __post_init__(self):
    if self.sigma_data <= 0:
      raise UsageError(f'sigma_data={self.sigma_data} must be positive.')

  def total(self, path: NoisePath, t: PerImage) -> PerImage:
    """The deviation of x_t."""
    return (path.sigma(t) ** 2 + (path.alpha(t) * self.sigma_data) ** 2) ** 0.5

  def c_in(self, path: NoisePath, t: PerImage) -> PerImage:
    return 1 / self.total(path, t)

  def c_noise(self, path: NoisePath, t: PerImage) -> PerImage:
    return jnp.log(jnp.minimum(ratio(path, t), 1e4)) / 4  # some paths end in pure noise

  def x0(self, path: NoisePath, t: PerImage, x_t: Images, f: Images) -> Images:
    total = self.total(path, t)
    return self.sigma_data**2 * path.alpha(t) / total**2 * x_t + path.sigma(t) * self.sigma_data / total * f

  def target(self, path: NoisePath, t: PerImage, x_0: Images, eps: Images) -> Images:
    # (x_0 - c_skip y) / c_out without dividing by a sigma that may be 0
    alpha, sigma, total = path.alpha(t), path.sigma(t), self.total(path, t)
    return (sigma * x_0 - self.sigma_data**2 * alpha * eps) / (self.sigma_data * total)

  def eps_error(self, path: NoisePath, t: PerImage) -> PerImage:
    return path.alpha(t) * self.sigma_data / self.total(path, t)
