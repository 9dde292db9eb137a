"""Sources, their errors, and batches as a function of (seed, step)."""

import gzip
import io
import os
import socket
import struct
import subprocess
import sys
import tarfile

import jax
import numpy as np
import pytest
from PIL import Image

from genjax.data.pipeline import Pipeline, batch_rows
from genjax.data.prepare import prepare, read_cifar10, read_idx
from genjax.data.sources import Arrays, open_data
from genjax.errors import UsageError
from genjax.images import grid, resize, to_float, to_uint8
from genjax.parallel import make_mesh
from tests.conftest import ROOT

KEY = jax.random.key(7)


def noise(n=20, shape=(8, 8, 3), seed=0):
  return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def arrays(n=20):
  return Arrays('noise', noise(n), np.arange(n, dtype=np.int32) % 5, 5)


class Streamed:
  """The same images behind the interface of a set too large for memory."""

  def __init__(self, source):
    self.source, self.name = source, source.name
    self.image_shape, self.num_classes = source.image_shape, source.num_classes

  def __len__(self):
    return len(self.source)

  def read(self, indices):
    return self.source.read(indices)


def batches(source, steps, devices=1, **options):
  pipeline = Pipeline(source, 8, KEY, seed=3, mesh=make_mesh(jax.devices()[:devices]), **options)
  found = [jax.device_get(pipeline(t)) for t in steps]
  pipeline.close()
  return found


def same(a, b):
  return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def test_each_epoch_shows_each_image_once_and_in_another_order():
  rows = np.concatenate([batch_rows(0, t, 8, 20) for t in range(10)]).reshape(4, 20)
  assert (np.sort(rows, axis=1) == np.arange(20)[None]).all()
  assert not (rows[0] == rows[1]).all()
  assert not (rows[0] == np.concatenate([batch_rows(1, t, 4, 20) for t in range(5)])).all()


def test_the_order_is_pinned():
  # Resuming with another NumPy must go on with the same batches: these rows were written down once.
  assert batch_rows(0, 0, 8, 20).tolist() == [0, 2, 11, 17, 9, 1, 8, 13]


@pytest.mark.parametrize('flip', [False, True])
def test_batches_after_a_resume_are_those_without(flip):
  through = batches(arrays(), range(6), flip=flip)
  resumed = batches(arrays(), range(3, 6), flip=flip)
  assert same(through[3:], resumed)


def test_batches_do_not_depend_on_devices_or_on_streaming():
  reference = batches(arrays(), range(4), flip=True)
  assert same(reference, batches(arrays(), range(4), devices=4, flip=True))
  assert same(reference, batches(Streamed(arrays()), range(4), flip=True))
  assert same(reference, batches(Streamed(arrays()), range(4), devices=4, flip=True))


def test_the_halves_of_two_hosts_are_the_whole_of_one(tmp_path):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = str(free.getsockname()[1])
  env = {k: v for k, v in os.environ.items() if k != 'JAX_NUM_CPU_DEVICES'}
  hosts = [
    subprocess.Popen([sys.executable, '-m', 'tests.two_hosts', port, str(i), str(tmp_path / f'{i}.npz')], cwd=ROOT, env=env)
    for i in range(2)
  ]
  assert [host.wait(timeout=120) for host in hosts] == [0, 0]
  whole = batches(arrays(), range(4), flip=True) * 2  # resident, then streamed
  with np.load(tmp_path / '0.npz') as first, np.load(tmp_path / '1.npz') as second:
    for i, batch in enumerate(whole):
      assert np.array_equal(np.concatenate([first[f'arr_{i}'], second[f'arr_{i}']]), batch.image)


def test_a_batch_holds_the_images_of_its_rows():
  source = arrays()
  (batch,) = batches(source, [5])
  rows = batch_rows(3, 5, 8, 20)
  np.testing.assert_allclose(batch.image, source.images[rows] / 127.5 - 1, atol=1e-6)
  assert (batch.label == source.labels[rows]).all()
  assert (batch.index == np.arange(8)).all()


