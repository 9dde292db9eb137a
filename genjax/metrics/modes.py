"""How many of the known modes of a set samples cover: of the 25 Gaussians, of Stacked-MNIST's 1,000 (1712.04086, section 4)."""

import dataclasses
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8

from genjax.data.sources.base import Source
from genjax.data.sources.modes import DEVIATION, centers
from genjax.metrics.extractors import Extractor, open_extractor
from genjax.metrics.reference import real_images


def count_modes(images: UInt8[np.ndarray, 'n h w c'], data: dict[str, Any]) -> dict[str, float]:
  """Of samples like the set that `open_data(**data)` opens: `modes` covered, and how well; nothing for sets without known ones.

  The digits are told by the classifier of MNIST (genjax/metrics/classifier.py), color by color.
  """
  if data['name'] == 'gaussians_25':
    return of_gaussians(images)
  if data['name'] != 'stacked_mnist':
    return {}
  extractor = classifier_of_digits(data)
  digit = jax.jit(lambda images: extractor.function(extractor.params, images)[1].argmax(axis=1))
  colors = [np.concatenate([digit(images[i : i + 500, ..., c : c + 1]) for i in range(0, len(images), 500)]) for c in range(3)]
  return of_digits(np.stack(colors, axis=1))


def classifier_of_digits(data: dict[str, Any]) -> Extractor:
  """That of MNIST, at the size of the stacks."""
  return open_extractor('classifier', '', *real_images(**data | {'name': 'mnist', 'channels': 1}))


def open_features(
  name: str, weights: str, train: Source, test: Source | None, data: dict[str, Any], allow: Collection[str] = ()
) -> Extractor:
  """`open_extractor` for the set that `open_data(**data)` opens.

  The classifier of digits on digits is MNIST's, color by color, its features side by side: of a thousand classes with 60
  images each a small network learns nothing.
  """
  if (name, data['name']) != ('classifier', 'stacked_mnist'):
    return open_extractor(name, weights, train, test, allow)
  one = classifier_of_digits(data)

  def function(params, images):
    return jnp.concatenate([one.function(params, images[..., c : c + 1])[0] for c in range(3)], axis=1), None

  return dataclasses.replace(one, function=function, resizer='none, color by color')


def of_gaussians(points: UInt8[np.ndarray, 'n 1 1 2']) -> dict[str, float]:
  """`modes` of 25 that have a sample within three deviations, and the part `high_quality` of the samples that are within them.

  The deviation is that of the points, which are rounded to whole levels; of the data 0.994 are within.
  """
  away = np.linalg.norm(points.reshape(-1, 1, 2).astype(np.float64) - centers()[None], axis=-1)
  near = away.min(axis=1) <= 3 * np.sqrt(DEVIATION**2 + 1 / 12)
  return {'modes': float(len(np.unique(away.argmin(axis=1)[near]))), 'high_quality': float(near.mean())}


def of_digits(digits: Int[np.ndarray, 'n 3']) -> dict[str, float]:
  """`modes` of 1,000 that occur, and `modes_kl`, KL(samples || uniform) in nats: (1000 - 1) / (2 n) for perfect samples."""
  counts = np.bincount(digits @ [100, 10, 1], minlength=1000) / len(digits)
  seen = counts[counts > 0]
  return {'modes': float(len(seen)), 'modes_kl': float((seen * np.log(1000 * seen)).sum())}
