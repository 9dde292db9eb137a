"""Image data sets of TensorFlow Datasets, read without TensorFlow."""

import difflib
import os
import re

import numpy as np
from PIL import Image

from genjax.data import contents
from genjax.data.contents import Contents
from genjax.data.photos import MODES, to_array
from genjax.data.sources.base import Read, Source, example_of
from genjax.errors import UsageError
from genjax.images import resize
from genjax.types import Example


class Tfds(Source):
  """An image data set of TensorFlow Datasets, prepared as ArrayRecord and read by random access without TensorFlow."""

  def __init__(self, name: str, split: str, resolution: int, channels: int, data_dir: str, background: str = 'white'):
    import tensorflow_datasets as tfds

    self.name = name
    where = data_dir or os.environ.get('TFDS_DATA_DIR') or None
    if name.split('/')[0].split(':')[0] not in (known := tfds_names()):
      exact = [k for k in known if k.replace('_', '') == re.sub('[^a-z0-9]', '', name.lower())]  # CIFAR-10 is cifar10
      near = exact or difflib.get_close_matches(name.lower(), ['digits', *known])
      raise UsageError(
        f'data.name={name!r} is not digits, a data set of TensorFlow Datasets, a folder or an .npz file.'
        + (f' Did you mean {" or ".join(near)}?' if near else '')
      )
    try:
      builder = tfds.builder(name, data_dir=where, file_format='array_record')
    except (ValueError, KeyError, AssertionError, RuntimeError, tfds.core.DatasetNotFoundError) as error:
      configs = list(tfds.builder_cls(name.split('/')[0].split(':')[0]).builder_configs)
      has = f'; its configs are {", ".join(configs[:12])}' if configs else ''
      raise UsageError(f'data.name={name!r}: TensorFlow Datasets has no such config or version{has}.') from error
    if not builder.info.splits:
      raise UsageError(f'{name} is not prepared in {builder.data_dir}. ' + how_to_prepare(name, data_dir))
    image = [k for k, f in builder.info.features.items() if isinstance(f, tfds.features.Image)]
    label = [k for k, f in builder.info.features.items() if isinstance(f, tfds.features.ClassLabel)]
    if not image:
      raise UsageError(f'{name} has no image feature; it has {", ".join(builder.info.features)}.')
    self.image_key, self.label_key = image[0], label[0] if label else None
    self.classes = tuple(builder.info.features[label[0]].names) if label else ()
    self.background = background
    try:
      self.examples = builder.as_data_source(split=split)
      self.encoded = builder.as_data_source(split=split, decoders={image[0]: tfds.decode.SkipDecoding()})
    except (ValueError, KeyError, AssertionError):
      have = ', '.join(builder.info.splits)
      raise UsageError(f'{name} has no split {split!r}; it has {have}, and parts like train[:10%].') from None
    except NotImplementedError as error:
      raise UsageError(f'{name} in {builder.data_dir}: {error}. ' + how_to_prepare(name, data_dir)) from None
    own = builder.info.features[image[0]].shape[-1]
    self.channels = channels or (1 if own == 1 else 3)
    self.resolution = resolution

  @property
  def example(self) -> Example:
    shape = (self.resolution, self.resolution, self.channels)
    cond = {'label': np.zeros(0, np.int32)} if self.label_key else {}
    return example_of(shape, cond, self.classes, len(self.examples))

  def read(self, rows: np.ndarray) -> Read:
    examples = self.examples.__getitems__([int(i) for i in rows])
    images = np.stack([resize(self.as_channels(e[self.image_key]), self.resolution) for e in examples])
    if not self.label_key:
      return images, {}
    labels = np.array([e[self.label_key] for e in examples], np.int32)
    if labels.min(initial=0) < 0:
      raise UsageError(f'{self.name} has images without a label (-1) in this split: choose another data.split.')
    return images, {'label': labels}

  def contents(self) -> Contents:
    """Hashes some examples: labels, and bytes of JPEG files or pixels of PNG files, whose bytes vary with the encoder."""
    rows = np.linspace(0, len(self) - 1, min(len(self), contents.SAMPLE)).astype(int).tolist()
    encoded, decoded = (examples.__getitems__(rows) if rows else [] for examples in (self.encoded, self.examples))
    parts = []
    for raw, example in zip(encoded, decoded, strict=True):
      image = raw[self.image_key]
      image = np.ascontiguousarray(example[self.image_key]).tobytes() if image.startswith(b'\x89PNG') else image
      parts.append(f'{example[self.label_key] if self.label_key else 0} '.encode() + image)
    return contents.hash_examples(parts, len(self))

  def as_channels(self, image: np.ndarray) -> np.ndarray:
    if image.shape[-1] == self.channels:
      return image
    return to_array(Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image), MODES[self.channels], self.background)


def tfds_names() -> list[str]:
  import tensorflow_datasets as tfds

  return tfds.list_builders(with_community_datasets=False)


def how_to_prepare(name: str, data_dir: str) -> str:
  from genjax.data.prepare import DATASETS

  where = f' --data_dir {data_dir}' if data_dir else ''
  if name in DATASETS:
    return f'Run: python -m genjax.data.prepare {name}{where}'
  return f'Run, where TensorFlow is installed: tfds build {name} --file_format=array_record{where}'