def test_half_of_the_images_are_mirrored():
  plain, flipped = batches(arrays(), range(20)), batches(arrays(), range(20), flip=True)
  mirrored = 0
  for a, b in zip(plain, flipped, strict=True):
    for x, y in zip(a.image, b.image, strict=True):
      assert (y == x).all() or (y == x[:, ::-1]).all()
      mirrored += (y == x[:, ::-1]).all()
  assert 55 < mirrored < 105  # of 160


def test_batch_size_that_the_devices_do_not_divide():
  with pytest.raises(UsageError, match=r'train.batch_size=6 must be a multiple of the 8 devices'):
    Pipeline(arrays(), 6, KEY, 0, make_mesh())


def test_digits():
  train, test = open_data('digits', 8), open_data('digits', 16, split='test', channels=3)
  assert train.images.shape == (1500, 8, 8, 1)
  assert test.images.shape == (297, 16, 16, 3)
  assert train.num_classes == 10
  assert train.images.max() == 255
  with pytest.raises(UsageError, match="digits has no split 'val'"):
    open_data('digits', 8, split='val')


def test_resize_crops_the_centre_and_averages():
  wide = np.zeros((4, 12, 1), np.uint8)
  wide[:, 4:8] = 255  # the centred square
  assert (resize(wide, 4) == 255).all()
  checks = np.indices((32, 32)).sum(axis=0).astype(np.uint8)[..., None] % 2 * 255
  assert abs(resize(checks, 8).astype(float).mean() - 127.5) < 2  # antialiased: without, it is 0 or 255
  assert abs(resize(checks, 8).astype(float) - 127.5).max() < 30
  assert resize(wide[:, :4], 4) is not None


def test_uint8_round_trip():
  levels = np.arange(256, dtype=np.uint8)
  assert (np.asarray(to_uint8(to_float(levels))) == levels).all()
  assert np.asarray(to_uint8(np.array([-3.0, 3.0], np.float32))).tolist() == [0, 255]


def test_grid_places_images_row_by_row():
  images = np.stack([np.full((2, 2, 1), i, np.uint8) for i in range(5)])
  out = grid(images, 3, margin=1)
  assert out.shape == (5, 8, 1)
  assert out[0, [0, 3, 6], 0].tolist() == [0, 1, 2]
  assert out[3, [0, 3, 6], 0].tolist() == [3, 4, 96]
  assert out[2, 0, 0] == out[0, 2, 0] == 96


def test_npz(tmp_path):
  path = tmp_path / 'x.npz'
  np.savez(path, image=noise(6, (9, 9)), label=np.array([0, 1, 2, 0, 1, 2]))
  source = open_data(str(path), 9)
  assert source.image_shape == (9, 9, 1)
  assert source.num_classes == 3
  np.savez(path, image=noise(6))
  assert open_data(str(path), 8).num_classes == 0
  assert open_data(str(path), 4, channels=1).images.shape == (6, 4, 4, 1)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ({'images': noise()}, "has no array 'image'; it has images"),
    ({'image': noise().astype(np.float32)}, r"'image' is float32\[20, 8, 8, 3\]; it must be uint8"),
    ({'image': noise(shape=(8, 8, 2))}, 'it must be uint8'),
    ({'image': noise(), 'label': np.arange(19)}, r"'label' is int64\[19\]; it must be whole numbers \[20\]"),
    ({'image': noise(), 'label': np.linspace(0, 1, 20)}, "'label' is float64"),
    ({'image': noise(), 'label': np.arange(20) - 1}, 'labels run from -1 to 18; they must be 0, 1, 2'),
    ({'image': noise(0)}, 'holds no images'),
    ({'image': np.array([object()] * 3)}, 'is not an npz file of plain arrays'),
  ],
)
def test_npz_errors(tmp_path, content, message):
  path = tmp_path / 'x.npz'
  np.savez(path, **content)
  with pytest.raises(UsageError, match=message):
    open_data(str(path), 8)


def test_files_that_are_not_npz(tmp_path):
  (tmp_path / 'x.npz').write_bytes(b'not an archive')
  with pytest.raises(UsageError, match=r'x.npz is not an npz file'):
    open_data(str(tmp_path / 'x.npz'), 8)
  with pytest.raises(UsageError, match=r'y.npz: there is no such file'):
    open_data(str(tmp_path / 'y.npz'), 8)
  with pytest.raises(UsageError, match='is a path, and there is no folder'):
    open_data('/nowhere/at/all', 8)


