"""Checks and units that objectives share."""

import math
from numbers import Real

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from genjax.errors import UsageError
from genjax.types import Images, Keys


def check_scale(name: str, value: float) -> None:
  """Raises UsageError if latents cannot be scaled by `value`; traced values are not checked."""
  if not isinstance(value, Real | jax.Array):
    raise UsageError(f'{name}={value!r} must be a number.')
  if isinstance(value, Real) and not 0 <= value < math.inf:
    raise UsageError(f'{name}={value} must not be negative, and must be finite.')


def dropout_keys(network: nn.Module, keys: Keys) -> tuple[Keys, ...]:
  """Additional arguments of a network in training: the images' keys if its field `dropout` is not 0, else nothing."""
  return (keys,) if getattr(network, 'dropout', 0) else ()


def check_no_dropout(network: nn.Module, name: str, kind: str) -> None:
  """Raises UsageError for a network with dropout, the option `name` of an objective `kind` that does not support it."""
  if getattr(network, 'dropout', 0):
    raise UsageError(f'objective.{name}.dropout={network.dropout}: {kind} does not support dropout, set it to 0.')


def check_num_outputs(network: nn.Module, num_outputs: int = 1) -> None:
  """Raises UsageError for a network that outputs more or fewer images than the objective needs."""
  outputs = getattr(network, 'outputs', num_outputs)
  if outputs != num_outputs:
    raise UsageError(f'objective.network.outputs={outputs}: this objective needs {num_outputs}, set outputs={num_outputs}.')


def bits_per_dim(nats: Float[Array, '*b'], image: Images) -> Float[Array, '*b']:
  """Converts nats per image to bits per dimension of `image` [B, H, W, C]."""
  return nats / math.prod(image.shape[1:]) / math.log(2)
