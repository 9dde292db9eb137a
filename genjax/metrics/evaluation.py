"""Evaluates a model: samples, features and running statistics on the devices, then all metrics.

There are three compiled programs (sampling, features, moments in float64), each over the whole mesh. Images do not leave the
devices between them. Memory does not grow with the number of samples beyond COMPARED.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int32, UInt8
from tqdm import tqdm

from genjax import rng
from genjax.conditioners import STREAM, ClassLabel, can_draw, class_label, complete, only
from genjax.data.pipeline import epoch_order
from genjax.data.sources.base import Source, labeled
from genjax.errors import UsageError
from genjax.images import check_finite, count_not_finite, to_uint8
from genjax.metrics import card, classifier
from genjax.metrics.collapse import compare_with_real
from genjax.metrics.extractors import Extractor
from genjax.metrics.fid import frechet_distance, infinity
from genjax.metrics.inception_score import RunningScore
from genjax.metrics.kid import kid
from genjax.metrics.manifold import copies, manifold, nearest
from genjax.metrics.moments import RunningMoments
from genjax.metrics.reference import Reference
from genjax.parallel import batch_sharding, replicated
from genjax.run import sampling_options, split_options
from genjax.types import Keys, Labels, Objective, Variables

COMPARED = 10_000  # maximum number of samples and of real images for metrics that compare all pairs
POINTS = 10  # numbers of samples from which FID_infinity is extrapolated


class Samples(NamedTuple):
  """The first COMPARED samples, and metrics of all samples."""

  features: Float[np.ndarray, 'n d']
  images: UInt8[np.ndarray, 'n h w c']
  labels: Int32[np.ndarray, 'n'] | None
  metrics: dict[str, float]
  cost: dict[str, float]  # seconds for sampling and for features without compilation; images sampled per second


def draw(
  objective: Objective,
  variables: Variables,
  extractor: Extractor,
  reference: Reference,
  mesh: Mesh,
  samples: int,
  seed: int = 0,
  options: dict[str, Any] | None = None,
  batch_size: int = 256,
  source: Source | None = None,
) -> Samples:
  """Draws `samples` images and computes the streaming metrics: FID, FID_infinity, inception score.

  Image i depends only on (seed, i). If the model is conditioned on labels, these are drawn from each image's key with the
  frequencies of the reference, so that a rare class is rare among the samples. Conditions that cannot be drawn are taken from
  examples of `source`, in the order of `condition_rows`.

  Raises:
    UsageError: samples or features are not finite.
  """
  batch_size = -(-min(batch_size, samples) // mesh.size) * mesh.size
  everywhere, split = replicated(mesh), batch_sharding(mesh)
  chosen = split_options(options or {}, sampling_options(objective))
  sample = _sampler(objective, mesh, chosen.static)
  has_frequencies = card.origin_of_labels(objective.conditioner, len(reference.classes)) == card.AS_REFERENCE
  classes = reference.classes if has_frequencies else np.zeros(0)
  variables, key = jax.device_put((variables, rng.key(seed)), everywhere)
  place = lambda start: jax.device_put(np.arange(start, start + batch_size, dtype=np.int32), split)  # noqa: E731
  known = lambda start: jax.device_put(conditions(objective, source, np.arange(start, start + batch_size)), split)  # noqa: E731
  sample = sample.ready(variables, key, place(0), classes, known(0), chosen.traced)

  def batches():
    for start in range(0, samples, batch_size):
      images, labels, wrong = jax.block_until_ready(sample(variables, key, place(start), classes, known(start), chosen.traced))
      check_finite(int(wrong), batch_size)
      yield images, labels

  result, (sampling, evaluating) = _evaluate(batches(), samples, batch_size, extractor, reference, mesh)
  cost = {'sampling_seconds': sampling, 'features_seconds': evaluating, 'images_per_second': samples / sampling}
  return result._replace(cost={name: round(value, 3) for name, value in cost.items()})


def condition_rows(index: np.ndarray, size: int) -> np.ndarray:
  """The examples whose conditions are used for the samples `index`: a random order of all that depends only on `size`."""
  return epoch_order(0, 0, size)[index % size]


def conditions(objective: Objective, source: Source | None, index: np.ndarray) -> dict[str, np.ndarray]:
  """The conditions of the samples `index` that cannot be drawn at random; {} if all can."""
  if can_draw(objective.conditioner):
    return {}
  if source is None:
    raise UsageError(f'the conditions {", ".join(objective.conditioner.fields)} cannot be drawn at random: use a data set.')
  return only(objective.conditioner, source.read(condition_rows(index, len(source)))[1])


def read_samples(
  source: Source, extractor: Extractor, reference: Reference, mesh: Mesh, samples: int, batch_size: int = 256
) -> Samples:
  """Evaluates `samples` images of `source`, as `draw` does with samples of a model.

  Their order is random, since files are often sorted by class, and depends only on the size of `source`. It differs from
  that of `reference`, which may contain the same images.
  """
  rows = epoch_order(0, 1, len(source))[:samples]
  batch_size = -(-min(batch_size, samples) // mesh.size) * mesh.size

  def batches():
    for start in range(0, samples, batch_size):
      images, cond = source.read(rows[np.minimum(np.arange(start, start + batch_size), samples - 1)])
      yield jax.device_put(images, batch_sharding(mesh)), cond.get('label')

  result, (_, evaluating) = _evaluate(batches(), samples, batch_size, extractor, reference, mesh)
  return result._replace(cost={'features_seconds': round(evaluating, 3)})


def _evaluate(
  batches: Iterator[tuple[UInt8[Array, 'b h w c'], Labels | None]],
  samples: int,
  batch_size: int,
  extractor: Extractor,
  reference: Reference,
  mesh: Mesh,
) -> tuple[Samples, Float[np.ndarray, '2']]:
  """Metrics of the first `samples` images of `batches`, and the seconds of drawing and of evaluating them."""
  features, params = _features(extractor, mesh), jax.device_put(extractor.params, replicated(mesh))
  points = {math.ceil(samples * (0.2 + 0.8 * i / (POINTS - 1))) for i in range(POINTS)}
  running = score = None
  counts, distances, kept = [], [], []
  timed, seconds = 0, np.zeros(2)  # images computed, including padding, and the time for them
  for start in tqdm(range(0, samples, batch_size), 'samples', delay=10, leave=False, disable=None):
    begun = time.perf_counter()
    images, labels = next(batches)
    seconds[0] += time.perf_counter() - begun
    timed += batch_size
    if not start:
      features = features.ready(params, images)
    begun = time.perf_counter()
    batch_features, probabilities = features(params, images)
    n = min(batch_size, samples - start)
    running, begin = running or RunningMoments(batch_features.shape[1]), start
    for end in sorted({p for p in points if start < p <= start + n} | {start + n}):
      index = start + np.arange(batch_size)
      running.add(batch_features, (begin <= index) & (index < end))
      if end in points:
        counts.append(end)
        distances.append(frechet_distance(reference.moments, extractor.finite(running.result())))
      begin = end
    if probabilities is not None:
      score = score or RunningScore(samples)
      score.add(np.asarray(probabilities)[:n])
    if start < COMPARED:
      kept.append([None if x is None else np.asarray(x)[:n] for x in (batch_features, images, labels)])
    jax.block_until_ready(running.state)
    seconds[1] += time.perf_counter() - begun
  metrics = {'fid': distances[-1], 'fid_infinity': infinity(counts, distances)}
  if score:
    metrics['inception_score'], metrics['inception_score_std'] = score.result()
  first = [None if parts[0] is None else np.concatenate(parts)[:COMPARED] for parts in zip(*kept, strict=True)]
  return Samples(*first, metrics, {}), seconds * samples / timed


@functools.lru_cache(maxsize=4)
def _sampler(objective: Objective, mesh: Mesh, options: tuple) -> 'Program':
  """(variables, key, index, classes, known conditions, traced options) -> uint8 images, labels, number of non-finite images."""
  everywhere, split = replicated(mesh), batch_sharding(mesh)

  def sample(variables, key, index, classes, known, traced):
    keys = rng.image_keys(key, index)
    label = class_label(objective.conditioner)
    labels = {'label': draw_labels(keys, classes, label)} if label and 'label' not in known else {}
    cond = complete(objective.conditioner, {**labels, **known}, keys)
    images = objective.sample(variables, keys, cond, **dict(options), **traced)
    return to_uint8(images), cond.get('label'), count_not_finite(images)

  inputs, outputs = (everywhere, everywhere, split, everywhere, split, everywhere), (split, split, everywhere)
  return Program(jax.jit(sample, in_shardings=inputs, out_shardings=outputs))


@functools.lru_cache(maxsize=4)
def _features(extractor: Extractor, mesh: Mesh) -> 'Program':
  """(params, images) -> features and probabilities."""
  everywhere, split = replicated(mesh), batch_sharding(mesh)
  return Program(jax.jit(extractor.function, in_shardings=(everywhere, split), out_shardings=split))


class Program:
  """A jitted function that is compiled before it is timed."""

  def __init__(self, function: Callable):
    self.function, self.compiled = function, {}

  def ready(self, *args) -> Callable:
    """The function compiled for arguments of these shapes, which happens once."""
    shapes = tuple((np.shape(x), str(getattr(x, 'dtype', type(x)))) for x in jax.tree.leaves(args))
    if shapes not in self.compiled:
      self.compiled[shapes] = self.function.lower(*args).compile()
    return self.compiled[shapes]


def draw_labels(keys: Keys, classes: Float[Array, 'k'], label: ClassLabel) -> Labels:
  """Draws labels [B] from the images' keys with the frequencies `classes`; uniformly if it is empty."""
  uniform = complete(label, {}, keys)['label']
  if not len(classes):
    return uniform
  draw = lambda key: jax.random.categorical(key, jnp.log(classes))  # noqa: E731
  rare = jax.vmap(draw)(rng.fold_in(keys, STREAM)).astype(jnp.int32)
  return jnp.where((classes == classes[0]).all(), uniform, rare)


