"""Compares samples of a model, or external images, with real images: metrics, notes and a card."""

import math
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.special import chdtri

from genjax.data.sources.base import Source
from genjax.errors import UsageWarning
from genjax.images import save_grid
from genjax.metrics import card, card_files, collapse
from genjax.metrics.evaluation import Samples, classification_accuracy, compare_sets, copies_of_training_images, nearest_pairs
from genjax.metrics.extractors import Extractor, Metric, package_hash
from genjax.metrics.modes import count_modes
from genjax.metrics.reference import Reference


class Evaluator(NamedTuple):
  """Real images, and the settings of a comparison with samples."""

  data: dict[str, Any]  # options of `open_data` for `train`
  train: Source
  test: Source | None
  extractor: Extractor
  training: Reference
  held_out: Reference | None
  real: Reference  # the one of these two that samples are compared with
  custom: dict[str, Metric]  # name -> custom metric
  cas: dict[str, Any] | None  # recipe and test accuracy of the classifier trained on real images, for --cas
  labels: str  # origin of the samples' labels (genjax/metrics/card.py)
  is_gan: bool = False  # whether the samples are known to come from a GAN; False for external images

  def measure(
    self, samples: Samples, count: int, floor: dict[str, Any], extra_metrics: dict[str, float], notes: list[str]
  ) -> card.Card:
    """The card of `count` samples, including `extra_metrics`; the caller fills in model and cost.

    `floor`: the `card.fid_floor` of this number of samples.
    """
    metrics = samples.metrics | compare_sets(samples, self.real) | extra_metrics | count_modes(samples.images, self.data)
    metrics |= copies_of_training_images(samples, self.training, self.held_out)
    metrics |= self.custom_metrics(samples)
    if self.cas:
      metrics |= classification_accuracy(samples, self.train, self.test)
    return {
      'metrics': metrics,
      'protocol': card.protocol(self.extractor, self.real, count, self.held_out, self.labels),
      **({'custom_metrics': {name: package_hash(metric) for name, metric in self.custom.items()}} if self.custom else {}),
      'model': {},
      'cost': {},
      'floor': floor,
      'notes': card.notes(count, self.real, self.extractor, floor, metrics['fid']) + notes,
      'flags': collapse.flags(collapse.collapse_metrics(metrics), self.is_gan),
      **({'classification': self.cas} if self.cas else {}),
      **card.environment(),
    }

  def custom_metrics(self, samples: Samples) -> dict[str, float]:
    """The custom metrics, computed on the stored samples and equally many real images.

    A metric that fails or is not a finite number is omitted with a warning; the other metrics are kept.
    """
    source = self.test if self.real is self.held_out else self.train
    real = source.read(self.real.rows[: len(samples.images)])[0] if self.custom else None
    values = {}
    for name, metric in self.custom.items():
      try:
        value = float(metric(samples.images, real))
      except Exception as error:  # the user's code
        warnings.warn(f'--metric {name} failed and is omitted: {type(error).__name__}: {error}', UsageWarning, stacklevel=2)
        continue
      if math.isfinite(value):
        values[name] = value
      else:
        warnings.warn(f'--metric {name} is {value}, not a finite number, and is omitted.', UsageWarning, stacklevel=2)
    return values

  def save(self, folder: Path, result: card.Card, samples: Samples) -> Path:
    """Prints and writes the card, and a grid of the samples nearest to training images. Returns the card's path."""
    print(card.table(result))
    path = card_files.save_in(folder, result)
    save_grid(path.with_name(f'{path.stem}_nearest.png'), nearest_pairs(samples, self.training, self.train), 10)
    print(f'{path}\n{path.with_name(path.stem)}_nearest.png: samples above, the training images nearest to them below')
    return path


def counts_by_class(labels: Int[np.ndarray, 'n'], classes: Float[np.ndarray, 'k']):
  """Counts of each label, and counts in the reference, padded with zeros for classes that it does not have."""
  counts = np.bincount(labels, minlength=len(classes))
  return counts, np.pad(classes, (0, len(counts) - len(classes)))


def matches_frequencies(labels: Int[np.ndarray, 'n'] | None, classes: Float[np.ndarray, 'k']) -> bool:
  """Whether `labels` may have been drawn with the frequencies of the reference's `classes` (chi-squared test, 5 %)."""
  if labels is None or not classes.sum():
    return False
  counts, classes = counts_by_class(labels, classes)
  expected = classes / classes.sum() * len(labels)
  occurs = expected > 0
  statistic = (np.square(counts - expected)[occurs] / expected[occurs]).sum()
  return bool(not counts[~occurs].any() and (occurs.sum() < 2 or statistic <= chdtri(occurs.sum() - 1, 0.05)))


def class_notes(labels: Int[np.ndarray, 'n'] | None, classes: Float[np.ndarray, 'k']) -> list[str]:
  """A note if the frequencies of `labels` differ significantly from the reference's `classes`."""
  if labels is None or not classes.sum():
    return []
  counts, classes = counts_by_class(labels, classes)
  expected, n = classes / classes.sum(), len(labels)
  variation = np.abs(counts / n - expected).sum() / 2  # about 0.4 sqrt(k / n) for labels drawn at random
  missing = [str(i) for i in np.flatnonzero((counts == 0) & (expected * n >= 10))]
  if not missing and variation <= 0.05 + np.sqrt(len(classes) / n):
    return []
  absent = f'; none of class {", ".join(missing[:20])}{", ..." if len(missing) > 20 else ""}' if missing else ''
  return [f'the labels are distributed differently than in the reference (total variation {variation:.2f}{absent})']


def first_images(samples: Samples, num_classes: int) -> tuple[UInt8[np.ndarray, 'n h w c'], int]:
  """The images of a grid, and its number of columns: one column per class for up to 16 classes, else 64 images in rows of 8."""
  if samples.labels is None or not 2 <= num_classes <= 16:
    return samples.images[:64], 8
  of_class = [samples.images[samples.labels == i][:8] for i in range(num_classes)]
  blank = np.full_like(samples.images[0], 96)
  return np.stack([images[row] if row < len(images) else blank for row in range(8) for images in of_class]), num_classes
