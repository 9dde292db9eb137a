"""Penalties that stabilize GAN training: on the gradient of the discriminator, and on the Jacobian of the generator.

A penalty of the discriminator is a frozen dataclass and a `Penalty`. It is called with `critic(images, keys) -> logits [B]`,
real and generated images [B, H, W, C] and keys [B], and returns a scalar. A penalty of the generator is a `GeneratorPenalty`.
It is called with `generate(latents) -> images`, latents [B, d], keys and a state that is kept between steps, and returns a
scalar and the new state. Both are used at every `every`-th step with `every` times the weight (lazy regularization,
1912.04958, appendix B; the paper uses separate steps of the same Adam for this, and here it is one step).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax import rng
from genjax.errors import UsageError
from genjax.objectives.gan.augment import mirror, shift
from genjax.types import Images, Keys

Scalar = Float[Array, '']
Critic = Callable[[Images, Keys], Float[Array, 'b']]
Generate = Callable[[Float[Array, 'b d']], Images]


@dataclasses.dataclass(frozen=True)
class Penalty:
  """A term of the loss with `weight`, at every `every`-th step."""

  weight: float
  every: int = 1

  def __post_init__(self):
    if not 0 <= self.weight < math.inf or self.every < 1:
      name = type(self).__name__
      raise UsageError(f'{name}: weight={self.weight} must be 0 or more and finite, every={self.every} 1 or more.')


class GeneratorPenalty(Penalty):
  """A penalty of the generator, called with the state from `init` or from the previous call."""

  wrt_w: ClassVar[bool] = False  # with respect to w if the generator has a mapping, else to z ~ N(0, I)

  def init(self) -> Array:
    """The initial state: a mean over images, so that it can be computed from parts of a batch."""
    return jnp.zeros(())


def squared_slopes(critic: Critic, images: Images, keys: Keys) -> Float[Array, 'b']:
  """|grad_x D(x)|^2 of each image."""
  slopes = jax.grad(lambda x: critic(x, keys).sum())(images)
  return jnp.square(slopes).sum(axis=(1, 2, 3))


def norm(squared: Float[Array, '*b']) -> Float[Array, '*b']:
  """The square root, with gradient 0 at 0."""
  return jnp.sqrt(jnp.where(squared > 0, squared, 1)) * (squared > 0)


@dataclasses.dataclass(frozen=True)
class R1(Penalty):
  """gamma / 2 E |grad D(x)|^2 on real images (1801.04406, eq. 9); gamma is `weight`."""

  def __call__(self, critic: Critic, real: Images, fake: Images, keys: Keys) -> Scalar:
    return self.weight / 2 * squared_slopes(critic, real, keys).mean()


@dataclasses.dataclass(frozen=True)
class R2(Penalty):
  """gamma / 2 E |grad D(G(z))|^2 on generated images (1801.04406, eq. 10); gamma is `weight`."""

  def __call__(self, critic: Critic, real: Images, fake: Images, keys: Keys) -> Scalar:
    return self.weight / 2 * squared_slopes(critic, fake, keys).mean()


@dataclasses.dataclass(frozen=True)
class GradientPenalty(Penalty):
  """WGAN-GP: weight E (|grad D(u x + (1 - u) G(z))| - 1)^2, u uniform in [0, 1] (1704.00028, eq. 3)."""

  weight: float = 10.0

  def __call__(self, critic: Critic, real: Images, fake: Images, keys: Keys) -> Scalar:
    u = rng.uniform(rng.fold_in(keys, 0), (1, 1, 1))
    slopes = norm(squared_slopes(critic, u * real + (1 - u) * fake, rng.fold_in(keys, 1)))
    return self.weight * jnp.square(slopes - 1).mean()


@dataclasses.dataclass(frozen=True)
class DRAGAN(Penalty):
  """weight E (|grad D(x + delta)| - 1)^2 around real images, delta ~ N(0, deviation^2 I) (1705.07215, section 2.3)."""

  weight: float = 10.0
  deviation: float = 0.5  # of images in [-1, 1]

  def __post_init__(self):
    super().__post_init__()
    if self.deviation <= 0:
      raise UsageError(f'DRAGAN: deviation={self.deviation} must be positive.')

  def __call__(self, critic: Critic, real: Images, fake: Images, keys: Keys) -> Scalar:
    near = real + self.deviation * rng.normal(rng.fold_in(keys, 0), real.shape[1:])
    slopes = norm(squared_slopes(critic, near, rng.fold_in(keys, 1)))
    return self.weight * jnp.square(slopes - 1).mean()


@dataclasses.dataclass(frozen=True)
class ConsistencyRegularization(Penalty):
  """weight E (D(x) - D(T(x)))^2 + generated E (D(G(z)) - D(T(G(z))))^2, T a flip and a shift of up to an eighth of the side.

  CR-GAN (1910.12027, eq. 2); with `generated` above 0 bCR-GAN (2002.04724, algorithm 1).
  """

  weight: float = 10.0
  generated: float = 0.0

  def __call__(self, critic: Critic, real: Images, fake: Images, keys: Keys) -> Scalar:
    if real.shape[1:3] == (1, 1):
      raise UsageError('ConsistencyRegularization: flips and shifts do not change images of one pixel, remove this penalty.')
    keys, again = rng.split(keys, 2)

    def difference(images):
      moved = jax.vmap(lambda key, image: mirror(key, shift(jax.random.fold_in(key, 0), image, 'reflect')))(again, images)
      return jnp.square(critic(images, keys) - critic(moved, keys)).mean()

    return self.weight * difference(real) + (self.generated * difference(fake) if self.generated else 0.0)


@dataclasses.dataclass(frozen=True)
class PathLength(GeneratorPenalty):
  """weight E (|J_w^T y| - a)^2, y ~ N(0, I) / sqrt(H W), J_w the Jacobian of the image by the latent (1912.04958, eq. 4).

  a is a moving average of |J_w^T y| with rate 0.01. The latent is w if there is a `mapping`, else z.
  """

  weight: float = 2.0
  every: int = 4
  wrt_w: ClassVar[bool] = True

  def __call__(self, generate: Generate, latents: Float[Array, 'b d'], keys: Keys, a: Scalar) -> tuple[Scalar, Scalar]:
    image, back = jax.vjp(generate, latents)
    y = rng.normal(keys, image.shape[1:]) / jnp.sqrt(image.shape[1] * image.shape[2])
    lengths = norm(jnp.square(back(y)[0]).sum(axis=1))
    return self.weight * jnp.square(lengths - a).mean(), a + 0.01 * (jax.lax.stop_gradient(lengths.mean()) - a)


@dataclasses.dataclass(frozen=True)
class JacobianVariation(GeneratorPenalty):
  """weight 1/2 E |J(z) - J(z')|_F^2 / E |J|_F^2 for neighbors z, z': the relative variation of the Jacobian, from 0 to 1.

  J(z) is the Jacobian dG/dz, z' = sqrt(1 - r^2) z + r n with n ~ N(0, I) and r = `radius`, so that z' ~ N(0, I) as z. The
  Frobenius norms are E_v |J v|^2 over v ~ N(0, I), the same v for z and z': two forward derivatives an image. With r = 1
  the numerator is the variance of J, E |J - E J|_F^2; for small r it is r^2 / 2 sum_k E |dJ / dz_k|_F^2. It is 0 if and only if
  G is affine. The gradient is that of the quotient, which does not depend on the scale of G. Both means are moving averages
  with rate 0.01; the first call only initializes them. Derivation and effect: docs/models/gan.md. Based on the idea of
  "Improving the Quality of GAN Training by Reducing Variation in the Jacobian of Maps from Latent Space to Data Space".
  """

  weight: float = 1.0
  every: int = 4
  radius: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    if not 0 < self.radius <= 1:
      raise UsageError(f'JacobianVariation: radius={self.radius} must be above 0 and 1 at most.')

  def init(self) -> Float[Array, '2']:
    """E |J|_F^2 and 1/2 E |J(z) - J(z')|_F^2."""
    return jnp.zeros(2)

  def __call__(self, generate: Generate, latents: Float[Array, 'b d'], keys: Keys, means: Float[Array, '2']):
    r, (n, v) = self.radius, (rng.normal(stream, latents.shape[1:]) for stream in rng.split(keys, 2))
    push = lambda z: jax.jvp(generate, (z,), (v,))[1]  # noqa: E731 - J(z) v
    here, there = push(latents), push(jnp.sqrt(1 - r**2) * latents + r * n)
    energy = 0.5 * (jnp.square(here) + jnp.square(there)).sum(axis=(1, 2, 3)).mean()
    varies = 0.5 * jnp.square(here - there).sum(axis=(1, 2, 3)).mean()
    known, now = means[0] > 0, jax.lax.stop_gradient(jnp.stack([energy, varies]))
    mean = jnp.where(known, means[0], 1)
    # d(V / E) = (dV - V / E dE) / E is still a mean over images, which does not depend on how a batch is split.
    share = jnp.where(known, (varies - means[1] / mean * (energy - now[0])) / mean, 0)
    return self.weight * share, jnp.where(known, means + 0.01 * (now - means), now)
