"""Conditions of a model: class labels, and combinations of conditions.

A conditioner is a frozen dataclass and a `Conditioner` (genjax/types.py). It turns a user's values into arrays on the host,
draws conditions where that makes sense, has null values for classifier-free guidance (2207.12598), and turns conditions into
what networks get. Conditions are a dict of arrays [B, ...]; a condition that a model does not have is an absent key.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from genjax import rng
from genjax.errors import UsageError, unknown
from genjax.types import Cond, Conditioner, Example, Keys

STREAM = 1  # of an image's keys, from which its conditions are drawn


@dataclasses.dataclass(frozen=True)
class Unconditional:
  """No conditions."""

  fields = ()

  def check(self, example: Example) -> None:
    pass

  def encode(self, values: Mapping[str, Any], n: int, example: Example) -> dict[str, np.ndarray]:
    return {}

  def null(self, cond: Cond) -> Cond:
    return {}

  def draw(self, keys: Keys) -> Cond:
    return {}

  def embed(self, cond: Cond) -> Cond:
    return {}

  def drop(self, keys: Keys, cond: Cond, rate: float) -> Cond:
    return cond


@dataclasses.dataclass(frozen=True)
class ClassLabel:
  """`label`, int32 [B] in [0, classes); `classes` itself is the null label. Networks get one-hot rows [B, classes].

  `classes` follows from the data unless a config sets it. The row of the null label is zero.
  """

  classes: int

  fields = ('label',)

  def __post_init__(self):
    if self.classes < 1:
      raise UsageError(f'ClassLabel: classes={self.classes} must be 1 or more; conditioners.Unconditional has none.')

  def check(self, example: Example) -> None:
    """Raises UsageError unless the data have labels of as many classes."""
    remedy = '--config.objective.conditioner.cls=conditioners.Unconditional trains a model without labels'
    if 'label' not in example.cond:
      raise UsageError(f'the data have no labels, and the model is conditioned on a class: {remedy}.')
    if len(example.classes) != self.classes:
      raise UsageError(
        f'the data have {len(example.classes)} classes, but objective.conditioner.classes={self.classes}: remove it. '
        f'Or {remedy}.'
      )

  def encode(self, values: Mapping[str, Any], n: int, example: Example) -> dict[str, np.ndarray]:
    """`values['label']` is a class, by number or by name, or one for each of the `n` images."""
    label = values.get('label')
    if label is None:
      return {}
    if isinstance(label, list | tuple):  # of numbers and names
      labels = list(label)
    else:
      labels = [label] if isinstance(label, str) else np.atleast_1d(np.asarray(label)).tolist()
    if len(labels) not in (1, n):
      raise UsageError(f'label must be one class, or one for each of the {n} images.')
    return {'label': np.broadcast_to(np.array([self.number(item, example) for item in labels], np.int32), (n,))}

  def number(self, label: Any, example: Example) -> int:
    """The number of a class, from its number or its name. Raises UsageError if there is no such class."""
    if isinstance(label, np.generic | np.ndarray | jax.Array) and not label.ndim:
      label = label.item()
    if isinstance(label, str):
      if label in example.classes:
        return example.classes.index(label)
      raise UsageError(unknown('class', label, example.classes))
    if not isinstance(label, int) or isinstance(label, bool):
      raise UsageError(f'label={label!r} must be the number or the name of a class, or a list with one for each image.')
    if not 0 <= label < self.classes:
      raise UsageError(f'label={label}: this model has the classes 0 to {self.classes - 1}.')
    return label

  def null(self, cond: Cond) -> Cond:
    return {'label': jnp.full_like(cond['label'], self.classes)}

  def draw(self, keys: Keys) -> Cond:
    """Uniform classes."""
    return {'label': rng.labels(keys, self.classes)}

  def embed(self, cond: Cond) -> Cond:
    return {'label': jax.nn.one_hot(cond['label'], self.classes)}

  def drop(self, keys: Keys, cond: Cond, rate: float) -> Cond:
    return drop_together(self, keys, cond, rate)


@dataclasses.dataclass(frozen=True)
class Together:
  """Several conditioners of different fields. Guidance drops all fields of an example with one draw (2207.12598)."""

  parts: tuple[Conditioner, ...]

  def __post_init__(self):
    flat = (part.parts if isinstance(part, Together) else (part,) for part in self.parts)
    object.__setattr__(self, 'parts', sum(flat, ()))
    if len(set(self.fields)) < len(self.fields):
      raise UsageError(f'Together: a field occurs twice in {self.fields}.')

  @property
  def fields(self) -> tuple[str, ...]:
    return tuple(field for part in self.parts for field in part.fields)

  def check(self, example: Example) -> None:
    for part in self.parts:
      part.check(example)

  def encode(self, values: Mapping[str, Any], n: int, example: Example) -> dict[str, np.ndarray]:
    return {name: array for part in self.parts for name, array in part.encode(values, n, example).items()}

  def null(self, cond: Cond) -> Cond:
    return self._of_parts(lambda part: part.null(only(part, cond)))

  def draw(self, keys: Keys) -> Cond:
    return {name: x for i, part in enumerate(self.parts) for name, x in part.draw(rng.fold_in(keys, i)).items()}

  def embed(self, cond: Cond) -> Cond:
    return self._of_parts(lambda part: part.embed(only(part, cond)))

  def drop(self, keys: Keys, cond: Cond, rate: float) -> Cond:
    return drop_together(self, keys, cond, rate)

  def _of_parts(self, function) -> Cond:
    return {name: x for part in self.parts for name, x in function(part).items()}


def only(conditioner: Conditioner, cond: Cond) -> Cond:
  """The fields of `cond` that a conditioner handles."""
  return {name: x for name, x in cond.items() if name in conditioner.fields}


def complete(conditioner: Conditioner, cond: Cond, keys: Keys) -> Cond:
  """`cond` with the fields that it lacks drawn from stream STREAM of the images' keys."""
  for name in cond:
    if name not in conditioner.fields:
      raise UsageError(unknown('condition', name, conditioner.fields))
  parts = conditioner.parts if isinstance(conditioner, Together) else (conditioner,)
  streams = rng.fold_in(keys, STREAM)
  values = dict(cond)
  for i, part in enumerate(parts):
    if not set(part.fields) <= values.keys():
      values = part.draw(rng.fold_in(streams, i) if isinstance(conditioner, Together) else streams) | values
  return values


