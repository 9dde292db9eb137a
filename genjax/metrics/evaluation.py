"""A model judged: samples, features and running statistics on the devices, then every metric.

Three compiled programs (sampling, features, moments in float64), each over the whole mesh; images go from one to the next
without leaving the devices, and memory does not grow with the number of samples but for what COMPARED needs.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int32, UInt8
from tqdm import tqdm

from genjax import rng
from genjax.data.pipeline import epoch_order
from genjax.data.sources.base import Arrays, Source
from genjax.errors import UsageError
from genjax.images import check_finite, not_finite, to_float, to_uint8
from genjax.metrics import classifier
from genjax.metrics.collapse import compare_with_real
from genjax.metrics.extractors import Extractor
from genjax.metrics.fid import frechet_distance, infinity
from genjax.metrics.inception_score import RunningScore
from genjax.metrics.kid import kid
from genjax.metrics.manifold import copies, manifold, nearest
from genjax.metrics.moments import RunningMoments
from genjax.metrics.reference import Reference
from genjax.objectives.common import labels_or_random
from genjax.parallel import batch_sharding, replicated
from genjax.types import Batch, Keys, Labels, Objective, Variables

COMPARED = 10_000  # samples and real images of which all pairs are compared
POINTS = 10  # numbers of samples from which FID_infinity is extrapolated


class Samples(NamedTuple):
  """The first COMPARED samples, and what all of them came to."""

  features: Float[np.ndarray, 'n d']
  images: UInt8[np.ndarray, 'n h w c']
  labels: Int32[np.ndarray, 'n'] | None
  metrics: dict[str, float]
  cost: dict[str, float]  # seconds of sampling and of features, compilation not counted; images per second of sampling


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
) -> Samples:
  """Draws `samples` images and what streams: FID, FID_infinity, inception score. Image i depends on (seed, i) alone.

  Labels, if the model has any, are drawn from each image's key, as often as they are in the reference: a class that is rare
  there should be rare here.

  Raises:
    UsageError: samples or features that are not finite.
  """
  batch_size = -(-min(batch_size, samples) // mesh.size) * mesh.size
  everywhere, split = replicated(mesh), batch_sharding(mesh)
  sample = _sampler(objective, mesh, tuple(sorted((options or {}).items())))
  classes = reference.classes if len(reference.classes) == objective.num_classes else np.zeros(0)
  variables, key = jax.device_put((variables, rng.key(seed)), everywhere)
  place = lambda start: jax.device_put(np.arange(start, start + batch_size, dtype=np.int32), split)  # noqa: E731
  sample = sample.ready(variables, key, place(0), classes)

  def batches():
    for start in range(0, samples, batch_size):
      images, labels, wrong = jax.block_until_ready(sample(variables, key, place(start), classes))
      check_finite(int(wrong), batch_size)
      yield images, labels

  found, (sampling, evaluating) = _evaluate(batches(), samples, batch_size, extractor, reference, mesh)
  cost = {'sampling_seconds': sampling, 'features_seconds': evaluating, 'images_per_second': samples / sampling}
  return found._replace(cost={name: round(value, 3) for name, value in cost.items()})


def read_samples(
  source: Source, extractor: Extractor, reference: Reference, mesh: Mesh, samples: int, batch_size: int = 256
) -> Samples:
  """Evaluates `samples` images of `source`, as `draw` does with samples of a model.

  Their order is random, since files are often sorted by class, and depends only on the size of `source`. It differs from
  that of `reference`, which may hold the same images.
  """
  rows = epoch_order(0, 1, len(source))[:samples]
  batch_size = -(-min(batch_size, samples) // mesh.size) * mesh.size

  def batches():
    for start in range(0, samples, batch_size):
      images, labels = source.read(rows[np.minimum(np.arange(start, start + batch_size), samples - 1)])
      yield jax.device_put(images, batch_sharding(mesh)), labels if source.num_classes else None

  found, (_, evaluating) = _evaluate(batches(), samples, batch_size, extractor, reference, mesh)
  return found._replace(cost={'features_seconds': round(evaluating, 3)})


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
  timed, seconds = 0, np.zeros(2)  # images computed, those of a padded batch among them, and the time that they took
  for start in tqdm(range(0, samples, batch_size), 'samples', delay=10, leave=False, disable=None):
    begun = time.perf_counter()
    images, labels = next(batches)
    seconds[0] += time.perf_counter() - begun
    timed += batch_size
    if not start:
      features = features.ready(params, images)
    begun = time.perf_counter()
    found, probabilities = features(params, images)
    n = min(batch_size, samples - start)
    running, begin = running or RunningMoments(found.shape[1]), start
    for end in sorted({p for p in points if start < p <= start + n} | {start + n}):
      index = start + np.arange(batch_size)
      running.add(found, (begin <= index) & (index < end))
      if end in points:
        counts.append(end)
        distances.append(frechet_distance(reference.moments, extractor.finite(running.result())))
      begin = end
    if probabilities is not None:
      score = score or RunningScore(samples)
      score.add(np.asarray(probabilities)[:n])
    if start < COMPARED:
      kept.append([None if x is None else np.asarray(x)[:n] for x in (found, images, labels)])
    jax.block_until_ready(running.state)
    seconds[1] += time.perf_counter() - begun
  metrics = {'fid': distances[-1], 'fid_infinity': infinity(counts, distances)}
  if score:
    metrics['inception_score'], metrics['inception_score_std'] = score.result()
  first = [None if parts[0] is None else np.concatenate(parts)[:COMPARED] for parts in zip(*kept, strict=True)]
  return Samples(*first, metrics, {}), seconds * samples / timed


@functools.lru_cache(maxsize=4)
def _sampler(objective: Objective, mesh: Mesh, options: tuple) -> 'Program':
  """(variables, key, index, classes) -> uint8 images, labels, how many images are not finite."""
  everywhere, split = replicated(mesh), batch_sharding(mesh)

  def sample(variables, key, index, classes):
    keys = rng.image_keys(key, index)
    labels = drawn_labels(keys, classes, objective.num_classes)
    images = objective.sample(variables, keys, labels, **dict(options))
    return to_uint8(images), labels, not_finite(images)

  inputs, outputs = (everywhere, everywhere, split, everywhere), (split, split, everywhere)
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
    """Compiled, once, for arguments of these shapes."""
    shapes = tuple((x.shape, str(x.dtype)) for x in jax.tree.leaves(args))
    if shapes not in self.compiled:
      self.compiled[shapes] = self.function.lower(*args).compile()
    return self.compiled[shapes]


def drawn_labels(keys: Keys, classes: Float[Array, 'k'], num_classes: int) -> Labels | None:
  """Labels [B] drawn from the images' keys as often as `classes` says; uniformly if it is empty."""
  if not num_classes or not len(classes):
    return labels_or_random(None, keys, num_classes)
  label = lambda key: jax.random.categorical(key, jnp.log(classes))  # noqa: E731
  rare = jax.vmap(label)(rng.fold_in(keys, 1)).astype(jnp.int32)
  return jnp.where((classes == classes[0]).all(), labels_or_random(None, keys, num_classes), rare)


