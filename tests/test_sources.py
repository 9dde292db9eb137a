"""Every source of images, and its errors."""

import io
import os
import re
import shutil
import struct

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from sklearn.datasets import load_digits

from genjax.data import decoded as kept
from genjax.data.pipeline import Pipeline
from genjax.data.sources import folder as folder_module
from genjax.data.sources.open import open_data
from genjax.errors import UsageError
from genjax.metrics.reference import real_images
from genjax.parallel import make_mesh
from tests.conftest import noise, same_bits


def test_digits_are_those_of_scikit_learn():
  actual, data = [open_data('digits', 8, split) for split in ('train', 'test')], load_digits()
  images = np.concatenate([source.images[..., 0] for source in actual])
  np.testing.assert_array_equal(images, np.round(data.images * (255 / 16)))
  np.testing.assert_array_equal(np.concatenate([source.cond['label'] for source in actual]), data.target)


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
  assert source.cond['label'].dtype == np.int32


def test_npz(tmp_path):
  path = tmp_path / 'x.npz'
  np.savez(path, image=noise(6, (9, 9)), label=np.array([0, 1, 2, 0, 1, 2]))
  source = open_data(str(path), 9)
  assert source.image_shape == (9, 9, 1)
  assert source.num_classes == 3
  assert source.example.classes == ('0', '1', '2')
  np.savez(path, image=noise(6))
  assert open_data(str(path), 8).num_classes == 0
  assert open_data(str(path), 8).read(np.arange(2))[1] == {}
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
    ({'image': noise(0)}, 'has no images'),
    ({'image': noise(3, (0, 8, 3))}, r'uint8\[3, 0, 8, 3\]; its images must have pixels'),
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
  with pytest.raises(UsageError, match=r'y.npz does not exist'):
    open_data(str(tmp_path / 'y.npz'), 8)
  with pytest.raises(UsageError, match='there is no folder'):
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
  assert source.cond['label'].tolist() == [0, 0, 1, 1]
  assert source.num_classes == 2
  assert source.example.classes == ('cat', 'dog')
  assert source.images[:, 0, 0, 0].tolist() == [10, 10, 11, 11]
  streamed = open_data(str(tmp_path), 8, memory_gib=0.0)
  assert streamed.example == source.example
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
    UsageError, match=r'x_test.npz has images \[8, 8, 3\] of 4 classes, but the training images have \[8, 8, 3\] and 3'
  ):
    real_images(name=str(tmp_path / 'x_train.npz'), resolution=8)
  np.savez(tmp_path / 'x_test.npz', image=noise(4))
  with pytest.raises(UsageError, match=r'x_test.npz has images .* of 0 classes, .* \[8, 8, 3\] and 3 classes: make both'):
    real_images(name=str(tmp_path / 'x_train.npz'), resolution=8)
  np.savez(tmp_path / 'x_test.npz', image=noise(0))
  with pytest.raises(UsageError, match=r'x_test.npz.* has no images'):
    real_images(name=str(tmp_path / 'x_train.npz'), resolution=8)
  (tmp_path / 'x_test.npz').write_bytes(b'')
  with pytest.raises(UsageError, match=r'x_test.npz is not an npz file'):
    real_images(name=str(tmp_path / 'x_train.npz'), resolution=8)
  with pytest.raises(UsageError, match=r"data.split='val' .*x_train.npz: only a path that ends in train"):
    open_data(str(tmp_path / 'x_train.npz'), 8, split='val')
  (tmp_path / 'x_test.npz').unlink()
  (tmp_path / 'x_test.npz').symlink_to(tmp_path / 'x_train.npz')
  with pytest.raises(UsageError, match=r'x_test.npz is a link, which is not followed'):
    real_images(name=str(tmp_path / 'x_train.npz'), resolution=8)


def test_a_folder_without_a_name_has_no_test_split(tmp_path, monkeypatch):
  monkeypatch.chdir(folder(tmp_path))
  for name in ('.', './'):
    train, test = real_images(name=name, resolution=8)
    assert (len(train), test) == (4, None)
  with pytest.raises(UsageError, match=r"data.split='a/b'"):
    open_data('.', 8, split='a/b')


