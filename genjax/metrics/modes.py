"""Number of modes covered by samples: of 25 Gaussians, and of the 1,000 of Stacked-MNIST (1712.04086, section 4)."""

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
  """Counts the `modes` covered by samples of the data set `open_data(**data)`; {} for data sets without known modes.

  The classifier of MNIST (genjax/metrics/classifier.py) recognizes the digits, one color channel at a time.
  """
  if data['name'] == 'gaussians_25':
    return gaussian_modes(images)
  if data['name'] != 'stacked_mnist':
    return {}
  extractor = mnist_classifier(data)
  digit = jax.jit(lambda images: extractor.function(extractor.params, images)[1].argmax(axis=1))
  colors = [np.concatenate([digit(images[i : i + 500, ..., c : c + 1]) for i in range(0, len(images), 500)]) for c in range(3)]
  return stacked_mnist_modes(np.stack(colors, axis=1))


def mnist_classifier(data: dict[str, Any]) -> Extractor:
  """The classifier of MNIST, at the resolution of the stacked images."""
  return open_extractor('classifier', '', *real_images(**data | {'name': 'mnist', 'channels': 1}))


def open_features(
  name: str, weights: str, train: Source, test: Source | None, data: dict[str, Any], allow: Collection[str] = ()
) -> Extractor:
  """`open_extractor` for the data set that `open_data(**data)` opens.

  For Stacked-MNIST, the classifier is that of MNIST, applied to each color channel, and its features are concatenated: a small
  network cannot learn a thousand classes with 60 images each.
  """
  if (name, data['name']) != ('classifier', 'stacked_mnist'):
    return open_extractor(name, weights, train, test, allow)
  one = mnist_classifier(data)

  def function(params, images):
    return jnp.concatenate([one.function(params, images[..., c : c + 1])[0] for c in range(3)], axis=1), None

  return dataclasses.replace(one, function=function, resizer='none, color by color')


def gaussian_modes(points: UInt8[np.ndarray, 'n 1 1 2']) -> dict[str, float]:
  """`modes`: number of the 25 modes with a sample within three standard deviations; `high_quality`: fraction of such samples.

  The standard deviation is that of the points, which are rounded to integer levels; for the data `high_quality` is 0.994.
  """
  away = np.linalg.norm(points.reshape(-1, 1, 2).astype(np.float64) - centers()[None], axis=-1)
  near = away.min(axis=1) <= 3 * np.sqrt(DEVIATION**2 + 1 / 12)
  return {'modes': float(len(np.unique(away.argmin(axis=1)[near]))), 'high_quality': float(near.mean())}


def stacked_mnist_modes(digits: Int[np.ndarray, 'n 3']) -> dict[str, float]:
  """`modes`: number of the 1,000 modes that occur; `modes_kl`: KL(samples || uniform) in nats, 999 / (2 n) if uniform."""
  counts = np.bincount(digits @ [100, 10, 1], minlength=1000) / len(digits)
  occupied = counts[counts > 0]
  return {'modes': float(len(occupied)), 'modes_kl': float((occupied * np.log(1000 * occupied)).sum())}
