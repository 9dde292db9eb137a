"""Data sets prepared for TensorFlow Datasets without TensorFlow."""

import gzip
import io
import struct
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from genjax.data.prepare import prepare, read_cifar10, read_idx
from genjax.data.sources.open import open_data
from genjax.errors import UsageError
from tests.conftest import ROOT, noise


def test_fashion_mnist_through_tfds(tmp_path, shared_data):
  prepare('fashion_mnist', str(shared_data / 'fashion_mnist'), str(tmp_path), examples=300)
  source = open_data('fashion_mnist', 28, data_dir=str(tmp_path))
  raw = read_idx(shared_data / 'fashion_mnist' / 'train-images-idx3-ubyte.gz')
  labels = read_idx(shared_data / 'fashion_mnist' / 'train-labels-idx1-ubyte.gz')
  assert source.images.shape == (300, 28, 28, 1)
  originals = {x.tobytes(): int(y) for x, y in zip(raw[:300], labels[:300], strict=True)}
  assert {x.tobytes(): int(y) for x, y in zip(source.images, source.cond['label'], strict=True)} == originals


def test_prepare_from_the_command_line(tmp_path):
  for split, n in (('train', 3), ('t10k', 2)):
    images = b'\0\0\x08\x03' + struct.pack('>3I', n, 28, 28) + bytes(n * 784)
    (tmp_path / f'{split}-images-idx3-ubyte.gz').write_bytes(gzip.compress(images))
    (tmp_path / f'{split}-labels-idx1-ubyte.gz').write_bytes(gzip.compress(b'\0\0\x08\x01' + struct.pack('>I', n) + bytes(n)))
  words = [sys.executable, '-m', 'genjax.data.prepare', 'mnist', f'--manual_dir={tmp_path}', f'--data_dir={tmp_path}/out']
  done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 1
  assert done.stderr.splitlines()[-1].startswith('error: mnist: a file differs from the published one.')


def test_prepare_errors(tmp_path):
  with pytest.raises(UsageError, match='is not one of mnist, fashion_mnist, cifar10'):
    prepare('lsun', str(tmp_path))
  with pytest.raises(UsageError, match=r'train-images-idx3-ubyte.gz is missing; mnist needs'):
    prepare('mnist', str(tmp_path))
  for part in ('train', 't10k'):
    for kind in ('images-idx3', 'labels-idx1'):
      (tmp_path / f'{part}-{kind}-ubyte.gz').write_bytes(gzip.compress(b'other'))
  with pytest.raises(UsageError, match='a file differs from the published one'):
    prepare('mnist', str(tmp_path), str(tmp_path / 'out'))


def test_read_idx_and_cifar10(tmp_path):
  images = noise(3, (4, 5))
  path = tmp_path / 'x.gz'
  path.write_bytes(gzip.compress(b'\0\0\x08\x03' + struct.pack('>3I', 3, 4, 5) + images.tobytes()))
  assert (read_idx(path) == images).all()
  pixels = noise(2, (32, 32, 3))
  rows = b''.join(bytes([7 + i]) + x.transpose(2, 0, 1).tobytes() for i, x in enumerate(pixels))
  with tarfile.open(tmp_path / 'c.tar.gz', 'w:gz') as archive:
    info = tarfile.TarInfo('cifar-10-batches-bin/test_batch.bin')
    info.size = len(rows)
    archive.addfile(info, io.BytesIO(rows))
  actual = list(read_cifar10(tmp_path / 'c.tar.gz', 'test'))
  assert [label for _, label in actual] == [7, 8]
  assert (np.stack([x for x, _ in actual]) == pixels).all()