def test_classes_of_a_folder_are_numbered_as_those_trained_on(tmp_path):
  for split in ('train', 'test'):
    (tmp_path / split).mkdir()
    folder(tmp_path / split)
  for path in (tmp_path / 'test' / 'cat').iterdir():
    path.unlink()
  train, test = real_images(name=str(tmp_path / 'train'), resolution=8)
  assert (train.num_classes, test.num_classes) == (2, 2)
  assert test.cond['label'].tolist() == [1, 1]  # dogs, though there are no cats before them
  (tmp_path / 'test' / 'eel').mkdir()
  Image.new('RGB', (8, 8)).save(tmp_path / 'test' / 'eel' / 'a.png')
  with pytest.raises(UsageError, match=r'test.eel: .*; they have cat, dog'):
    real_images(name=str(tmp_path / 'train'), resolution=8)
  shutil.rmtree(tmp_path / 'test')
  (tmp_path / 'test').mkdir()
  Image.new('RGB', (8, 8)).save(tmp_path / 'test' / 'a.png')
  with pytest.raises(UsageError, match=r'test: the images must be in sub-folders .*: cat, dog'):
    real_images(name=str(tmp_path / 'train'), resolution=8)


def test_hidden_folders_are_no_labels(tmp_path):
  folder(tmp_path)
  (tmp_path / '.thumbnails').mkdir()
  Image.new('RGB', (8, 8)).save(tmp_path / '.thumbnails' / 'a.png')
  source = open_data(str(tmp_path), 8)
  assert len(source) == 4
  assert source.num_classes == 2


def test_sixteen_bit_grayscale_becomes_eight(tmp_path):
  levels = np.arange(64).reshape(8, 8) * 1040
  Image.fromarray(levels.astype(np.uint16)).save(tmp_path / 'a.png')
  image = open_data(str(tmp_path), 8).images[0, ..., 0]
  assert abs(image - levels / 257).max() <= 1


def test_image_folder_without_labels_grayscale(tmp_path):
  Image.new('L', (8, 8), 7).save(tmp_path / 'a.png')
  source = open_data(str(tmp_path), 8)
  assert source.image_shape == (8, 8, 1)
  assert source.num_classes == 0
  assert open_data(str(tmp_path), 8, channels=3).images[0, 0, 0].tolist() == [7, 7, 7]


def test_image_folder_errors(tmp_path):
  with pytest.raises(UsageError, match='contains no images'):
    open_data(str(tmp_path), 8)
  folder(tmp_path)
  Image.new('L', (8, 8), 3).save(tmp_path / 'dog' / 'gray.png')
  with pytest.raises(UsageError, match=r'gray.png has 1 channel, the first image 3: set data.channels=3 or 1'):
    open_data(str(tmp_path), 8)
  assert len(open_data(str(tmp_path), 8, channels=1)) == 5
  (tmp_path / 'dog' / 'gray.png').unlink()
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
  assert source.example.classes == ('0', '1', '2', '3', '4')
  small = open_data('noise_images', 4, data_dir=str(tmp_path), channels=1)
  assert small.images.shape == (12, 4, 4, 1)
  streamed = open_data('noise_images', 8, data_dir=str(tmp_path), memory_gib=0.0)
  assert streamed.example == source.example
  assert source.contents() == small.contents() == streamed.contents()  # of what is on disk
  part = open_data('noise_images', 8, 'train[:50%]', data_dir=str(tmp_path))
  assert part.contents() != source.contents()
  with pytest.raises(UsageError, match="no split 'test'; it has train"):
    open_data('noise_images', 8, split='test', data_dir=str(tmp_path))


# Photographs: pixels and orientation, for any other metadata.

UPRIGHT = {  # EXIF 2.32, tag 0x0112: what is done to the stored pixels
  1: lambda x: x,
  2: np.fliplr,
  3: lambda x: np.rot90(x, 2),
  4: np.flipud,
  5: lambda x: x.swapaxes(0, 1),
  6: lambda x: np.rot90(x, -1),
  7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
  8: lambda x: np.rot90(x, 1),
}


