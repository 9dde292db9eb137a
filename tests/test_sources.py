"""Every source of images, and its errors."""

import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from genjax.data.pipeline import Pipeline
from genjax.data.sources import open_data
from genjax.errors import UsageError
from genjax.metrics.reference import real_images
from genjax.parallel import make_mesh
from tests.conftest import noise, same_bits


def test_digits():
  train, test = open_data('digits', 8), open_data('digits', 16, split='test', channels=3)
  assert train.images.shape == (1500, 8, 8, 1)
  assert test.images.shape == (297, 16, 16, 3)
  assert train.num_classes == 10
  assert train.images.max() == 255
  with pytest.raises(UsageError, match="digits has no split 'val'"):
    open_data('digits', 8, split='val')


@pytest.mark.parametrize('kind', ['uint8', 'int8', 'uint64'])
def test_npz_labels_of_any_whole_kind(tmp_path, kind):
  np.savez(tmp_path / 'x.npz', image=noise(), label=(np.arange(20) % 7).astype(kind))
  source = open_data(str(tmp_path / 'x.npz'), 8)
  assert source.num_classes == 7
  assert source.labels.dtype == np.int32


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
    ({'image': noise(3, (0, 8, 3))}, r'uint8\[3, 0, 8, 3\]: images without pixels'),
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
  assert same_bits(streamed.read(np.array([3, 0])), source.read(np.array([3, 0])))


def test_a_path_that_ends_in_train_has_a_test_split_beside_it(tmp_path):
  np.savez(tmp_path / 'x_train.npz', image=noise(6), label=np.arange(6) % 3)
  np.savez(tmp_path / 'x_test.npz', image=noise(4, seed=1), label=np.arange(4) % 2)
  train, test = real_images(name=str(tmp_path / 'x_train.npz'), resolution=8)
  assert (len(train), len(test), test.name) == (6, 4, str(tmp_path / 'x_test.npz'))
  assert same_bits(test.images, noise(4, seed=1))
  assert real_images(name=str(tmp_path / 'x_test.npz'), resolution=8)[1] is None  # nothing is beside that one
  np.savez(tmp_path / 'x_test.npz', image=noise(4), label=np.arange(4))
  with pytest.raises(
    UsageError, match=r'x_test.npz has images \[8, 8, 3\] of 4 classes, those trained on are \[8, 8, 3\] of 3'
  ):
    real_images(name=str(tmp_path / 'x_train.npz'), resolution=8)
  np.savez(tmp_path / 'x_test.npz', image=noise(4))
  with pytest.raises(
    UsageError, match=r'x_test.npz has images .* of 0 classes, those trained on are \[8, 8, 3\] of 3: make them'
  ):
    real_images(name=str(tmp_path / 'x_train.npz'), resolution=8)
  np.savez(tmp_path / 'x_test.npz', image=noise(0))
  with pytest.raises(UsageError, match=r'x_test.npz.* holds no images'):
    real_images(name=str(tmp_path / 'x_train.npz'), resolution=8)
  (tmp_path / 'x_test.npz').write_bytes(b'')
  with pytest.raises(UsageError, match=r'x_test.npz is not an npz file'):
    real_images(name=str(tmp_path / 'x_train.npz'), resolution=8)
  with pytest.raises(
    UsageError, match=r"data.split='val': .*x_train.npz names its images itself. Only a path that ends in train"
  ):
    open_data(str(tmp_path / 'x_train.npz'), 8, split='val')
  (tmp_path / 'x_test.npz').unlink()
  (tmp_path / 'x_test.npz').symlink_to(tmp_path / 'x_train.npz')
  with pytest.raises(UsageError, match=r'x_test.npz is a link, which is not followed: copy there what it leads to'):
    real_images(name=str(tmp_path / 'x_train.npz'), resolution=8)


def test_a_folder_without_a_name_has_no_test_split(tmp_path, monkeypatch):
  monkeypatch.chdir(folder(tmp_path))
  for name in ('.', './'):
    train, test = real_images(name=name, resolution=8)
    assert (len(train), test) == (4, None)
  with pytest.raises(UsageError, match=r"data.split='a/b': . names its images itself"):
    open_data('.', 8, split='a/b')


def test_classes_of_a_folder_are_numbered_as_those_trained_on(tmp_path):
  for split in ('train', 'test'):
    (tmp_path / split).mkdir()
    folder(tmp_path / split)
  for path in (tmp_path / 'test' / 'cat').iterdir():
    path.unlink()
  train, test = real_images(name=str(tmp_path / 'train'), resolution=8)
  assert (train.num_classes, test.num_classes) == (2, 2)
  assert test.labels.tolist() == [1, 1]  # dogs, though there are no cats before them
  (tmp_path / 'test' / 'eel').mkdir()
  Image.new('RGB', (8, 8)).save(tmp_path / 'test' / 'eel' / 'a.png')
  with pytest.raises(UsageError, match=r'test.eel: the images trained on have no such sub-folder; they have cat, dog'):
    real_images(name=str(tmp_path / 'train'), resolution=8)
  shutil.rmtree(tmp_path / 'test')
  (tmp_path / 'test').mkdir()
  Image.new('RGB', (8, 8)).save(tmp_path / 'test' / 'a.png')
  with pytest.raises(UsageError, match=r'test: its images are in no sub-folder, those trained on are: in cat, dog'):
    real_images(name=str(tmp_path / 'train'), resolution=8)


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
  pipeline = Pipeline(source, 4, jax.random.key(7), 0, make_mesh(jax.devices()[:1]))
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
