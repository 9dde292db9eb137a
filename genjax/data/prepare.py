"""Prepare MNIST, Fashion-MNIST or CIFAR-10 for TensorFlow Datasets without TensorFlow, with or without internet access.

  python -m genjax.data.prepare fashion_mnist                          # downloads
  python -m genjax.data.prepare fashion_mnist --manual_dir ~/files     # from local files

The files are the originals, checked against the checksums that TensorFlow Datasets registers. Debian's package
dataset-fashion-mnist has them too, without two header fields of the gzip files; these are restored. The result has the
standard name and version, and the standard reader opens it.
"""

import argparse
import gzip
import shutil
import struct
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from genjax.errors import UsageError

IDX = ('train-images-idx3-ubyte.gz', 'train-labels-idx1-ubyte.gz', 't10k-images-idx3-ubyte.gz', 't10k-labels-idx1-ubyte.gz')
CIFAR10 = 'cifar-10-binary.tar.gz'
DATASETS = {'mnist': IDX, 'fashion_mnist': IDX, 'cifar10': (CIFAR10,)}
FASHION_MNIST_MTIME = {'train': 1504176606, 't10k': 1504176627}  # in the headers of the published gzip files


def read_idx(path: Path) -> np.ndarray:
  """The uint8 array in a gzipped IDX file (the format of yann.lecun.com/exdb/mnist)."""
  data = gzip.decompress(Path(path).read_bytes())
  shape = struct.unpack(f'>{data[3]}I', data[4 : 4 + 4 * data[3]])
  return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def read_cifar10(path: Path, split: str) -> Iterator[tuple[np.ndarray, int]]:
  """Yields images [32, 32, 3] and labels in the published order from the archive of the binary version."""
  members = [f'data_batch_{i}.bin' for i in range(1, 6)] if split == 'train' else ['test_batch.bin']
  with tarfile.open(path) as archive:
    for member in members:
      data = archive.extractfile(f'cifar-10-batches-bin/{member}').read()
      for row in np.frombuffer(data, np.uint8).reshape(-1, 1 + 3072):
        yield row[1:].reshape(3, 32, 32).transpose(1, 2, 0), int(row[0])


def restore_header(source: Path, target: Path) -> None:
  """Copies a published Fashion-MNIST file, restoring name and time in its gzip header if they are missing."""
  data = source.read_bytes()
  if data[:2] == b'\x1f\x8b' and data[3] == 0:  # no file name in the header
    mtime = FASHION_MNIST_MTIME[source.name.split('-')[0]]
    name = source.name.removesuffix('.gz').encode()
    data = data[:3] + b'\x08' + struct.pack('<I', mtime) + b'\x00\x03' + name + b'\0' + data[10:]
  target.write_bytes(data)


def tensorflow_free(name: str):
  """The standard builder of this name with its TensorFlow calls (extraction, PNG encoding) replaced."""
  import tensorflow_datasets as tfds

  stock = tfds.builder_cls(name)

  class Builder(stock, skip_registration=True):
    pkg_dir_path = None

    def _split_generators(self, dl_manager):
      if name == 'cifar10':
        path = dl_manager.download('https://www.cs.toronto.edu/~kriz/' + CIFAR10)
        return {split: self._generate_examples(path, split) for split in ('train', 'test')}
      root = self.URL if name == 'fashion_mnist' else 'https://storage.googleapis.com/cvdf-datasets/mnist/'
      paths = dl_manager.download({file: root + file for file in IDX})
      return {
        'train': self._generate_examples(*(paths[f] for f in IDX[:2])),
        'test': self._generate_examples(*(paths[f] for f in IDX[2:])),
      }

    def _generate_examples(self, first, second):
      pairs = read_cifar10(first, second) if name == 'cifar10' else zip(read_idx(first), read_idx(second), strict=True)
      for i, (image, label) in enumerate(pairs):  # a Pillow image needs no TensorFlow to be encoded
        yield (
          i,
          {'image': Image.fromarray(image), 'label': int(label)} | ({'id': f'{i:05d}'} if 'id' in self.info.features else {}),
        )

  Builder.name = name
  return Builder


def prepare(name: str, manual_dir: str = '', data_dir: str = '', examples: int = 0) -> Path:
  """Prepares `name` as ArrayRecord and returns its folder.

  Args:
    name: mnist, fashion_mnist or cifar10.
    manual_dir: a folder with the original files; '' downloads them.
    data_dir: folder of TensorFlow Datasets; '' is its default.
    examples: maximum number of examples of each split, for a quick test; 0 is all.

  Raises:
    UsageError: the name is unknown, a file is missing, or a checksum differs from the registered one.
  """
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

  if name not in DATASETS:
    raise UsageError(
      f'{name} is not one of {", ".join(DATASETS)}. Prepare others with TensorFlow: tfds build NAME --file_format=array_record'
    )
  with tempfile.TemporaryDirectory() as scratch:
    if manual_dir:
      for file in DATASETS[name]:
        source = Path(manual_dir).expanduser() / file
        if not source.is_file():
          raise UsageError(f'{source} is missing; {name} needs {", ".join(DATASETS[name])}.')
        if name == 'fashion_mnist':
          restore_header(source, Path(scratch) / file)
        else:
          shutil.copyfile(source, Path(scratch) / file)
    config = tfds.download.DownloadConfig(manual_dir=scratch if manual_dir else None, max_examples_per_split=examples or None)
    builder = tensorflow_free(name)(data_dir=data_dir or None, file_format='array_record')
    try:
      builder.download_and_prepare(download_config=config)
    except NonMatchingChecksumError as error:
      raise UsageError(f'{name}: a file differs from the published one. {" ".join(str(error).split())}') from None
  return Path(builder.data_dir)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('name', help=', '.join(DATASETS))
  parser.add_argument('--manual_dir', default='', help='a folder with the original files (default: download them)')
  parser.add_argument('--data_dir', default='', help='folder of TensorFlow Datasets (default: its default)')
  args = parser.parse_args()
  try:
    print(prepare(args.name, args.manual_dir, args.data_dir))
  except UsageError as error:
    sys.exit(f'error: {error}')


if __name__ == '__main__':
  from genjax.data import prepare as module  # under its own name: TensorFlow Datasets takes no builder from __main__

  module.main()