def exif_bytes(turn, order='<'):
  """EXIF with an orientation, a maker, YCbCrPositioning stored as text, and a sub-directory that lies outside."""
  tags = [(0x010F, 2, 4, b'abc\0'), (0x0112, 3, 1, struct.pack(f'{order}HH', turn, 0)), (0x0213, 2, 2, b'1\0\0\0')]
  tags += [(0x8769, 4, 1, struct.pack(f'{order}I', 9999)), (0x9003, 2, 20, struct.pack(f'{order}I', 74))]
  header = {'<': b'II*\0', '>': b'MM\0*'}[order] + struct.pack(f'{order}IH', 8, len(tags))
  body = b''.join(struct.pack(f'{order}HHI', *tag[:3]) + tag[3] for tag in tags)
  return b'Exif\0\0' + header + body + bytes(4) + b'2026:01:01 00:00:00\0'


ORIENTATION = slice(6 + 10 + 12, 6 + 10 + 24)  # its place in those


def photo(kind, exif=b'', size=(8, 8)):
  """A file of random pixels."""
  file = io.BytesIO()
  options = {'quality': 95} if kind == 'jpeg' else {'lossless': True} if kind == 'webp' else {}
  Image.fromarray(noise(1, (*size, 3))[0]).save(file, kind, **options, **({'exif': exif} if exif else {}))
  return file.getvalue()


def read_alone(tmp_path, name, content, **options):
  """The pixels of one file in a folder of its own."""
  shutil.rmtree(tmp_path / 'one', ignore_errors=True)
  (tmp_path / 'one').mkdir()
  (tmp_path / 'one' / name).write_bytes(content)
  return open_data(str(tmp_path / 'one'), 8, **options).images[0]


@pytest.mark.parametrize('kind', ['jpeg', 'png', 'webp'])
@pytest.mark.parametrize('turn', UPRIGHT)
def test_photographs_are_rotated_by_their_orientation(tmp_path, kind, turn):
  plain = read_alone(tmp_path, f'a.{kind}', photo(kind))
  for order in '<>':
    turned = read_alone(tmp_path, f'a.{kind}', photo(kind, exif_bytes(turn, order)))
    assert same_bits(turned, UPRIGHT[turn](plain))


def test_tiff_is_rotated_once(tmp_path):
  file = io.BytesIO()
  Image.fromarray(noise(1)[0]).save(file, 'tiff', tiffinfo={0x0112: 6})
  assert same_bits(read_alone(tmp_path, 'a.tiff', file.getvalue()), UPRIGHT[6](noise(1)[0]))


@pytest.mark.parametrize('kind', ['jpeg', 'png', 'webp'])
def test_damaged_exif_changes_no_pixel(tmp_path, kind):
  plain = read_alone(tmp_path, f'a.{kind}', photo(kind))
  turned = {turn: change(plain) for turn, change in UPRIGHT.items()}

  @settings(max_examples=80, deadline=None, derandomize=True)
  @given(
    st.sampled_from('<>'),
    st.lists(st.tuples(st.integers(6, 105), st.integers(0, 255)), max_size=6),
    st.integers(0, 105),
    st.booleans(),
  )
  def check(order, edits, length, cut):
    exif = bytearray(exif_bytes(6, order))
    for place, value in edits:
      exif[place % len(exif)] = value
    exif = bytes(exif[:length] if cut and length > 6 else exif)
    actual = read_alone(tmp_path, f'a.{kind}', photo(kind, exif))
    whole = exif_bytes(6, order)
    if exif[:16] == whole[:16] and exif[ORIENTATION] == whole[ORIENTATION]:  # the tag can be found
      assert same_bits(actual, turned[6])
    assert any(same_bits(actual, pixels) for pixels in turned.values())

  check()


def with_segment(jpeg, segment):
  return jpeg[:2] + b'\xff\xe1' + (len(segment) + 2).to_bytes(2) + segment + jpeg[2:]


