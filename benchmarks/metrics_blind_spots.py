"""Measures the blind spots of the metrics: evaluates real images that are corrupted in known ways (docs/metrics.md).

python -m benchmarks.metrics_blind_spots --data fashion_mnist [--images 5000]

One part of the training images is the reference, and another part is corrupted. Uncorrupted, these images are perfect samples.
Prints two Markdown tables.
"""

import argparse

import jax
import numpy as np
from jaxtyping import Float, UInt8
from scipy.ndimage import gaussian_filter

from genjax.data.pipeline import epoch_order
from genjax.data.sources.base import Arrays, Source
from genjax.metrics import classifier
from genjax.metrics.extractors import Extractor, cache_folder, open_classifier
from genjax.metrics.fid import frechet_distance
from genjax.metrics.inception_score import RunningScore
from genjax.metrics.manifold import copies, manifold
from genjax.metrics.moments import moments
from genjax.metrics.reference import Reference, real_images, reference
from genjax.metrics.tables import markdown
from genjax.parallel import make_mesh

Pixels = UInt8[np.ndarray, 'n h w c']

SHOWN = ('fid', 'inception_score', 'precision', 'recall', 'density', 'coverage', 'copies_median_ratio', 'copies_closer')
TRAINED_ON = (100, 1000, 10_000)  # images of the weaker classifiers


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--data', required=True, help='a data set with labels, as data.name in a config')
  parser.add_argument('--resolution', type=int, default=28, help='side in pixels (28)')
  parser.add_argument(
    '--images', type=int, default=5000, help='number of images in the reference, and in each set of samples (5000)'
  )
  args = parser.parse_args()
  train, test = real_images(name=args.data, resolution=args.resolution)
  n, mesh = args.images, make_mesh(jax.devices()[:1])
  extractor = open_classifier(train, test, classifier.recipe_for(train))
  view = lambda extractor, source, split: reference(source, split, extractor, mesh, cache_folder(), n)  # noqa: E731
  real, held_out = view(extractor, train, 'train'), view(extractor, test, 'test')
  images, cond = train.read(epoch_order(0, 0, len(train))[n : 2 * n])
  rows = [['samples', *SHOWN]]
  for name, corrupted in corrupt(images, cond['label'], extractor).items():
    metrics = evaluate(corrupted, extractor, real, held_out)
    rows.append([name, *(f'{metrics[key]:.3g}' if key in metrics else '' for key in SHOWN)])
  print(markdown(rows))

  rows = [['classifier trained on', 'test accuracy', 'precision of blobs', 'density', 'precision of real images']]
  for count in (*TRAINED_ON, len(train)):
    weak = extractor if count == len(train) else trained_on(count, train, test)
    real = view(weak, train, 'train')
    bad, good = (evaluate(x, weak, real, None) for x in (blobs(images.shape), images))
    values = weak.details['test_accuracy'], bad['precision'], bad['density'], good['precision']
    rows.append([f'{count:,} images', *(f'{value:.3g}' for value in values)])
  print(markdown(rows))


def corrupt(images: Pixels, labels, extractor: Extractor) -> dict[str, Pixels]:
  """Corrupted sets of equally many images, by name of the corruption."""
  n, classes = len(images), np.unique(labels)
  repeat = lambda x: x[np.arange(n) % len(x)]  # noqa: E731
  inverted = np.where((np.arange(n) % 10 < 3)[:, None, None, None], 255 - images, images)
  probabilities = features(images, extractor)[1]
  most_probable = images[[np.where(labels == k, probabilities[:, i], 0).argmax() for i, k in enumerate(classes)]]
  return {
    'real images': images,
    '500 of them, repeated': repeat(images[:500]),
    'one a class, repeated': repeat(most_probable),
    '30 % inverted': inverted,
    'one class missing': repeat(images[labels != classes[0]]),
    'half of the classes missing': repeat(images[np.isin(labels, classes[len(classes) // 2 :])]),
  }


def blobs(shape: tuple[int, ...]) -> Pixels:
  """Smooth spots on black, which look like no image of the data."""
  field = gaussian_filter(np.random.default_rng(0).normal(size=shape), (0, shape[1] / 8, shape[2] / 8, 0))
  return np.round(255 * np.clip(field / field.std() / 2, 0, 1)).astype(np.uint8)


def trained_on(count: int, train: Source, test: Source) -> Extractor:
  """A classifier trained on `count` images only."""
  few = Arrays(f'{count} images', *train.read(epoch_order(1, 0, len(train))[:count]), train.example.classes)
  return open_classifier(few, test, classifier.recipe_for(few))


def features(images: Pixels, extractor: Extractor) -> tuple[Float[np.ndarray, 'n d'], Float[np.ndarray, 'n k']]:
  """Features and class probabilities."""
  function = jax.jit(extractor.function)
  parts = [jax.device_get(function(extractor.params, images[i : i + 500])) for i in range(0, len(images), 500)]
  return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def evaluate(images: Pixels, extractor: Extractor, real: Reference, held_out: Reference | None) -> dict[str, float]:
  """The metrics SHOWN, as evaluate.py computes them."""
  x, probabilities = features(images, extractor)
  score, n = RunningScore(len(images)), min(len(x), len(real.features))
  score.add(probabilities)
  metrics = {'fid': frechet_distance(real.moments, moments(x)), 'inception_score': score.result()[0]}
  metrics |= manifold(real.features[:n], x[:n])._asdict()
  if held_out and (repeated := copies(real.features, held_out.features, x)):
    metrics |= {f'copies_{name}': value for name, value in repeated._asdict().items()}
  return metrics


if __name__ == '__main__':
  main()
