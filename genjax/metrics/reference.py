"""Features of real images, computed once per data set, split and extractor, and cached by the hash of all three."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int32, Int64
from tqdm import tqdm

from genjax.build import parameters, resolve
from genjax.data.pipeline import epoch_order
from genjax.data.sources.base import Source, data_hash
from genjax.data.sources.open import open_section, sibling
from genjax.errors import UsageError
from genjax.files import optional, write_whole
from genjax.metrics.extractors import Extractor
from genjax.metrics.fid import FloorCoefficients
from genjax.metrics.fid import floor_coefficients as estimate
from genjax.metrics.moments import Moments, RunningMoments
from genjax.parallel import batch_sharding, replicated
from genjax.weights import load_tree, save_tree

MIN_IMAGES = 100  # minimum number of images of a reference
MAX_FEATURE_VALUES = 2**27  # maximum number of feature values stored (65,536 vectors of 2,048); the moments use all images


class Reference(NamedTuple):
  """Statistics and features of real images. `features` belong to the images `rows`, which are in a fixed random order."""

  moments: Moments
  features: Float[np.ndarray, 'n d']
  rows: Int64[np.ndarray, 'n']
  classes: Float[np.ndarray, 'k']  # how often each label occurs; empty without labels
  protocol: dict[str, Any]  # data, split, hash, number of images
  labels: Int32[np.ndarray, 'n'] | None = None  # of the images `rows`; None without labels
  path: Path | None = None  # its file in the cache


def reference(
  source: Source, split: str, extractor: Extractor, mesh: Mesh, cache: Path, images: int = 0, batch_size: int = 256
) -> Reference:
  """Computes the reference from the first `images` (0: all) of `source`, in an order that depends only on its size.

  Raises:
    UsageError: there are fewer than MIN_IMAGES images, the features are constant, or the file in the cache is invalid.
  """
  hashed, size = data_hash(source), len(source)
  if size < MIN_IMAGES:
    raise UsageError(f'{source.name} {split} has {size} images, too few for an evaluation: use at least {MIN_IMAGES}.')
  count = min(images or size, size)
  protocol = {'data': source.name, 'split': split, 'shape': list(source.image_shape), 'hash': hashed, 'images': count}
  rows = epoch_order(0, 0, size)[:count]
  key = hashlib.sha256(f'{hashed} {extractor.name} {extractor.hash} {extractor.resizer} {count} 4'.encode()).hexdigest()[:16]
  path = cache / 'references' / f'{key}.npz'
  saved = load_tree(path, ('key', 'n', 'mean', 'cov', 'features', 'labels', 'classes'))
  if saved is None:
    print(f'Computing features ({extractor.name}) of {count} images of {source.name} {split}, once ({path}).', flush=True)
    running, features, labels, classes = None, [], [], np.zeros(source.num_classes)
    for block, block_labels in compute_features(source, rows, extractor, mesh, batch_size):
      running = running or RunningMoments(block.shape[1])
      running.add(block)
      classes += np.bincount(block_labels, minlength=source.num_classes)[: source.num_classes]
      if sum(map(np.size, features)) < MAX_FEATURE_VALUES:
        features.append(np.asarray(block))
        labels.append(block_labels)
    n, mean, cov = extractor.finite(running.result())
    features, labels = (np.concatenate(parts)[: MAX_FEATURE_VALUES // len(mean)] for parts in (features, labels))
    saved = {'key': np.str_(key), 'n': np.int64(n), 'mean': mean, 'cov': cov}
    saved |= {'features': features, 'labels': labels, 'classes': classes}
    with optional('The features will be computed again at the next start.'):
      save_tree(path, saved)
  moments, d = Moments(int(saved['n']), saved['mean'], saved['cov']), len(saved['mean'])
  kept = min(count, MAX_FEATURE_VALUES // d)
  shapes = [saved[name].shape for name in ('mean', 'cov', 'features', 'labels', 'classes')]
  if (str(saved['key']), moments.n, shapes) != (key, count, [(d,), (d, d), (kept, d), (kept,), (source.num_classes,)]):
    raise UsageError(f'{path} belongs to other images or features: delete it; it will be computed again.')
  if not all(np.isfinite(saved[name]).all() for name in ('mean', 'cov', 'features')):
    raise UsageError(f'{path} contains values that are not finite: delete it; it will be computed again.')
  if np.trace(moments.cov) <= 1e-12 * np.square(moments.mean).sum():
    raise UsageError(f'features {extractor.name} are the same for all images of {source.name} {split}: use other features.')
  labels = saved['labels'] if source.num_classes else None
  return Reference(moments, saved['features'], rows[:kept], saved['classes'], protocol, labels, path)


def floor_coefficients(reference: Reference, labeled: bool) -> FloorCoefficients:
  """The floor coefficients (genjax/metrics/fid.py) of a reference, cached next to its features.

  In many dimensions they take a minute to compute. `labeled`: the labels of samples are drawn with the frequencies of the
  reference.
  """
  labels = reference.labels if labeled else None
  if reference.path is None:
    return estimate(reference.features, labels)
  path = reference.path.with_name(f'{reference.path.stem}_floor_{"unlabeled" if labels is None else "labeled"}_1.json')
  try:
    saved = json.loads(path.read_text())
    coefficients = FloorCoefficients(*(tuple(map(float, saved[name])) for name in FloorCoefficients._fields))
    if all(len(part) == 2 and all(math.isfinite(value) and value >= 0 for value in part) for part in coefficients):
      return coefficients
    print(f'{path} is invalid: estimating the floor of FID again.')
  except (FileNotFoundError, NotADirectoryError):
    pass
  except (OSError, ValueError, KeyError, TypeError) as error:
    print(f'{path} cannot be read ({error}): estimating the floor of FID again.')
  coefficients = estimate(reference.features, labels)
  with optional('The floor of FID will be estimated again at the next start.'):
    write_whole(path, json.dumps(coefficients._asdict()), 'set GENJAX_CACHE to another folder')
  return coefficients


def compute_features(source: Source, rows, extractor: Extractor, mesh: Mesh, batch_size: int):
  """Yields features [b, D] and labels [b] of the images at `rows`, batch by batch, each computed over the whole mesh."""
  batch_size = -(-min(batch_size, len(rows)) // mesh.size) * mesh.size
  everywhere, split = replicated(mesh), batch_sharding(mesh)
  compute = jax.jit(lambda params, images: extractor.function(params, images)[0], in_shardings=(everywhere, split))
  params = jax.device_put(extractor.params, everywhere)
  for start in tqdm(range(0, len(rows), batch_size), 'features', delay=10, leave=False, disable=None):
    images, cond = source.read(rows[start : start + batch_size])
    padded = np.pad(images, ((0, batch_size - len(images)), (0, 0), (0, 0), (0, 0)))
    yield compute(params, padded)[: len(images)], cond.get('label', np.zeros(len(images), np.int32))


def real_images(split: str = 'train', **data) -> tuple[Source, Source | None]:
  """The training images of a run, and the images of the split `test` if it is another one; `data` as for `open_section`."""
  train = open_section(split=split, **data)
  return train, None if split.startswith('test') else held_out_images(train, **data)


def held_out_images(train: Source, name: str, source: Mapping[str, Any] | None = None, **data) -> Source | None:
  """The images of the split `test` that belongs to the training images; None if there is no such split.

  Raises:
    UsageError: the test folder next to the training folder cannot be read, or the test images have another shape or classes
      that the training images do not have.
  """
  if source and 'split' not in parameters(resolve(source['cls'], data.get('allow', ()))):
    return None
  beside = sibling(Path(name).expanduser(), 'test') if name and not source else None
  try:
    test = open_section(name=name, source=source, **data | {'split': 'test'})
  except UsageError:
    if beside:
      raise
    return None
  classes = (test.num_classes, train.num_classes)
  if test.image_shape != train.image_shape or classes[0] > classes[1] or bool(classes[0]) != bool(classes[1]):
    raise UsageError(
      f'{test.name} has images {list(test.image_shape)} of {test.num_classes} classes, but the training images have '
      f'{list(train.image_shape)} and {train.num_classes} classes: make both the same, or rename the test data.'
    )
  return test
