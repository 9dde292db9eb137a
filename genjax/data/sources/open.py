"""Opens a data set by its name: digits, one with countable modes, TensorFlow Datasets, a folder or an npz file."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageColor

from genjax.build import build, defaults, parameters, resolve
from genjax.data import contents
from genjax.data.listing import image_files
from genjax.data.photos import MAX_SIDE
from genjax.data.sources import modes
from genjax.data.sources.base import Arrays, Source
from genjax.data.sources.digits import digits
from genjax.data.sources.folder import ImageFolder
from genjax.data.sources.npz import npz
from genjax.data.sources.tfds import Tfds, tfds_names
from genjax.errors import UsageError
from genjax.logging import reading_bar


def open_data(
  name: str,  # 'digits', 'gaussians_25', 'stacked_mnist', a data set of TensorFlow Datasets, a folder, or a file ending in .npz
  resolution: int,  # side of the square images in pixels
  split: str = 'train',  # for a path that ends in 'train', such as x_train.npz or x/train, 'test' opens x_test.npz or x/test
  channels: int = 0,  # 1 grayscale, 3 RGB, 0 unchanged
  background: str = 'white',  # behind transparent pixels: a name or #rrggbb; '' drops the transparency
  skip: bool = False,  # skip images of a folder that cannot be read, and print how many
  data_dir: str = '',  # of TensorFlow Datasets; '': $TFDS_DATA_DIR or its default
  memory_gib: float = 4.0,  # larger sets are streamed from disk
) -> Source:
  """Opens the images of `name` at `resolution`.

  Raises:
    UsageError: the data set is unknown or not prepared, a path has no images, an image cannot be read, channel counts differ,
      labels are not 0, 1, 2, ..., the sub-folders are splits, or a class has no images.
  """
  if resolution < 1:
    raise UsageError(f'data.resolution={resolution} must be a side in pixels, at least 1.')
  if resolution > MAX_SIDE:
    raise UsageError(f'data.resolution={resolution} must be at most {MAX_SIDE:,} pixels.')
  if channels not in (0, 1, 3):
    raise UsageError(f'data.channels={channels} must be 1 (grayscale), 3 (RGB) or 0 (unchanged).')
  if background:
    try:
      ImageColor.getrgb(background)
    except ValueError:
      raise UsageError(f'data.background={background!r} is not a color: use a name such as white, or #rrggbb.') from None
  if memory_gib < 0:
    raise UsageError(f'data.memory_gib={memory_gib} must not be negative.')
  if not name:
    raise UsageError('data.name is empty: set it to digits, a data set of TensorFlow Datasets, a folder or an .npz file.')
  try:
    path = Path(name).expanduser()
    is_folder = path.is_dir()
  except (OSError, RuntimeError, ValueError) as error:  # too long, no such user, a zero byte
    reason = error.strerror if isinstance(error, OSError) else error
    raise UsageError(f'data.name={name[:80]!r} is not a valid path ({reason}).') from None
  if is_folder and path.name == name and is_known(name):
    print(f'data.name={name!r} is the data set of that name. For the folder {name} use data.name=./{name}.')
    is_folder = False
  if name == 'digits':
    source = digits(split, resolution, channels)
  elif name in modes.SETS:
    source = modes.with_modes(name, split, resolution, channels, data_dir)
  elif name.endswith('.npz') or is_folder:
    place = path if split == 'train' else sibling(path, split)
    if place is None:
      raise UsageError(
        f'data.split={split!r} does not exist for {name}: only a path that ends in train, such as x_train.npz or x/train, '
        f'can have this split, as x_{split}.npz or x/{split}.'
      )
    if name.endswith('.npz'):
      source = npz(place, resolution, channels, background, place == path)
    else:
      folders = None if place == path else image_files(path).folders
      source = ImageFolder(place, resolution, channels, skip, folders, background)
  elif name.startswith(('.', '/', '~')):
    raise UsageError(f'data.name={name!r}: there is no folder or .npz file at this path.')
  else:
    source = Tfds(name, split, resolution, channels, data_dir, background)
  if isinstance(source, ImageFolder):
    source = source.into_memory(memory_gib * 2**30)
  if not len(source):
    raise UsageError(f'data.name={source.name!r} has no images.')
  if isinstance(source, Arrays) or len(source) * np.prod(source.image_shape) > memory_gib * 2**30:
    return source
  images = np.empty((len(source), *source.image_shape), np.uint8)
  cond = {name: np.empty((len(source), *x.shape), x.dtype) for name, x in source.example.cond.items()}
  with reading_bar(total=len(source)) as progress:
    for start in range(0, len(source), 1024):
      part = np.arange(start, min(start + 1024, len(source)))
      images[part], read = source.read(part)
      for name, array in cond.items():
        array[part] = read[name]
      progress.update(len(part))
  return Arrays(source.name, images, cond, source.example.classes, contents.describe(source))


def open_section(allow: Collection[str] = (), source: Mapping[str, Any] | None = None, **options) -> Source:
  """The source of a section `data`: `open_data(**options)`, or an instance of a custom class that the spec `source` describes.

  A class with a parameter `split` gets the split of the section. `name` and `resolution` may be left at '' and 0 then.

  Args:
    allow: packages other than genjax that the spec may refer to.
    source: the spec; None for `open_data`.

  Raises:
    UsageError: see `open_data`; or the spec does not describe a `Source`, or an option has no effect on it.
  """
  if source is None:
    return open_data(**options)
  if not isinstance(source, Mapping) or 'cls' not in source:
    raise UsageError(f"data.source={source!r} must be the spec of a class: spec('mine.data.Pairs').")
  unused, default = ('channels', 'background', 'skip', 'data_dir'), defaults(open_data)
  for option in unused:
    if options.get(option, default[option]) != default[option]:
      raise UsageError(f'data.{option} has no effect with data.source: remove it, and make it a parameter of {source["cls"]}.')
  if 'split' in parameters(resolve(source['cls'], allow)):
    source = {**source, 'split': options.get('split', 'train')}
  function = resolve(source['cls'], allow)
  if missing := sorted(getattr(function, '__abstractmethods__', ())):
    raise UsageError(f'{source["cls"]} lacks {", ".join(missing)}, which a Source needs.')
  opened = build(source, allow)
  if not isinstance(opened, Source):
    raise UsageError(f'data.source is {type(opened).__name__}: it must be a subclass of genjax.data.sources.base.Source.')
  check_examples(opened, source['cls'])
  side = opened.image_shape[0]
  if options.get('resolution', side) not in (0, side):
    raise UsageError(
      f'data.resolution={options["resolution"]}: {source["cls"]} has images of {side} pixels; set data.resolution={side}, '
      'or resize in your class.'
    )
  return opened


def check_examples(source: Source, name: str) -> None:
  """Raises UsageError unless the examples of a custom source, of the class `name`, are as its `example` describes."""
  example = source.example
  if example.size < 1:
    raise UsageError(f'{name}: its example has size={example.size}, the number of examples, which must be 1 or more.')
  if len(example.image.shape) != 3 or example.image.shape[-1] not in (1, 2, 3):
    raise UsageError(f'{name}: its example has images of shape {example.image.shape}, not [H, W, C] with up to 3 channels.')
  rows = np.unique(np.minimum([*range(255), example.size - 1], example.size - 1))
  images, cond = source.read(rows)
  expected = (len(rows), *example.image.shape)
  if getattr(images, 'dtype', None) != np.uint8 or images.shape != expected:
    actual = f'{images.dtype} {list(images.shape)}' if hasattr(images, 'shape') else type(images).__name__
    raise UsageError(f'{name}: read returns images as {actual}, not uint8 {list(expected)} with values from 0 to 255.')
  if cond.keys() != example.cond.keys():
    raise UsageError(f'{name}: read returns the conditions {sorted(cond)}, but its example has {sorted(example.cond)}.')
  for field, described in example.cond.items():
    values, expected = np.asarray(cond[field]), (len(rows), *described.shape)
    if values.dtype != described.dtype or values.shape != expected or values.dtype.kind not in 'biuf':
      raise UsageError(
        f'{name}: read returns {field} as {values.dtype} {list(values.shape)}, but its example has {described.dtype} '
        f'{list(expected)}. Conditions are numbers.'
      )
  if 'label' in cond and not ((cond['label'] >= 0) & (cond['label'] < len(example.classes))).all():
    raise UsageError(
      f'{name}: labels are from {cond["label"].min()} to {cond["label"].max()}, but its example names {len(example.classes)} '
      'classes: labels must be from 0 to one less.'
    )


def is_known(name: str) -> bool:
  """Whether genjax or TensorFlow Datasets has a data set with this name."""
  return name in ('digits', *modes.SETS) or name in tfds_names()


def sibling(path: Path, split: str) -> Path | None:
  """The path of another split next to a path that ends in 'train'; None if it does not exist.

  Raises:
    UsageError: it is a link.
  """
  suffix = path.suffix if path.suffix == '.npz' else ''
  stem = path.name.removesuffix(suffix)
  if not stem.endswith('train') or not split.isidentifier():
    return None
  other = path.with_name(stem.removesuffix('train') + split + suffix)
  if other.is_symlink():
    raise UsageError(f'{other} is a link, which is not followed: replace it by a copy of its target, or remove it.')
  return other if other.exists() else None
