"""One image file as 8-bit pixels: its format, orientation, bit depth and transparency.

Metadata never decides whether the pixels are used: the decoder gets JPEG, PNG and TIFF files without it.
"""

import io
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageColor, UnidentifiedImageError

from genjax.data.metadata import Parts, orientation, split_metadata
from genjax.errors import DataError
from genjax.images import resize

MODES = {1: 'L', 3: 'RGB'}  # Pillow's names for channel counts
MAX_PIXELS = 64_000_000  # of an image file; larger ones are rejected before decoding
MAX_SIDE = 8_000  # of the resized images, so that they have at most MAX_PIXELS
MAX_BYTES = 2**30  # of an image file
SUFFIXES = ('.apng', '.avif', '.bmp', '.dib', '.gif', '.j2k', '.jfif', '.jp2', '.jpe', '.jpeg', '.jpg', '.pbm', '.pgm', '.png')
SUFFIXES += ('.mpo', '.pcx', '.pnm', '.ppm', '.qoi', '.sgi', '.tif', '.tiff', '.webp')
# No other format, whatever the suffix: Pillow runs Ghostscript for EPS, and TGA accepts any bytes.
FORMATS = ('PNG', 'JPEG', 'WEBP', 'BMP', 'GIF', 'TIFF', 'PPM', 'JPEG2000', 'QOI', 'AVIF', 'DIB', 'MPO', 'PCX', 'SGI')
ALPHA = ('LA', 'La', 'PA', 'RGBA', 'RGBa')
TRANSPOSES = dict(  # by orientation
  zip(
    range(2, 9),
    [
      Image.Transpose.FLIP_LEFT_RIGHT,
      Image.Transpose.ROTATE_180,
      Image.Transpose.FLIP_TOP_BOTTOM,
      Image.Transpose.TRANSPOSE,
      Image.Transpose.ROTATE_270,
      Image.Transpose.TRANSVERSE,
      Image.Transpose.ROTATE_90,
    ],
    strict=True,
  )
)


def read_photo(path: Path, resolution: int, channels: int = 0, background: str = 'white') -> UInt8[np.ndarray, 'r r c']:
  """Reads an image file: rotated by its orientation, composited over `background`, cropped and resized.

  Args:
    path: the file.
    resolution: side of the result in pixels.
    channels: 1 grayscale, 3 RGB, 0 as in the file (palettes are RGB).
    background: see `open_data`.

  Raises:
    DataError: the file cannot be read, has more than MAX_PIXELS pixels, or has pixels without a known range.
  """
  try:
    image, parts = open_photo(path)
    with image:
      turn = orientation(parts.exif or as_bytes(image.info.get('exif')), parts.xmp or as_bytes(image.info.get('xmp')))
      image = decode(image, parts)
      image = image.transpose(TRANSPOSES[turn]) if turn in TRANSPOSES else image
      return resize(to_array(image, MODES[channels or own_channels(image)], background), resolution)
  except Exception as error:  # Pillow's decoders raise many types for invalid bytes
    if isinstance(error, UnidentifiedImageError):
      error = 'cannot identify image file'
    problem = f'{path} cannot be read ({error}); '
    raise DataError(problem, 'repair or remove it, or set data.skip=True', 'repair or remove it') from None


def open_photo(path: Path) -> tuple[Image.Image, Parts]:
  """Opens an image file by its header, without decoding it. Also returns the file's parts.

  Raises:
    Exception: Pillow raises many types for invalid bytes.
    ValueError: it is larger than MAX_BYTES or MAX_PIXELS.
  """
  if path.stat().st_size > MAX_BYTES:
    raise ValueError(f'more than {MAX_BYTES / 2**30:.0f} GiB')
  parts = split_metadata(path.read_bytes())
  image = Image.open(io.BytesIO(parts.content), formats=supported_formats())
  if image.width * image.height > MAX_PIXELS:
    raise ValueError(f'{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}')
  return image, parts


def own_channels(image: Image.Image) -> int:
  """1 for grayscale, with or without transparency, else 3."""
  return 1 if image.mode in ('1', 'L', 'LA', 'La') or image.mode.startswith('I') else 3


def supported_formats() -> tuple[str, ...]:
  """The FORMATS that the installed Pillow supports."""
  Image.init()
  return tuple(name for name in FORMATS if name in Image.OPEN)


def as_bytes(value: bytes | str | None) -> bytes:
  return value.encode(errors='replace') if isinstance(value, str) else value if isinstance(value, bytes) else b''


def to_array(image: Image.Image, mode: str, background: str) -> UInt8[np.ndarray, 'h w c']:
  """Pillow's image as an array with a channel axis, in mode 'L' or 'RGB'; transparent pixels show the background."""
  if background and (image.mode in ALPHA or 'transparency' in image.info):
    behind = Image.new('RGBA', image.size, ImageColor.getrgb(background)[:3])
    image = Image.alpha_composite(behind, image.convert('RGBA'))
  array = np.asarray(image.convert(mode))
  return array[..., None] if array.ndim == 2 else array


def decode(image: Image.Image, parts: Parts) -> Image.Image:
  """Decodes an opened file to 8-bit pixels. A transparent color becomes an alpha channel.

  Raises:
    ValueError: floating-point or 32-bit pixels, which have no known range.
  """
  bits = image.tag_v2.get(258, (8,))[0] if image.format == 'TIFF' else 16
  image.load()
  if image.mode == 'F' or (image.mode == 'I' and image.format == 'TIFF'):
    kind = 'floating-point' if image.mode == 'F' else '32-bit or signed'
    raise ValueError(f'its pixels are {kind} numbers without a known range; save it with 8 or 16 bits')
  has_key = image.format == 'PNG' and image.mode != 'P' and 'transparency' in image.info
  opaque = opaque_pixels(image, parts.content) if has_key else None
  if image.mode.startswith('I'):
    values, maximum = np.asarray(image).astype(np.int64), 2**bits - 1
    values = values.clip(0, maximum)
    image = Image.fromarray(((maximum - values if parts.inverted else values) * 255 // maximum).astype(np.uint8))
  if opaque is not None:
    image.info.pop('transparency', None)
    image = image.convert('L') if image.mode == '1' else image
    image.putalpha(Image.fromarray(np.where(opaque, 255, 0).astype(np.uint8)))
  return image


def opaque_pixels(image: Image.Image, png: bytes) -> Bool[np.ndarray, 'h w']:
  """Which pixels of a PNG file differ from the gray level or color that its chunk tRNS makes transparent.

  That has as many bits as the samples of the file, which Pillow scales to 8 bits: from 2 and 4 bits, and from 16 if there are
  three channels.
  """
  bits = png[24]  # in IHDR, which is the first chunk
  values = np.asarray(image).astype(np.int64)
  if bits < 8 and image.mode == 'L':
    values //= 255 // (2**bits - 1)
  if bits == 16 and image.mode == 'RGB':
    with Image.open(io.BytesIO(png), formats=('PNG',)) as low:
      low.tile = [(*low.tile[0][:3], 'RGB;16L')]  # of the other byte order: Pillow keeps the low bytes instead of the high ones
      values = 256 * values + np.asarray(low)
  different = values != np.array(image.info['transparency']) & (2**bits - 1)
  return different.any(axis=-1) if different.ndim == 3 else different