def compare_sets(samples: Samples, reference: Reference, seed: int = 0) -> dict[str, float]:
  """KID, precision, recall, density and coverage, of equal numbers of samples and real images; and metrics of collapse.

  The latter are those of `compare_with_real`, as `collapse_<name>`.
  """
  n = min(len(samples.features), len(reference.features), COMPARED)
  fake, real = samples.features[:n], reference.features[:n]
  found = kid(real, fake, seed=seed)
  metrics = {'kid': found.value, 'kid_std': found.std, 'kid_low': found.low, 'kid_high': found.high}
  metrics |= {name: value for name, value in manifold(real, fake)._asdict().items() if value is not None}
  collapse = compare_with_real(samples.features, samples.labels, reference.features, reference.labels)
  return metrics | {f'collapse_{name}': value for name, value in collapse.items()}


def memorised(samples: Samples, training: Reference, held_out: Reference) -> dict[str, float]:
  """Whether samples are copies of training images (genjax/metrics/manifold.py); nothing where held-out images are, too."""
  found = copies(training.features, held_out.features[:COMPARED], samples.features)
  if found is None:
    return {}
  return {f'copies_{name}': value for name, value in found._asdict().items()} | {'copies_among': len(training.features)}


def nearest_pairs(samples: Samples, training: Reference, source: Source, n: int = 10) -> UInt8[np.ndarray, '2n h w c']:
  """The `n` samples that lie nearest to a training image, then those training images in the same order: a grid of two rows.

  `source` is what `training` was made of.
  """
  distance, place = nearest(samples.features, training.features)
  first = np.argsort(distance[:, 0], kind='stable')[:n]
  images, _ = source.read(training.rows[place[first, 0]])
  return np.concatenate([samples.images[first], images])