def can_draw(conditioner: Conditioner) -> bool:
  """Whether conditions can be drawn; otherwise they are set by the user, or taken from examples."""
  try:
    jax.eval_shape(lambda: conditioner.draw(rng.image_keys(rng.key(0), jnp.arange(1))))
  except UsageError:
    return False
  return True


def drop_together(conditioner: Conditioner, keys: Keys, cond: Cond, rate: float) -> Cond:
  """Null values for a part `rate` of the examples, in all fields of one."""
  dropped, null = rng.bernoulli(keys, rate), conditioner.null(cond)
  return {name: jnp.where(_like(dropped, x), null[name], x) for name, x in cond.items()}


def is_null(conditioner: Conditioner, cond: Cond) -> Bool[Array, 'b']:
  """Whether all fields of an example have their null values."""
  null = conditioner.null(cond)
  same = [(x == null[name]).reshape(x.shape[0], -1).all(axis=1) for name, x in cond.items()]
  return jnp.stack(same).all(axis=0)


def class_label(conditioner: Conditioner) -> ClassLabel | None:
  """The conditioner of the field `label`, if there is one; for code that is specific to classes."""
  parts = conditioner.parts if isinstance(conditioner, Together) else (conditioner,)
  return next((part for part in parts if isinstance(part, ClassLabel)), None)


def num_classes(conditioner: Conditioner) -> int:
  """The number of classes of a conditioner; 0 without a class label."""
  label = class_label(conditioner)
  return label.classes if label else 0


def _like(mask: Bool[Array, 'b'], x: Array) -> Bool[Array, 'b ...']:
  return mask.reshape(-1, *[1] * (x.ndim - 1))