def compare_sets(samples: Samples, reference: Reference, seed: int = 0) -> dict[str, float]:
  """KID, precision, recall, density and coverage of equally many samples and real images, and metrics of mode collapse.

  The latter come from `compare_with_real` and are named `collapse_<name>`.
  """
  n = min(len(samples.features), len(reference.features), COMPARED)
  fake, real = samples.features[:n], reference.features[:n]
  distance = kid(real, fake, seed=seed)
  metrics = {'kid': distance.value, 'kid_std': distance.std, 'kid_low': distance.low, 'kid_high': distance.high}
  metrics |= {name: value for name, value in manifold(real, fake)._asdict().items() if value is not None}
  collapse = compare_with_real(samples.features, samples.labels, reference.features, reference.labels)
  return metrics | {f'collapse_{name}': value for name, value in collapse.items()}


def copies_of_training_images(samples: Samples, training: Reference, held_out: Reference | None) -> dict[str, float]:
  """Measures whether samples are copies of training images (genjax/metrics/manifold.py).

  Returns {} if held-out images repeat training images. Without `held_out`, a tenth of the training images is held out instead,
  and samples are compared with the others.
  """
  known = training.features
  if held_out is None:
    known, unseen = np.split(known, [len(known) - len(known) // 10])
  else:
    unseen = held_out.features
  result = copies(known, unseen[:COMPARED], samples.features)
  if result is None:
    return {}
  return {f'copies_{name}': value for name, value in result._asdict().items()} | {'copies_among': len(known)}


def nearest_pairs(samples: Samples, training: Reference, source: Source, n: int = 10) -> UInt8[np.ndarray, '2n h w c']:
  """The `n` samples nearest to a training image, then those training images in the same order: a grid of two rows.

  `training` is the reference of `source`.
  """
  distance, place = nearest(samples.features, training.features)
  first = np.argsort(distance[:, 0], kind='stable')[:n]
  images, _ = source.read(training.rows[place[first, 0]])
  return np.concatenate([samples.images[first], images])


def classification_accuracy(samples: Samples, train: Source, test: Source) -> dict[str, float]:
  """Classification accuracy score (1905.10887): the accuracy on real test images of a classifier trained only on samples.

  The recipe is that for `train`, the real training images; compare the score with the accuracy of a classifier trained on them.
  """
  source = labeled('samples', samples.images, samples.labels, test.num_classes)
  recipe = classifier.recipe_for(train)
  params = classifier.train(source, test.num_classes, recipe)
  accuracy = classifier.accuracy(params, test, test.num_classes, recipe)
  return {'classification_accuracy': accuracy, 'classification_among': len(source)}
