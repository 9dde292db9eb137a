"""What objectives share about labels and dropout."""

import math
from numbers import Real

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from genjax import rng
from genjax.errors import UsageError
from genjax.types import Images, Keys, Labels


def one_hot(labels: Labels, num_classes: int) -> Float[Array, 'b k'] | None:
  """What networks take: one-hot rows [B, K], zeros for the null label `num_classes`; None if K = 0."""
  return jax.nn.one_hot(labels, num_classes) if num_classes else None


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


def drop_labels(keys: Keys, labels: Labels, rate: float, num_classes: int) -> Labels:
  """The null label `num_classes` in the place of a part `rate` of the labels, for classifier-free guidance (2207.12598)."""
  return jnp.where(rng.bernoulli(keys, rate), num_classes, labels)


def labels_or_null(labels: Labels | None, images: int, num_classes: int) -> Labels:
  """The labels given, else the null label for all `images`."""
  return jnp.full(images, num_classes) if labels is None else labels


def bits_per_dim(nats: Float[Array, '*b'], image: Images) -> Float[Array, '*b']:
  """Nats an image in bits for each of the numbers of `image` [B, H, W, C]."""
  return nats / math.prod(image.shape[1:]) / math.log(2)


def labels_or_random(labels: Labels | None, keys: Keys, num_classes: int) -> Labels | None:
  """The labels given, else uniform ones from stream 1 of the images' keys; None for an unconditional model."""
  if labels is None and num_classes:
    return rng.labels(rng.fold_in(keys, 1), num_classes)
  return labels
