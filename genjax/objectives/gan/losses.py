"""Adversarial losses: pairs of losses of the discriminator and the generator."""

import abc
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax.errors import UsageError

Logits = Float[Array, 'b']
Scalar = Float[Array, '']


@dataclasses.dataclass(frozen=True)
class Adversarial(abc.ABC):
  """Two losses of the logits [B] of real and of generated images."""

  paired: ClassVar[bool] = False  # whether the generator's loss uses `real`, which is None otherwise

  @abc.abstractmethod
  def discriminator(self, real: Logits, fake: Logits) -> Scalar: ...

  @abc.abstractmethod
  def generator(self, real: Logits | None, fake: Logits) -> Scalar: ...

  def ada_signal(self, real: Logits, fake: Logits) -> Logits:
    """Positive where a real image is classified as real; ADA uses the signs (2006.06676, section 3.1)."""
    return real


@dataclasses.dataclass(frozen=True)
class Minimax(Adversarial):
  """L_D = -E log D(x) - E log(1 - D(G(z))), L_G = E log(1 - D(G(z))) with D = sigmoid(logit) (1406.2661, eq. 1).

  `smoothing` s makes the target of real images 1 - s instead of 1 (one-sided label smoothing, 1606.03498, section 3.4).
  """

  smoothing: float = 0.0

  def __post_init__(self):
    if not 0 <= self.smoothing < 1:
      raise UsageError(f'objective.loss.smoothing={self.smoothing} must be in [0, 1).')

  def discriminator(self, real: Logits, fake: Logits) -> Scalar:
    return (jax.nn.softplus(-real) + self.smoothing * real).mean() + jax.nn.softplus(fake).mean()

  def generator(self, real: Logits | None, fake: Logits) -> Scalar:
    return -jax.nn.softplus(fake).mean()


@dataclasses.dataclass(frozen=True)
class NonSaturating(Minimax):
  """L_D of `Minimax`, L_G = -E log D(G(z)), whose gradient does not vanish if D is accurate (1406.2661, section 3)."""

  def generator(self, real: Logits | None, fake: Logits) -> Scalar:
    return jax.nn.softplus(-fake).mean()


@dataclasses.dataclass(frozen=True)
class LeastSquares(Adversarial):
  """L_D = 1/2 E (D(x) - 1)^2 + 1/2 E D(G(z))^2, L_G = 1/2 E (D(G(z)) - 1)^2 (1611.04076, eq. 9)."""

  def discriminator(self, real: Logits, fake: Logits) -> Scalar:
    return 0.5 * jnp.square(real - 1).mean() + 0.5 * jnp.square(fake).mean()

  def generator(self, real: Logits | None, fake: Logits) -> Scalar:
    return 0.5 * jnp.square(fake - 1).mean()

  def ada_signal(self, real: Logits, fake: Logits) -> Logits:
    return real - 0.5  # halfway between the targets


@dataclasses.dataclass(frozen=True)
class Wasserstein(Adversarial):
  """L_D = E D(G(z)) - E D(x), L_G = -E D(G(z)), for a Lipschitz D (1701.07875, eq. 2 and 3).

  The slope is bounded by a penalty (`penalties.GradientPenalty`), by clipping the weights (`optim.rmsprop`) or by spectral
  normalization.
  """

  def discriminator(self, real: Logits, fake: Logits) -> Scalar:
    return fake.mean() - real.mean()

  def generator(self, real: Logits | None, fake: Logits) -> Scalar:
    return -fake.mean()

  def ada_signal(self, real: Logits, fake: Logits) -> Logits:
    return real - fake  # a constant added to D changes nothing


@dataclasses.dataclass(frozen=True)
class Hinge(Adversarial):
  """L_D = E max(0, 1 - D(x)) + E max(0, 1 + D(G(z))), L_G = -E D(G(z)) (1802.05957, eq. 16 and 17)."""

  def discriminator(self, real: Logits, fake: Logits) -> Scalar:
    return jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean()

  def generator(self, real: Logits | None, fake: Logits) -> Scalar:
    return -fake.mean()


@dataclasses.dataclass(frozen=True)
class RelativisticPairing(Adversarial):
  """L_D = E softplus(D(G(z)) - D(x)), L_G = E softplus(D(x) - D(G(z))): real and generated images are compared in pairs.

  RpGAN (1807.00734, eq. 5 and 6) with f = softplus as in R3GAN (2501.05441, eq. 2), which adds R1 and R2.
  """

  paired: ClassVar[bool] = True

  def discriminator(self, real: Logits, fake: Logits) -> Scalar:
    return jax.nn.softplus(fake - real).mean()

  def generator(self, real: Logits, fake: Logits) -> Scalar:
    return jax.nn.softplus(real - fake).mean()

  def ada_signal(self, real: Logits, fake: Logits) -> Logits:
    return real - fake
