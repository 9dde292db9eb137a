"""What objectives share about conditions, dropout and units."""

import math
from numbers import Real

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from genjax.errors import UsageError
from genjax.types import Images, Keys


def check_scale(name: str, value: float) -> None:
  """Raises UsageError if latents cannot be `value` times as long; a traced one is believed."""
  if not isinstance(value, Real | jax.Array):
    raise UsageError(f'{name}={value!r}: give a number.')
  if isinstance(value, Real) and not 0 <= value < math.inf:
    raise UsageError(f'{name}={value} must not be negative, and must be finite.')


def dropout_keys(network: nn.Module, keys: Keys) -> tuple[Keys, ...]:
  """What a network takes beside its inputs in training: the images' keys if its field `dropout` is not 0, else nothing."""
  return (keys,) if getattr(network, 'dropout', 0) else ()


def check_no_dropout(network: nn.Module, name: str, kind: str) -> None:
  """Raises UsageError for a network with dropout, the option `name` of an objective `kind` that has no keys for it."""
  if getattr(network, 'dropout', 0):
    raise UsageError(f'objective.{name}.dropout={network.dropout}: {kind} has no keys for it, set it to 0.')


def check_outputs(network: nn.Module, answers: int = 1) -> None:
  """Raises UsageError for a network that answers more or fewer images than the objective reads."""
  given = getattr(network, 'outputs', answers)
  if given != answers:
    raise UsageError(f'objective.network.outputs={given}: this objective reads {answers}, set outputs={answers}.')


def bits_per_dim(nats: Float[Array, '*b'], image: Images) -> Float[Array, '*b']:
  """Nats an image in bits for each of the numbers of `image` [B, H, W, C]."""
  return nats / math.prod(image.shape[1:]) / math.log(2)