def classification_accuracy(samples: Samples, train: Source, test: Source) -> dict[str, float]:
  """Classification accuracy score (1905.10887): of a classifier that saw these samples alone, on real test images.

  By the recipe that is used for `train`, the real images: their classifier's test accuracy is what to compare with.
  """
  source = Arrays('samples', samples.images, samples.labels, test.num_classes)
  recipe = classifier.recipe_for(train)
  params = classifier.train(source, test.num_classes, recipe)
  accuracy = classifier.accuracy(params, test, test.num_classes, recipe)
  return {'classification_accuracy': accuracy, 'classification_among': len(source)}


def likelihood(
  objective: Objective,
  variables: Variables,
  source: Source,
  mesh: Mesh,
  images: int = 0,
  estimator: str = '',  # '': the objective's first
  batch_size: int = 256,
) -> dict[str, float]:
  """Mean negative log-likelihood of the first `images` (0: all) of `source` in an order that depends on its size alone.

  With its 95 % interval over images, which are different draws; how another training would have ended it does not say.

  Raises:
    UsageError: a likelihood that is not finite.
  """
  rows = epoch_order(0, 0, len(source))[: images or None]
  batch_size = -(-min(batch_size, len(rows)) // mesh.size) * mesh.size
  everywhere, split = replicated(mesh), batch_sharding(mesh)

  def nll(variables, images, labels, index):
    batch = Batch(to_float(images), labels, index)
    return objective.nll(variables, batch, rng.image_keys(rng.key(0), index), estimator or next(iter(objective.estimators)))

  nll = jax.jit(nll, in_shardings=(everywhere, split, split, split))
  variables, found = jax.device_put(variables, everywhere), []
  for start in tqdm(range(0, len(rows), batch_size), 'likelihood', delay=10, leave=False, disable=None):
    index = np.arange(start, start + batch_size, dtype=np.int32)
    images, labels = source.read(rows[np.minimum(index, len(rows) - 1)])
    found.append(np.asarray(nll(variables, images, labels, index), np.float64)[: len(rows) - start])
  each = np.concatenate(found)
  nats, half = float(each.mean()), float(1.96 * each.std() / math.sqrt(len(each)))
  if not math.isfinite(nats):
    raise UsageError('the likelihood of some test images is not finite: judge without it, --likelihood 0.')
  bits = nats / math.prod(source.image_shape) / math.log(2)
  return {'nll_nats': nats, 'nll_low': nats - half, 'nll_high': nats + half, 'bits_per_dim': bits}


def evaluations(objective: Objective, variables: Variables, options: dict[str, Any] | None = None) -> float | None:
  """Network evaluations per image of one sampling (NFE), counted in the traced program.

  Every call of a network from outside a network counts that answers with an image, times the length of the loops around it.
  Where a loop's end is open, as in adaptive solvers, the mean of what 16 images took; None if the objective cannot tell.
  """

  inside = False

  def mark(call, args, kwargs, context):
    nonlocal inside
    if inside or context.method_name == 'setup':
      return call(*args, **kwargs)
    inside = True
    try:
      return checkpoint_name(call(*args, **kwargs), 'network evaluation')
    finally:
      inside = False

  def sample(variables):
    with nn.intercept_methods(mark):
      keys = rng.image_keys(rng.key(0), np.arange(1))
      return objective.sample(variables, keys, labels_or_random(None, keys, objective.num_classes), **(options or {}))

  try:
    return count_marks(jax.make_jaxpr(sample)(variables).jaxpr)
  except OpenLoop:
    if not hasattr(objective, 'solve'):
      return None
    keys, options = rng.image_keys(rng.key(0), np.arange(16)), options or {}
    counted = jax.jit(lambda variables: objective.solve(variables, keys, **options).evaluations)(variables)
    return round(float(counted.mean()), 1)


class OpenLoop(Exception):
  """A network is called in a loop whose length is not known."""


def count_marks(jaxpr) -> int:
  """Rows of marked outputs in a traced program for one image, loops unrolled."""
  total = 0
  for equation in jaxpr.eqns:
    marked = equation.primitive.name == 'name' and equation.params['name'] == 'network evaluation'
    if marked and equation.outvars[0].aval.ndim == 4:
      total += equation.outvars[0].aval.shape[0]
    is_program = lambda x: isinstance(x, (Jaxpr, ClosedJaxpr))  # noqa: E731
    programs = filter(is_program, jax.tree.leaves(equation.params, is_leaf=is_program))
    inner = [count_marks(getattr(program, 'jaxpr', program)) for program in programs]
    if equation.primitive.name == 'while' and any(inner):
      raise OpenLoop
    total += equation.params.get('length', 1) * sum(inner) if equation.primitive.name != 'cond' else max(inner, default=0)
  return total
