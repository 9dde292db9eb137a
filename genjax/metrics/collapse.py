"""Metrics of mode collapse, and flags derived from them. The absence of a flag does not prove that samples are diverse.

`panel` and `point_sets` use pixels and the networks of a GAN during training; they need no features and take a few seconds.
`compare_with_real` and `copies_of_training_images` (genjax/metrics/evaluation.py) use features of samples of any model during
evaluation.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from genjax import rng
from genjax.conditioners import num_classes, only
from genjax.data.pipeline import epoch_order
from genjax.data.sources.base import Source
from genjax.images import to_float, to_uint8
from genjax.metrics.manifold import copies, manifold, nearest
from genjax.metrics.modes import gaussian_modes
from genjax.objectives.gan.gan import AdversarialGame, collections
from genjax.parallel import replicate, replicated
from genjax.types import Batch, Images, Labels, Variables

JACOBIANS = 8  # latents at which the spectrum is computed
TRAINING = 5000  # training images that are searched for the nearest neighbor of a sample
HALF = 2500  # real images, and equally many samples, whose nearest neighbors are compared
MIN_CLASS_IMAGES = 20  # minimum number of real images of a class; rarer classes are not evaluated
# Flags are raised below these thresholds, chosen on seed 0 of benchmarks/collapse_table.py and tested on other seeds
# (docs/models/gan.md).
RECALL, COVERAGE, SHARE, AGREEMENT = 0.03, 0.5, 0.2, 0.5
VARIETY, LOWEST_VARIETY = 0.35, 0.25  # blur also lowers it: a VAE without collapse has 0.53
GAN_VARIETY, GAN_LOWEST_VARIETY = 0.8, 0.5
COPIES_RATIO, COPIES_CLOSER = 0.3, 0.2  # chosen before any run was examined, and tested on the cards in docs/comparison


def panel(
  objective: AdversarialGame, variables: Variables, key: jax.Array, real: Batch, held_out: Batch | None = None, **options: Any
) -> tuple[dict[str, Float[Array, '']], Float[Array, 'n pixels z'], Images]:
  """Scalars, dG/dz at a few latents, and the samples; pure. `real` are training images, and `held_out` are held-out images.

  Samples have the labels of `real`. They use the `options` of `objective.sample`; dG/dz does not.

  pairwise: mean pixel distance of two samples (of a class), divided by that of two training images.
  nearest: median distance of a sample to its nearest neighbor (of its class), divided by that of training images.
  labels: mean distance of two samples of one latent and two classes, divided by that of two training images.
  d_train, d_held_out, d_generated: mean outputs of the discriminator in sampling mode.
  overfitting: (d_train - d_held_out) / (d_train - d_generated) (2006.06676, eq. 1): 0 no overfitting, 1 memorization.
  d_error: standard error of d_train - d_held_out.
  """
  keys = rng.image_keys(key, real.index)
  count, cond = num_classes(objective.conditioner), only(objective.conditioner, real.cond)
  samples = objective.sample(variables, keys, cond, **options)
  classes = cond['label'] if count else jnp.zeros_like(real.index)
  near, far = (distances(images, classes) for images in (samples, real.image))
  metrics = {'pairwise': near[0] / far[0], 'nearest': near[1] / far[1]}
  if count:
    others = objective.sample(variables, keys, {**cond, 'label': (classes + 1) % count}, **options)
    whole, _ = distances(real.image, jnp.zeros_like(real.index))
    metrics['labels'] = jnp.sqrt(jnp.square(samples - others).sum(axis=(1, 2, 3))).mean() / whole

  few = keys[:JACOBIANS]
  embed = objective.conditioner.embed

  def jacobian(latent):
    z, key, row = latent
    row = jax.tree.map(lambda x: x[None], row)
    return jax.jacfwd(lambda z: objective.from_latents(variables, z[None], row, key[None])[0].ravel())(z)

  latents = objective.latents(few), few, jax.tree.map(lambda x: x[:JACOBIANS], embed(cond))
  jacobians = jax.lax.map(jacobian, latents)  # sequentially: each takes the memory of one image per dimension of z

  def discriminate(images, batch):
    embedded = embed(only(objective.conditioner, batch.cond))
    out = objective.discriminator.apply(collections(variables, 'discriminator'), images, embedded, False)
    return out if out.ndim == 1 else out[:, 0]

  known = discriminate(real.image, real)
  metrics |= {'d_train': known.mean(), 'd_generated': discriminate(samples, real).mean()}
  if held_out is not None:
    unseen = discriminate(held_out.image, held_out)
    apart = metrics['d_train'] - metrics['d_generated']
    metrics |= {'d_held_out': unseen.mean(), 'd_error': jnp.sqrt(known.var() / known.size + unseen.var() / unseen.size)}
    metrics['overfitting'] = (metrics['d_train'] - metrics['d_held_out']) / jnp.where(jnp.abs(apart) > 1e-6, apart, jnp.inf)
  return metrics, jacobians, samples


def point_sets(training: np.ndarray, real: np.ndarray, held_out: np.ndarray | None, samples: np.ndarray) -> dict[str, float]:
  """Compares samples with real images as sets of points in pixel space (genjax/metrics/manifold.py).

  precision, coverage: of the samples with respect to equally many training images `real`.
  precision_held_out, coverage_held_out: the same for held-out images instead of samples, as a baseline.
  copies: median distance of a sample to the nearest image of `training`, divided by that of a held-out image.
  """
  flat = lambda images: None if images is None else np.asarray(images, np.float64).reshape(len(images), -1)  # noqa: E731
  training, real, held_out, samples = map(flat, (training, real, held_out, samples))
  n = min(len(real), len(samples), len(samples if held_out is None else held_out))
  if n <= 5:
    return {}
  metrics = {}
  for name, images in (('', samples), ('_held_out', held_out)):
    if images is not None:
      near = manifold(real[:n], images[:n])
      metrics |= {f'precision{name}': near.precision, f'coverage{name}': near.coverage}
  copied = None if held_out is None else copies(training, held_out, samples)
  return metrics | ({'copies': copied.median_ratio} if copied else {})


def spectrum(jacobians: np.ndarray) -> dict[str, float]:
  """Means over matrices [n, pixels, z].

  rank: effective rank, (sum s^2)^2 / sum s^4 of the singular values s.
  directions: number of singular values.
  largest, smallest: singular values.

  Computed on the host: a batched SVD on eight CPU devices at once deadlocks (jaxlib 0.10.2: each device holds the thread that
  another one needs).
  """
  s = np.linalg.svd(np.asarray(jacobians, np.float64), compute_uv=False)  # [n, min(pixels, z)]
  rank = np.square(s).sum(axis=1) ** 2 / np.maximum((s**4).sum(axis=1), 1e-300)
  means = {'rank': rank.mean(), 'largest': s[:, 0].mean(), 'smallest': s[:, -1].mean()}
  return {'directions': float(s.shape[1])} | {name: float(value) for name, value in means.items()}


def distances(images: Images, labels: Labels) -> tuple[Float[Array, ''], Float[Array, '']]:
  """The mean distance of two different images of a class, and the median distance to the nearest neighbor in the class."""
  flat = images.reshape(len(images), -1)
  # Row by row instead of by a matrix product, whose rounding errors exceed the distances of near duplicates.
  apart = jax.lax.map(lambda row: jnp.linalg.norm(flat - row[None], axis=1), flat)
  pairs = (labels[:, None] == labels[None]) & ~jnp.eye(len(flat), dtype=bool)
  nearest = jnp.where(pairs, apart, jnp.inf).min(axis=1)
  return jnp.where(pairs, apart, 0).sum() / pairs.sum(), jnp.nanmedian(jnp.where(jnp.isinf(nearest), jnp.nan, nearest))


class CollapseMonitor:
  """`monitor(variables, seed=0)`: panel, spectrum and point sets, with latents drawn from `seed` and the same images each time.

  Undefined values are omitted, such as distances within a class that has one image.

  Args:
    objective: the adversarial objective.
    train: the training images.
    test: held-out images, or None.
    mesh: the devices.
    images: number of samples and images to compare.
    options: options of `objective.sample`.
  """

  def __init__(
    self,
    objective: AdversarialGame,
    train: Source,
    test: Source | None,
    mesh: Mesh,
    images: int = 256,
    options: Mapping[str, Any] | None = None,
  ):
    rows = lambda source, count: epoch_order(0, 0, len(source))[: min(count, len(source))]  # noqa: E731

    def batch(source):
      chosen = rows(source, images)
      pixels, cond = source.read(chosen)
      return Batch(to_float(pixels), cond, np.arange(len(pixels), dtype=np.int32), chosen.astype(np.int32))

    self.mesh, self.is_gaussians = mesh, train.name == 'gaussians_25'
    self.training = train.read(rows(train, TRAINING))[0]
    self.beside, self.unseen = self.training[:images], test.read(rows(test, images))[0] if test else None
    self.real = replicate(batch(train), mesh)
    self.held_out = replicate(batch(test), mesh) if test else None
    self.panel = jax.jit(functools.partial(panel, objective, **options or {}), out_shardings=replicated(mesh))

  def __call__(self, variables: Variables, seed: int = 0) -> dict[str, float]:
    scalars, jacobians, samples = self.panel(variables, replicate(rng.key(seed), self.mesh), self.real, self.held_out)
    values, samples = {name: float(value) for name, value in scalars.items()}, np.asarray(to_uint8(samples))
    if self.is_gaussians:
      values |= gaussian_modes(samples)
    values |= spectrum(np.asarray(jacobians)) | point_sets(self.training, self.beside, self.unseen, samples)
    return {name: value for name, value in values.items() if math.isfinite(value)}


def compare_with_real(
  features: Float[np.ndarray, 'n d'],
  labels: Labels | None,
  real: Float[np.ndarray, 'm d'],
  real_labels: Labels | None,
) -> dict[str, float]:
  """Compares features of samples with those of real images, which are in random order. Labels are None if there are none.

  One half of the real images is the reference, and the other half is the baseline.
  relative_precision, relative_recall, relative_coverage: values of the samples divided by those of the baseline.
  With labels, where the class of a sample is its requested label, or else the label of the nearest real image:
  class_variety: root mean square distance of two samples of a class, divided by that of real images; mean over the classes.
  class_variety_lowest, class_variety_class: the lowest value over the classes, and its class.
  label_agreement: fraction of samples whose nearest real image has the requested label, from 0 (chance) to 1 (as for the
    baseline).
  class_share_lowest, class_share_class: the lowest frequency of a class divided by that among real images, and its class.
  """
  n = min(len(real) // 2, len(features), HALF)
  reference, others = real[:n], real[n : 2 * n]
  metrics = {}
  if n > 5:
    measured, baseline = manifold(reference, features[:n]), manifold(reference, others)
    for name in ('precision', 'recall', 'coverage'):
      metrics[f'relative_{name}'] = getattr(measured, name) / max(getattr(baseline, name), 1e-9)
  if real_labels is None:
    return metrics
  share = np.bincount(real_labels) / len(real_labels)
  frequent = [c for c in range(len(share)) if share[c] * n >= MIN_CLASS_IMAGES]
  predicted, predicted_real = (real_labels[:n][nearest(x, reference)[1][:, 0]] for x in (features, others))
  classes = predicted if labels is None else labels
  spread = lambda x: np.sqrt(x.var(axis=0, dtype=np.float64).sum())  # noqa: E731
  real_spread = {c: spread(real[real_labels == c]) for c in frequent}
  enough = [c for c in frequent if real_spread[c] and (classes == c).sum() >= MIN_CLASS_IMAGES // 2]
  variety = {c: spread(features[classes == c]) / real_spread[c] for c in enough}
  if variety:
    worst = min(variety, key=variety.get)
    metrics |= {'class_variety': float(np.mean(list(variety.values())))}
    metrics |= {'class_variety_lowest': float(variety[worst]), 'class_variety_class': float(worst)}
  if frequent:
    shares = {c: (classes == c).mean() / share[c] for c in frequent}
    rarest = min(shares, key=shares.get)
    metrics |= {'class_share_lowest': float(shares[rarest]), 'class_share_class': float(rarest)}
  chance = np.square(share).sum()
  accuracy = (predicted_real == real_labels[n : 2 * n]).mean()
  if labels is not None and accuracy - chance > 0.2:  # otherwise the features do not separate the classes
    metrics['label_agreement'] = float(((predicted == labels).mean() - chance) / (accuracy - chance))
  return metrics


def collapse_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
  """The metrics of a card that `flags` uses: collapse_<name> as <name>, and copies_<name>."""
  names = [name for name in metrics if name.startswith(('collapse_', 'copies_'))]
  return {name.removeprefix('collapse_'): metrics[name] for name in names}


def flags(metrics: Mapping[str, Any], is_gan: bool) -> list[str]:
  """Describes how the samples have collapsed; empty if nothing is detected.

  `metrics` has values of `CollapseMonitor`, `compare_with_real` and `copies_of_training_images`, or of some of them. If
  features were used, they decide whether images are missing, and pixels do not. `is_gan`: see `feature_flags`.
  """
  messages = []
  if metrics.get('pairwise', 1) < 0.5:
    messages.append(
      f'samples differ {metrics["pairwise"]:.2g} times as much as training images: the generator has collapsed, or is untrained'
    )
  elif metrics.get('nearest', 1) < 0.3:
    messages.append(f'samples have neighbors {metrics["nearest"]:.2g} times as far as training images: near duplicates')
  elif 'coverage_held_out' in metrics and 'relative_coverage' not in metrics:
    precision, coverage = (metrics[name] / max(metrics[f'{name}_held_out'], 1e-9) for name in ('precision', 'coverage'))
    if coverage < 0.7 and precision > 0.8:
      much = f'cover {coverage:.2g} times as many as held-out images do'
      messages.append(f'samples are realistic and {much}: some are missing, or not learned yet')
  if metrics.get('rank', 2) < 1.5 and metrics['directions'] >= 8:
    messages.append(f'the generator uses {metrics["rank"]:.2g} of {metrics["directions"]:.0f} directions of its latent')
  if metrics.get('labels', 1) < 0.05:
    messages.append(f'samples of two classes differ {metrics["labels"]:.2g} times as much as images do: labels are ignored')
  if metrics.get('copies', 1) < 0.3:
    messages.append(f'samples are {metrics["copies"]:.2g} times as far from training images as held-out images are: copies')
  return messages + feature_flags(metrics, is_gan)


def feature_flags(metrics: Mapping[str, Any], is_gan: bool) -> list[str]:
  """The flags of `compare_with_real` and `copies_of_training_images`.

  `is_gan`: the samples come from a GAN. Their thresholds for variety are higher, since GANs do not blur.
  """
  messages = []
  if metrics.get('relative_recall', 1) < RECALL:
    messages.append(f'recall is {metrics["relative_recall"]:.2g} times that of real images: most of their variety is missing')
  if metrics.get('relative_coverage', 1) < COVERAGE:
    messages.append(
      f'coverage is {metrics["relative_coverage"]:.2g} times that of real images: most of them have no sample nearby'
    )
  least, lowest = (GAN_VARIETY, GAN_LOWEST_VARIETY) if is_gan else (VARIETY, LOWEST_VARIETY)
  if metrics.get('class_variety', 1) < least:
    messages.append(f'samples of a class vary {metrics["class_variety"]:.2g} times as much as its real images: too little')
  elif metrics.get('class_variety_lowest', 1) < lowest:
    worst = f'class {metrics["class_variety_class"]:.0f} vary {metrics["class_variety_lowest"]:.2g} times'
    messages.append(f'samples of {worst} as much as its real images: this class has collapsed')
  if metrics.get('class_share_lowest', 1) < SHARE:
    rarest = f'class {metrics["class_share_class"]:.0f} is {metrics["class_share_lowest"]:.2g} times as frequent'
    messages.append(f'{rarest} among samples as among real images: it is missing')
  if metrics.get('label_agreement', 1) < AGREEMENT:
    messages.append(
      f'samples have the requested class {metrics["label_agreement"]:.2g} times as often above chance as real images: '
      'labels are ignored'
    )
  if metrics.get('copies_median_ratio', 1) < COPIES_RATIO or metrics.get('copies_closer', 0) > COPIES_CLOSER:
    closer = (
      f'{100 * metrics["copies_closer"]:.3g} % of the samples are closer to a training image than 99 % of held-out images'
    )
    messages.append(f'{closer}, and the median distance is {metrics["copies_median_ratio"]:.2g} times theirs: copies')
  return messages


def overfitting_warning(metrics: dict[str, Any]) -> str:
  """A warning that the discriminator overfits, which may lead to mode collapse; '' if it does not."""
  if metrics.get('overfitting', 0) <= 0.5 or metrics['d_train'] - metrics['d_held_out'] <= 4 * metrics['d_error']:
    return ''
  return (
    f'the discriminator has memorized the training images (overfitting {metrics["overfitting"]:.2g}); samples may stay good '
    'for long: if FID or recall become worse, use augmentation'
  )