def folder(tmp_path, sizes=((8, 8), (10, 8)), mode='RGB'):
  for i, name in enumerate(('cat', 'dog')):
    (tmp_path / name).mkdir()
    for j, size in enumerate(sizes):
      Image.new(mode, size, 10 + i if mode == 'L' else (10 + i, j, 0)).save(tmp_path / name / f'{j}.png')
  return tmp_path


def test_image_folder(tmp_path):
  source = open_data(str(folder(tmp_path)), 8)
  assert source.images.shape == (4, 8, 8, 3)
  assert source.labels.tolist() == [0, 0, 1, 1]
  assert source.num_classes == 2
  assert source.images[:, 0, 0, 0].tolist() == [10, 10, 11, 11]
  streamed = open_data(str(tmp_path), 8, memory_gib=0.0)
  assert same(streamed.read(np.array([3, 0])), source.read(np.array([3, 0])))


def test_hidden_folders_are_no_labels(tmp_path):
  folder(tmp_path)
  (tmp_path / '.thumbnails').mkdir()
  Image.new('RGB', (8, 8)).save(tmp_path / '.thumbnails' / 'a.png')
  source = open_data(str(tmp_path), 8)
  assert len(source) == 4
  assert source.num_classes == 2


def test_sixteen_bit_greyscale_becomes_eight(tmp_path):
  levels = np.arange(64).reshape(8, 8) * 1040
  Image.fromarray(levels.astype(np.uint16)).save(tmp_path / 'a.png')
  image = open_data(str(tmp_path), 8).images[0, ..., 0]
  assert abs(image - levels / 257).max() <= 1


def test_image_folder_without_labels_greyscale(tmp_path):
  Image.new('L', (8, 8), 7).save(tmp_path / 'a.png')
  source = open_data(str(tmp_path), 8)
  assert source.image_shape == (8, 8, 1)
  assert source.num_classes == 0
  assert open_data(str(tmp_path), 8, channels=3).images[0, 0, 0].tolist() == [7, 7, 7]


def test_image_folder_errors(tmp_path):
  with pytest.raises(UsageError, match='holds no images'):
    open_data(str(tmp_path), 8)
  folder(tmp_path)
  Image.new('L', (8, 8), 3).save(tmp_path / 'dog' / 'grey.png')
  with pytest.raises(UsageError, match=r'grey.png has 1 channel, the first image 3: set data.channels=3 or 1'):
    open_data(str(tmp_path), 8)
  assert len(open_data(str(tmp_path), 8, channels=1)) == 5
  (tmp_path / 'dog' / 'grey.png').unlink()
  (tmp_path / 'cat' / '0.png').write_bytes((tmp_path / 'cat' / '0.png').read_bytes()[:40])
  (tmp_path / 'cat' / 'z.png').write_bytes(b'')
  with pytest.raises(UsageError, match=r'cat.0.png cannot be read .* set data.skip=True'):
    open_data(str(tmp_path), 8)


def test_skip_leaves_out_and_counts(tmp_path, capsys):
  folder(tmp_path)
  (tmp_path / 'cat' / '0.png').write_bytes(b'')
  assert len(open_data(str(tmp_path), 8, skip=True)) == 3
  assert 'skipped 1 of 4 images' in capsys.readouterr().out


def test_unreadable_image_is_named_while_streaming(tmp_path):
  source = open_data(str(folder(tmp_path)), 8, memory_gib=0.0)
  (tmp_path / 'dog' / '1.png').write_bytes(b'')
  pipeline = Pipeline(source, 4, KEY, 0, make_mesh(jax.devices()[:1]))
  with pytest.raises(UsageError, match=r'1.png cannot be read'):
    pipeline(0)
  pipeline.close()


