"""Samples compared with real images, whether a model drew them or another program made them: metrics, notes, a card."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from genjax.data.sources import Source
from genjax.images import save_grid
from genjax.metrics import card, collapse
from genjax.metrics.evaluation import Samples, classification_accuracy, compare_sets, memorised, nearest_pairs
from genjax.metrics.extractors import Extractor
from genjax.metrics.fid import Floor
from genjax.metrics.modes import count_modes
from genjax.metrics.reference import Reference


class Evaluator(NamedTuple):
  """Real images, and how samples are compared with them."""

  data: dict[str, Any]  # options of `open_data` that open `train`
  train: Source
  test: Source | None
  extractor: Extractor
  training: Reference
  held_out: Reference | None
  real: Reference  # that of these two which samples are compared with
  floor: Floor  # FID of as many real images as there are samples
  cas: dict[str, Any] | None  # recipe and test accuracy of a classifier of real images, if another is trained on samples

  def measure(self, samples: Samples, count: int, more: dict[str, float], notes: list[str], *labels: str) -> card.Card:
    """Metrics, `more` among them, protocol and notes of `count` samples; their model and cost are to be added.

    `labels`: where they come from, if they were not drawn as often as in the reference.
    """
    metrics = samples.metrics | compare_sets(samples, self.real) | more | count_modes(samples.images, self.data)
    if self.test:
      metrics |= memorised(samples, self.training, self.held_out)
    if self.cas:
      metrics |= classification_accuracy(samples, self.train, self.test)
    return {
      'metrics': metrics,
      'protocol': card.protocol(self.extractor, self.real, count, self.held_out, *labels),
      'model': {},
      'cost': {},
      'floor': self.floor._asdict(),
      'notes': card.notes(count, self.real, self.extractor, self.floor, metrics['fid']) + notes,
      'flags': collapse.flags(collapse.signs(metrics)),
      **({'classification': self.cas} if self.cas else {}),
      **card.environment(),
    }

  def save(self, folder: Path, found: card.Card, samples: Samples) -> Path:
    """Prints and writes the card, and beside it the samples nearest to training images. Returns the card's path."""
    print(card.table(found))
    path = card.save_in(folder, found)
    save_grid(path.with_name(f'{path.stem}_nearest.png'), nearest_pairs(samples, self.training, self.train), 10)
    print(f'{path}\n{path.with_name(path.stem)}_nearest.png: samples above, the training images nearest to them below')
    return path


def class_notes(labels: Int[np.ndarray, 'n'] | None, classes: Float[np.ndarray, 'k']) -> list[str]:
  """A note if `labels` are not as frequent as the reference's `classes`, beyond what chance would do."""
  if labels is None or not classes.sum():
    return []
  expected, n = classes / classes.sum(), len(labels)
  counts = np.bincount(labels, minlength=len(classes))
  variation = np.abs(counts / n - expected).sum() / 2  # about 0.4 sqrt(k / n) for labels drawn at random
  if variation <= 0.05 + np.sqrt(len(classes) / n):
    return []
  missing = [str(i) for i in np.flatnonzero((counts == 0) & (expected * n >= 10))]
  shown = f'; none of class {", ".join(missing[:20])}{", ..." if len(missing) > 20 else ""}' if missing else ''
  return [f'the labels are distributed differently than in the reference (total variation {variation:.2f}{shown})']


def first_images(samples: Samples, num_classes: int) -> tuple[UInt8[np.ndarray, 'n h w c'], int]:
  """The images of a grid, and its columns: one class a column of up to 16 classes, else 64 images in rows of 8."""
  if samples.labels is None or not 2 <= num_classes <= 16:
    return samples.images[:64], 8
  of_class = [samples.images[samples.labels == i][:8] for i in range(num_classes)]
  blank = np.full_like(samples.images[0], 96)
  return np.stack([images[row] if row < len(images) else blank for row in range(8) for images in of_class]), num_classes