def test_orientation_of_xmp_that_is_not_text(tmp_path):
  plain = read_alone(tmp_path, 'a.jpg', photo('jpeg'))
  for text, turn in ((b'tiff:Orientation="8"', 8), (b'<tiff:Orientation>3</tiff:Orientation>', 3), (b'', 1)):
    xmp = b'http://ns.adobe.com/xap/1.0/\0' + b'\xff\xfe\x80 not UTF-8 ' + text
    assert same_bits(read_alone(tmp_path, 'a.jpg', with_segment(photo('jpeg'), xmp)), UPRIGHT[turn](plain))
    both = with_segment(with_segment(photo('jpeg'), xmp), exif_bytes(6))
    assert same_bits(read_alone(tmp_path, 'a.jpg', both), UPRIGHT[6](plain))  # EXIF goes first


@pytest.mark.parametrize('compressed', [False, True])
def test_orientation_of_png_files_by_imagemagick(tmp_path, compressed):
  for profile, turn in ((exif_bytes(6).hex(), 6), ('no digits', 1), ('', 1)):
    text = PngImagePlugin.PngInfo()
    text.add_text(
      'Raw profile type exif', f'\nexif\n      {len(profile) // 2}\n{profile[:72]}\n{profile[72:]}\n', zip=compressed
    )
    file = io.BytesIO()
    Image.fromarray(noise(1)[0]).save(file, 'png', pnginfo=text)
    assert same_bits(read_alone(tmp_path, 'a.png', file.getvalue()), UPRIGHT[turn](noise(1)[0]))


def test_metadata_of_any_size_and_kind(tmp_path):
  text = PngImagePlugin.PngInfo()
  text.add_text('much', 'a' * 3_000_000, zip=True)  # Pillow: "Decompressed data too large"
  file = io.BytesIO()
  Image.fromarray(noise(1)[0]).save(file, 'png', pnginfo=text)
  assert same_bits(read_alone(tmp_path, 'a.png', file.getvalue()), noise(1)[0])
  plain = read_alone(tmp_path, 'a.jpg', photo('jpeg'))
  for segment in (b'MPF\0' + bytes(9), b'ICC_PROFILE\0\x05\x01', b'Photoshop 3.0\0' + bytes(5), b'Exif\0\0'):
    for marker in range(0xE1, 0xEE):
      content = with_segment(photo('jpeg'), segment)
      content = content[:3] + bytes([marker]) + content[4:]
      assert same_bits(read_alone(tmp_path, 'a.jpg', content), plain)


def test_transparent_pixels_show_the_background(tmp_path):
  def content(kind, image, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()

  hidden = np.full((8, 8, 4), (200, 10, 20, 0), np.uint8)
  hidden[4:, :, 3] = 128  # below half of it shows
  png = content('png', Image.fromarray(hidden))
  for background, above, below in (
    ({}, (255, 255, 255), (227, 132, 137)),
    ({'background': '#0000ff'}, (0, 0, 255), (100, 5, 137)),
    ({'background': ''}, (200, 10, 20), (200, 10, 20)),  # as in runs from before the option
  ):
    image = read_alone(tmp_path, 'a.png', png, **background)
    assert abs(image[0, 0].astype(int) - above).max() == 0
    assert abs(image[7, 7].astype(int) - below).max() <= 1
  gray = content('png', Image.fromarray(hidden[..., [1, 3]]))
  assert read_alone(tmp_path, 'a.png', gray)[0, 0].tolist() == [255]  # still of one channel
  palette = content('gif', Image.fromarray(hidden[..., :3]).quantize(4), transparency=0)
  assert read_alone(tmp_path, 'a.gif', palette)[0, 0].tolist() == [255, 255, 255]
  np.savez(tmp_path / 'x.npz', image=hidden[None])
  source = open_data(str(tmp_path / 'x.npz'), 8, background='black')
  assert source.image_shape == (8, 8, 3)
  assert source.images[0, 0, 0].tolist() == [0, 0, 0]
  with pytest.raises(UsageError, match=r"data.background='whit'"):
    open_data('digits', 8, background='whit')


def test_grayscale_of_other_depths_is_scaled_by_its_range_or_refused(tmp_path):
  levels = np.arange(64).reshape(8, 8) * 16
  pgm = b'P5 8 8 1023\n' + levels.astype('>u2').tobytes()
  assert abs(read_alone(tmp_path, 'a.pgm', pgm)[..., 0] - levels / 1023 * 255).max() <= 1
  twelve = np.arange(64) * 65
  packed = b''.join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in twelve.reshape(-1, 2).tolist())
  tags = [(256, 8), (257, 8), (258, 12), (259, 1), (262, 1), (273, 8 + 2 + 9 * 12 + 4), (277, 1), (278, 8), (279, len(packed))]
  tiff = b'II*\0' + struct.pack('<IH', 8, len(tags)) + b''.join(struct.pack('<HHII', tag, 4, 1, x) for tag, x in tags)
  actual = read_alone(tmp_path, 'a.tif', tiff + bytes(4) + packed)
  assert abs(actual[..., 0].ravel() - twelve / 4095 * 255).max() <= 1
  for kind in (np.int32, np.float32):
    (tmp_path / kind.__name__).mkdir()
    Image.fromarray(levels.astype(kind)).save(tmp_path / kind.__name__ / 'a.tif')
    with pytest.raises(UsageError, match=r'a.tif cannot be read .*8 or 16 bits'):
      open_data(str(tmp_path / kind.__name__), 8)


