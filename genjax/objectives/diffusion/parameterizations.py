"""Parameterizations: the quantity that a network predicts, its training target, and how to compute x_0 from it.

Each is a frozen dataclass, independent of networks and solvers. `t` is [B, 1, 1, 1], and x_t = alpha x_0 + sigma eps with
alpha(t) and sigma(t) of the path. The network's inputs are `c_in` times x_t, and `c_noise` instead of the time.
"""

import dataclasses
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax.errors import UsageError
from genjax.samplers.paths import NoisePath
from genjax.samplers.process import derivatives, deviation, ratio
from genjax.types import Images

PerImage = Float[Array, 'b 1 1 1']


@runtime_checkable
class Parameterization(Protocol):
  def c_in(self, path: NoisePath, t: PerImage) -> PerImage: ...

  def c_noise(self, path: NoisePath, t: PerImage) -> PerImage: ...

  def x0(self, path: NoisePath, t: PerImage, x_t: Images, f: Images) -> Images:
    """The x_0 that corresponds to the network's output `f`."""
    ...

  def target(self, path: NoisePath, t: PerImage, x_0: Images, eps: Images) -> Images:
    """The training target for x_0 and eps."""
    ...

  def eps_error(self, path: NoisePath, t: PerImage) -> PerImage:
    """The error of eps for an error of 1 in the network's output, at fixed x_t."""
    ...


class _UnitVariance:
  """The network's inputs are x_t at unit variance (unchanged on variance-preserving paths) and t scaled to [0, 1000]."""

  def c_in(self, path: NoisePath, t: PerImage) -> PerImage:
    return 1 / deviation(path, t)

  def c_noise(self, path: NoisePath, t: PerImage) -> PerImage:
    return 1000 * t / path.end


@dataclasses.dataclass(frozen=True)
class Eps(_UnitVariance):
  """F = eps (2006.11239, eq. 12). It does not determine x_0 at alpha = 0, so the path must not end in pure noise."""

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
  """F = d x_t / dt = alpha' x_0 + sigma' eps (2209.03003, eq. 1; 2210.02747, eq. 13); the network's input is x_t."""

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

  Written in alpha and sigma, so that it is valid for any path. c_noise is log(sigma / alpha) / 4.
  """

  sigma_data: float = 0.5  # the standard deviation of the images

  def __post_init__(self):
    if self.sigma_data <= 0:
      raise UsageError(f'sigma_data={self.sigma_data} must be positive.')

  def total(self, path: NoisePath, t: PerImage) -> PerImage:
    """The standard deviation of x_t."""
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