def test_unknown_and_unprepared_tfds(tmp_path):
  with pytest.raises(UsageError, match=r'data.name is empty'):
    open_data('', 28)
  with pytest.raises(UsageError, match=r"'lsun/bedrom': TensorFlow Datasets has no such config or version"):
    open_data('lsun/bedrom', 28, data_dir=str(tmp_path))
  with pytest.raises(UsageError, match=r"'fashion_minst' is not digits.* Did you mean fashion_mnist"):
    open_data('fashion_minst', 28)
  with pytest.raises(UsageError, match=r"'CIFAR-10' is not digits.* Did you mean cifar10"):
    open_data('CIFAR-10', 32)
  with pytest.raises(UsageError, match=r'cifar10 is not prepared in .* python -m genjax.data.prepare cifar10 --data_dir '):
    open_data('cifar10', 32, data_dir=str(tmp_path))
  with pytest.raises(UsageError, match=r'tfds build celeb_a --file_format=array_record'):
    open_data('celeb_a', 32, data_dir=str(tmp_path))


def test_tfds_by_random_access(tmp_path):
  import tensorflow_datasets as tfds

  class NoiseImages(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version('1.0.0')
    pkg_dir_path = None

    def _info(self):
      image = tfds.features.Image(shape=(8, 8, 3))
      features = tfds.features.FeaturesDict({'image': image, 'label': tfds.features.ClassLabel(num_classes=5)})
      return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
      return {'train': self._generate_examples()}

    def _generate_examples(self):
      for i, image in enumerate(noise(12)):
        yield i, {'image': Image.fromarray(image), 'label': i % 5}

  NoiseImages(data_dir=tmp_path, file_format='array_record').download_and_prepare()
  source = open_data('noise_images', 8, data_dir=str(tmp_path))
  assert source.num_classes == 5
  assert sorted(x.tobytes() for x in source.images) == sorted(x.tobytes() for x in noise(12))
  assert open_data('noise_images', 4, data_dir=str(tmp_path), channels=1).images.shape == (12, 4, 4, 1)
  with pytest.raises(UsageError, match="no split 'test'; it has train"):
    open_data('noise_images', 8, split='test', data_dir=str(tmp_path))


def test_fashion_mnist_through_tfds(tmp_path, shared_data):
  prepare('fashion_mnist', str(shared_data / 'fashion_mnist'), str(tmp_path), examples=300)
  source = open_data('fashion_mnist', 28, data_dir=str(tmp_path))
  raw = read_idx(shared_data / 'fashion_mnist' / 'train-images-idx3-ubyte.gz')
  labels = read_idx(shared_data / 'fashion_mnist' / 'train-labels-idx1-ubyte.gz')
  assert source.images.shape == (300, 28, 28, 1)
  originals = {x.tobytes(): int(y) for x, y in zip(raw[:300], labels[:300], strict=True)}
  assert {x.tobytes(): int(y) for x, y in zip(source.images, source.labels, strict=True)} == originals


def test_prepare_from_the_command_line(tmp_path):
  for split, n in (('train', 3), ('t10k', 2)):
    images = b'\0\0\x08\x03' + struct.pack('>3I', n, 28, 28) + bytes(n * 784)
    (tmp_path / f'{split}-images-idx3-ubyte.gz').write_bytes(gzip.compress(images))
    (tmp_path / f'{split}-labels-idx1-ubyte.gz').write_bytes(gzip.compress(b'\0\0\x08\x01' + struct.pack('>I', n) + bytes(n)))
  words = [sys.executable, '-m', 'genjax.data.prepare', 'mnist', f'--manual_dir={tmp_path}', f'--data_dir={tmp_path}/out']
  done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 1
  assert done.stderr.splitlines()[-1].startswith('error: mnist: a file is not the published one.')  # as far as the files go


def test_prepare_errors(tmp_path):
  with pytest.raises(UsageError, match='is not one of mnist, fashion_mnist, cifar10'):
    prepare('lsun', str(tmp_path))
  with pytest.raises(UsageError, match=r'train-images-idx3-ubyte.gz is missing; mnist needs'):
    prepare('mnist', str(tmp_path))
  for part in ('train', 't10k'):
    for kind in ('images-idx3', 'labels-idx1'):
      (tmp_path / f'{part}-{kind}-ubyte.gz').write_bytes(gzip.compress(b'other'))
  with pytest.raises(UsageError, match='a file is not the published one'):
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
  found = list(read_cifar10(tmp_path / 'c.tar.gz', 'test'))
  assert [label for _, label in found] == [7, 8]
  assert (np.stack([x for x, _ in found]) == pixels).all()