# Folders.


def test_ignored_files_are_reported(tmp_path, capsys):
  folder(tmp_path)
  (tmp_path / 'cat' / 'x.heic').write_bytes(b'')
  (tmp_path / 'labels.csv').write_text('')
  (tmp_path / 'cat' / 'y.jfif').write_bytes(photo('jpeg'))
  assert len(open_data(str(tmp_path), 8)) == 5
  text = capsys.readouterr().out
  assert '1 .csv' in text
  assert '1 .heic' in text
  assert '.jfif' not in text


def test_a_class_that_becomes_empty_is_an_error(tmp_path):
  folder(tmp_path)
  for path in (tmp_path / 'cat').iterdir():
    path.rename(path.with_suffix('.heic'))
  with pytest.raises(UsageError, match=r'cat: .* 2 .heic'):
    open_data(str(tmp_path), 8)
  for path in (tmp_path / 'cat').iterdir():
    path.write_bytes(b'')
    path.rename(path.with_suffix('.png'))
  with pytest.raises(UsageError, match=r'cat: '):
    open_data(str(tmp_path), 8, skip=True)
  for path in tmp_path.glob('dog/*'):
    path.write_bytes(b'')
  with pytest.raises(UsageError, match='none of its 4 images'):
    open_data(str(tmp_path), 8, skip=True)


@pytest.mark.parametrize(
  ('splits', 'training'),
  [
    ('train test', 'train'),
    ('Train val', 'Train'),
    ('test training valid', 'training'),
    ('train test extra', 'train'),
    ('seg_test seg_train seg_pred', 'seg_train'),
    ('test_set training-set', 'training-set'),
    ('train2017 val2017', 'train2017'),
    ('testA testB trainA trainB', 'trainA or {}/trainB'),
    ('train_set1 dev1', 'train_set1'),
    ('trn tst', 'trn'),
    ('train holdout', 'train'),
    ('train_images test_images', 'train_images'),
    ('TrainData ValData', 'TrainData'),
    ('X4K_train_HR X4K_valid_HR', 'X4K_train_HR'),
    ('test train ground_truth', 'train'),
    ('train', 'train'),
    ('val', 'val'),
  ],
)
def test_a_folder_of_splits_is_refused(tmp_path, splits, training):
  for split in splits.split():
    (tmp_path / split).mkdir()
    folder(tmp_path / split)
  with pytest.raises(UsageError, match=re.escape(f'use {tmp_path}/{training.format(tmp_path)}. ')) as error:
    open_data(str(tmp_path), 8)
  assert open_data(str(tmp_path / training.split()[0]), 8).num_classes == 2
  remedy = re.search(r'rename one of them, for example (\S+) to (\S+)\.$', str(error.value))
  (tmp_path / remedy[1]).rename(tmp_path / remedy[2])
  assert open_data(str(tmp_path), 8).num_classes == len(splits.split())


