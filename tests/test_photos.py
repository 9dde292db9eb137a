"""Pixels of image files that are written by hand: metadata, transparent colors, white as 0."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from genjax.data.photos import read_photo
from tests.conftest import noise, same_bits
from tests.test_sources import UPRIGHT

# Tags of TIFF 6.0 and its supplements, of EXIF, GPS, GeoTIFF, DNG and others, that do not decide the pixels.
METADATA = [254, 255, 263, 264, 265, 269, 270, 271, 272, 280, 281, 282, 283, 290, 291, 296, 301, 305, 306, 315, 318, 319, 330]
METADATA += [333, 336, 340, 341, 531, 700, 32995, 32996, 32997, 32998, 33432, 33723, 34377, 34665, 34675, 34853, 36864, 37510]
METADATA += [40961, 40965, 48129, 50706, 65000]
SHORT, LONG = 3, 4


def tiff(pixels, order='<', color=0, more=(), big=False, compression=1, data=b''):
  """A TIFF file of gray or RGB pixels, as they are or compressed as `data`, with `more` entries (tag, type, count, bytes)."""
  word, number, width = ('Q', 'Q', 8) if big else ('I', 'H', 4)
  channels, bits = 3 if pixels.ndim == 3 else 1, 8 * pixels.itemsize
  data = data or pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
  pack = lambda form, *values: struct.pack(order + form, *values)  # noqa: E731
  header = {'<': b'II', '>': b'MM'}[order] + (pack('HHHQ', 43, 8, 0, 16) if big else pack('HI', 42, 8))
  after = len(header) + struct.calcsize(f'={number}') + (10 + len(more)) * (4 + 2 * width) + width  # of the directory
  depths = pack(f'{channels}H', *[bits] * channels)
  values = {256: pixels.shape[1], 257: pixels.shape[0], 259: compression, 262: color, 273: after + 8, 277: channels}
  values |= {278: len(pixels), 279: len(data), 284: 1}
  entries = [(tag, LONG, 1, pack('I', value)) for tag, value in values.items()]
  entries += [(258, SHORT, channels, depths if len(depths) <= width else pack(word, after)), *more]
  table = b''.join(pack(f'HH{word}', *entry[:3]) + entry[3].ljust(width, b'\0') for entry in sorted(entries))
  return header + pack(number, len(entries)) + table + bytes(width) + depths.ljust(8, b'\0') + data


def read(tmp_path, content, **options):
  (tmp_path / 'file').write_bytes(content)
  return read_photo(tmp_path / 'file', 4, **options)


GRAY, RGB = noise(1, (4, 4))[0], noise(1, (4, 4, 3))[0]
DEEP = np.random.default_rng(0).integers(0, 2**16, (4, 4), np.uint16)
KINDS = {'gray': (GRAY, 1), 'RGB': (RGB, 2), '16 bits': (DEEP, 1), '16 bits, white is 0': (DEEP, 0)}


def expected(pixels, color):
  shown = (65535 - pixels.astype(int) if color == 0 else pixels.astype(int)) * 255 // 65535 if pixels.itemsize == 2 else pixels
  return shown.reshape(4, 4, -1)


def any_entry(rng, order, tag):
  """A TIFF entry of any type and count; its value lies at any place in or out of the file."""
  count = rng.choice([0, 1, 2, 3, 4, 5, 8, 100, 65536, 2**31, 2**32 - 1])
  place = rng.choice([0, 1, 8, 100, 2**31, 2**32 - 1, int(rng.integers(2**32))])
  return tag, int(rng.integers(20)), int(count), struct.pack(f'{order}I', int(place))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('order', '<>')
def test_metadata_of_a_tiff_changes_no_pixel(tmp_path, kind, order):
  rng, (pixels, color) = np.random.default_rng(0), KINDS[kind]
  for tag in [*METADATA * 6, *rng.integers(533, 2**16, 150).tolist()]:
    more = [any_entry(rng, order, tag)]
    content = tiff(pixels, order, color, more) + b'\xff\xfe not text \0'
    assert same_bits(read(tmp_path, content), expected(pixels, color)), more


@pytest.mark.parametrize('compression', ['tiff_lzw', 'tiff_deflate', 'packbits', 'jpeg', 'group4'])
def test_metadata_of_a_compressed_tiff_changes_no_pixel(tmp_path, compression):
  rng, file = np.random.default_rng(0), io.BytesIO()
  image = Image.fromarray(noise(1, (16, 16, 3))[0]).convert('1' if compression == 'group4' else 'RGB')
  image.save(file, 'tiff', compression=compression, save_all=True, append_images=[image])
  content = file.getvalue()
  with Image.open(file) as opened:
    plain = np.asarray(opened.convert('L' if compression == 'group4' else 'RGB')).reshape(16, 16, -1)
  (start,) = struct.unpack_from('<I', content, 4)
  (count,) = struct.unpack_from('<H', content, start)
  old = [content[place : place + 12] for place in range(start + 2, start + 2 + 12 * count, 12)]
  for tag in METADATA * 3:
    new = struct.pack('<HHI', *any_entry(rng, '<', tag)[:3]) + rng.bytes(4)
    table = b''.join(sorted([*old, new], key=lambda entry: struct.unpack_from('<H', entry)))
    changed = content[:4] + struct.pack('<I', len(content)) + content[8:] + struct.pack('<H', count + 1) + table
    (tmp_path / 'file').write_bytes(changed)  # which ends without the place of the next directory
    assert same_bits(read_photo(tmp_path / 'file', 16), plain), new


@pytest.mark.parametrize('turn', UPRIGHT)
def test_a_tiff_is_rotated_by_its_orientation(tmp_path, turn):
  for order, big in (('<', False), ('>', False), ('<', True)):  # Pillow reads no BigTIFF with the highest byte first
    entry = (274, SHORT, 1, struct.pack(f'{order}H', turn))
    for pixels, color in (GRAY, 1), (RGB, 2):
      actual = read(tmp_path, tiff(pixels, order, color, [entry, any_entry(np.random.default_rng(0), order, 34665)], big))
      assert same_bits(actual, UPRIGHT[turn](pixels.reshape(4, 4, -1)))
    xmp = f'<x tiff:Orientation="{turn}"/>'.encode()
    content = tiff(RGB, order, 2, [(700, 1, len(xmp), bytes(4))], big)
    place = struct.pack(f'{order}{"Q" if big else "I"}', len(content))
    content = tiff(RGB, order, 2, [(700, 1, len(xmp), place)], big) + xmp
    assert same_bits(read(tmp_path, content), UPRIGHT[turn](RGB))


def test_jpeg_in_a_tiff_of_the_old_kind(tmp_path):
  pixels, file = np.kron(GRAY, np.ones((8, 8), np.uint8)), io.BytesIO()
  pixels = np.stack([pixels, pixels, pixels], axis=-1)
  Image.fromarray(pixels).save(file, 'jpeg', quality=95, subsampling=0)
  data, size = file.getvalue(), len(file.getvalue())
  for order in '<>':
    pack = lambda value: (LONG, 1, struct.pack(f'{order}I', value))  # noqa: E731
    more = [(512, *pack(1)), (513, *pack(0)), (514, *pack(size)), (530, SHORT, 2, struct.pack(f'{order}HH', 1, 1))]
    place = len(tiff(pixels, order, 6, more, compression=6, data=data)) - size
    more[1] = (513, *pack(place))
    (tmp_path / 'file').write_bytes(tiff(pixels, order, 6, more, compression=6, data=data))
    assert abs(read_photo(tmp_path / 'file', 32).astype(int) - pixels).max() < 8


def test_white_is_zero_in_any_depth(tmp_path):
  for order in '<>':
    actual = [read(tmp_path, tiff(pixels, order, 0)) for pixels in (GRAY, GRAY.astype(np.uint16) * 257)]
    assert same_bits(actual[0], 255 - GRAY[..., None])
    assert same_bits(actual[1], actual[0])
  dark = tiff(np.full((4, 4), 65535, np.uint16), '<', 0)
  assert read(tmp_path, dark).max() == 0


def png(samples, bits, key):
  """A PNG file of gray [H, W] or RGB [H, W, 3] samples, of which `key` is transparent."""
  chunk = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))  # noqa: E731
  binary = np.unpackbits(samples.astype('>u2').reshape(len(samples), -1, 1).view(np.uint8), axis=-1)[..., 16 - bits :]
  rows = b''.join(b'\0' + np.packbits(row).tobytes() for row in binary)
  header = struct.pack('>IIBBBBB', samples.shape[1], samples.shape[0], bits, 2 if samples.ndim == 3 else 0, 0, 0, 0)
  chunks = (
    (b'IHDR', header),
    (b'tRNS', np.atleast_1d(key).astype('>u2').tobytes()),
    (b'IDAT', zlib.compress(rows)),
    (b'IEND', b''),
  )
  return b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*part) for part in chunks)


@pytest.mark.parametrize(('bits', 'shape'), [(1, ()), (2, ()), (4, ()), (8, ()), (16, ()), (8, (3,)), (16, (3,))])
def test_the_transparent_color_of_a_png_has_the_bits_of_the_file(tmp_path, bits, shape):
  samples = np.random.default_rng(0).integers(0, 2**bits, (4, 4, *shape))
  hidden = samples[0, 0].copy()
  samples[3, 3] = hidden
  samples[0, 1] = hidden ^ 1  # differs in the lowest bit
  samples[0, 2] = hidden ^ 2 ** (bits - 1)
  eight = samples >> 8 if (bits, shape) == (16, (3,)) else samples * 255 // (2**bits - 1)
  key = (samples == hidden).reshape(4, 4, -1).all(axis=-1, keepdims=True)
  for background, color in (('#000000', 0), ('white', 255)):
    actual = read(tmp_path, png(samples, bits, hidden), background=background)
    assert same_bits(actual, np.where(key, color, eight.reshape(4, 4, -1)))
  assert same_bits(read(tmp_path, png(samples, bits, hidden), background=''), eight.reshape(4, 4, -1))