@pytest.mark.parametrize(
  'classes',
  ['train cars test_tubes', 'train bus', 'trains test', 'steam_train bullet_train', 'gallery extra', 'test_1 train_x'],
)
def test_classes_may_have_names_like_those_of_splits(tmp_path, classes):
  for name in classes.split():
    (tmp_path / name).mkdir()
    folder(tmp_path / name)
  assert open_data(str(tmp_path), 8).classes == tuple(sorted(classes.split()))


def test_a_folder_does_not_hide_a_data_set(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  for name in ('digits', 'cifar10'):
    (tmp_path / name).mkdir()
    Image.new('L', (8, 8)).save(tmp_path / name / 'a.png')
  assert len(open_data('digits', 8)) == 1500
  assert 'data.name=./digits' in capsys.readouterr().out
  with pytest.raises(UsageError, match='cifar10 is not prepared'):
    open_data('cifar10', 8, data_dir=str(tmp_path))
  assert 'data.name=./cifar10' in capsys.readouterr().out
  assert len(open_data('./digits', 8)) == 1
  assert capsys.readouterr().out == ''


# Decoded images are kept.


@pytest.fixture
def decoded(tmp_path, monkeypatch):
  """Every folder's images are kept, in a cache of its own. The files that are decoded, in a list."""
  monkeypatch.setenv('GENJAX_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setattr(folder_module, 'CACHED_FILES', 1)
  read, names = folder_module.read_photo, []

  def noted(path, *args, **kwargs):
    names.append(path.name)
    return read(path, *args, **kwargs)

  monkeypatch.setattr(folder_module, 'read_photo', noted)
  return names


def test_a_folder_is_decoded_once(tmp_path, decoded, capsys):
  (tmp_path / 'images').mkdir()
  for i, image in enumerate(noise(600)):
    Image.fromarray(image).save(tmp_path / 'images' / f'{i:03}.png')
  name = str(tmp_path / 'images')
  first = open_data(name, 8)
  assert same_bits(first.images, noise(600))  # in order, though read by several threads
  assert sorted(set(decoded)) == [f'{i:03}.png' for i in range(600)]
  decoded.clear()
  again = open_data(name, 8)
  assert same_bits(again.images, first.images)
  assert decoded == ['000.png']  # for the shape
  assert again.contents() == first.contents()
  for options in ({'channels': 1}, {'background': 'black'}, {'resolution': 4}):
    decoded.clear()
    open_data(**{'name': name, 'resolution': 8} | options)
    assert len(decoded) == 601
  decoded.clear()
  shutil.move(name, f'{name}_2')
  assert same_bits(open_data(f'{name}_2', 8).images, first.images)
  assert decoded == ['000.png']
  Image.fromarray(noise(1, seed=1)[0]).save(tmp_path / 'images_2' / '007.png')
  assert same_bits(open_data(f'{name}_2', 8).images[7], noise(1, seed=1)[0])
  assert 'again' not in capsys.readouterr().out


@pytest.mark.parametrize('damage', ['cut', 'byte', 'other', 'empty'])
def test_a_damaged_cache_file_is_decoded_again(tmp_path, decoded, capsys, damage):
  (tmp_path / 'images').mkdir()
  folder(tmp_path / 'images')
  first = open_data(str(tmp_path / 'images'), 8)
  (file,) = (tmp_path / 'cache' / 'images').iterdir()
  content = file.read_bytes()
  middle = content.index(bytes(first.images[0].tobytes()[:12]))
  changed = {'cut': content[: len(content) // 2], 'empty': b''}
  changed['byte'] = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
  other = io.BytesIO()
  np.savez(other, images=first.images[:2], left_out=np.zeros(0, int))
  changed['other'] = other.getvalue()
  file.write_bytes(changed[damage])
  decoded.clear()
  assert same_bits(open_data(str(tmp_path / 'images'), 8).images, first.images)
  assert len(decoded) == 5
  assert str(file) in capsys.readouterr().out
  decoded.clear()
  open_data(str(tmp_path / 'images'), 8)
  assert len(decoded) == 1


def test_files_that_cannot_be_read_are_remembered(tmp_path, decoded, capsys):
  (tmp_path / 'images').mkdir()
  folder(tmp_path / 'images')
  (tmp_path / 'images' / 'cat' / '1.png').write_bytes(b'')
  for _ in range(2):
    source = open_data(str(tmp_path / 'images'), 8, skip=True)
    assert source.cond['label'].tolist() == [0, 1, 1]
    assert 'skipped 1 of 4 images that cannot be read: cat/1.png' in capsys.readouterr().out
  assert len(decoded) == 6
  with pytest.raises(UsageError, match=r'cat.1.png cannot be read'):
    open_data(str(tmp_path / 'images'), 8)


def test_the_cache_of_images_is_optional_and_limited(tmp_path, decoded, capsys, monkeypatch):
  for name in 'abc':
    (tmp_path / name).mkdir()
    folder(tmp_path / name)
  monkeypatch.setattr(kept, 'MAX_BYTES', 1)
  for name in 'abc':
    open_data(str(tmp_path / name), 8)
    assert len(list((tmp_path / 'cache' / 'images').iterdir())) == 1  # the newest
  monkeypatch.setenv('GENJAX_CACHE', str(tmp_path / 'a' / 'cat' / '0.png'))  # no folder
  assert len(open_data(str(tmp_path / 'b'), 8)) == 4
  assert 'cannot be' in capsys.readouterr().out


# Labels of npz files.


@pytest.mark.parametrize(
  ('labels', 'missing'), [(np.arange(20) % 10 + 1, 0), (np.arange(20) % 3 * 2, 1), ([0] * 19 + [2**30], 1)]
)
def test_labels_with_gaps_are_refused(tmp_path, labels, missing):
  np.savez(tmp_path / 'x.npz', image=noise(), label=np.array(labels))
  with pytest.raises(UsageError, match=rf'x.npz: .* none is {missing};'):
    open_data(str(tmp_path / 'x.npz'), 8)


def test_labels_of_a_test_split_may_be_some_of_those_trained_on(tmp_path):
  np.savez(tmp_path / 'x_train.npz', image=noise(), label=np.arange(20) % 4)
  np.savez(tmp_path / 'x_test.npz', image=noise(4), label=np.array([3, 3, 1, 1]))
  train, test = real_images(name=str(tmp_path / 'x_train.npz'), resolution=8)
  assert test.cond['label'].tolist() == [3, 3, 1, 1]
  assert (train.num_classes, test.num_classes) == (4, 4)
  np.savez(tmp_path / 'x_test.npz', image=noise(4), label=np.array([3, 3, 1, 2**30]))
  with pytest.raises(UsageError, match=r'x_test.npz'):
    real_images(name=str(tmp_path / 'x_train.npz'), resolution=8)


def test_images_that_do_not_fit_in_memory_are_refused(tmp_path):
  for resolution in (8_001, 100_000, 10**30):
    with pytest.raises(UsageError, match=f'data.resolution={resolution} '):
      open_data('digits', resolution)
  Image.new('RGB', (8, 8)).save(tmp_path / 'a.png')
  with pytest.raises(UsageError, match=r'data.resolution=100000'):
    open_data(str(tmp_path), 100_000)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(os, 'sysconf', lambda name: 2**10)
    with pytest.raises(UsageError, match=r'data.resolution=64'):
      open_data('digits', 64)
    assert open_data('digits', 8).image_shape == (8, 8, 1)


def test_images_with_the_channels_first_are_recognized(tmp_path):
  for shape in ((3, 8, 9), (1, 28, 28)):
    np.savez(tmp_path / 'x.npz', image=noise(4, shape))
    with pytest.raises(UsageError, match=r'\[N, C, H, W\].*transpose\(0, 2, 3, 1\)'):
      open_data(str(tmp_path / 'x.npz'), 8)
