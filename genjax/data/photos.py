"""One image file as 8-bit pixels: its format, orientation, bit depth and transparency.

Metadata never decides whether the pixels are used. For JPEG and PNG files the decoder gets only the pixels, and functions that
accept any bytes read the orientation from the raw EXIF or XMP.
"""

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageColor, UnidentifiedImageError

from genjax.errors import UsageError
from genjax.images import resize

MODES = {1: 'L', 3: 'RGB'}  # Pillow's names for channel counts
MAX_PIXELS = 64_000_000  # of an image file; larger ones are rejected before decoding
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
    UsageError: the file cannot be read, has more than MAX_PIXELS pixels, or has pixels without a known range.
  """
  try:
    if path.stat().st_size > MAX_BYTES:
      raise ValueError(f'more than {MAX_BYTES / 2**30:.0f} GiB')
    content, exif, xmp = split_metadata(path.read_bytes())
    with Image.open(io.BytesIO(content), formats=supported_formats()) as image:
      if image.width * image.height > MAX_PIXELS:
        raise ValueError(f'{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}')
      if image.format == 'TIFF':  # Pillow applies the orientation itself
        turn = 1
      else:
        turn = orientation(exif or as_bytes(image.info.get('exif')), xmp or as_bytes(image.info.get('xmp')))
      bits = image.tag_v2.get(258, (8,))[0] if image.format == 'TIFF' else 16
      image.load()
      image = to_eight_bits(image, bits)
      image = image.transpose(TRANSPOSES[turn]) if turn in TRANSPOSES else image
      own = 1 if image.mode in ('1', 'L', 'LA', 'La') else 3
      return resize(to_array(image, MODES[channels or own], background), resolution)
  except Exception as error:  # Pillow's decoders raise many types for invalid bytes
    if isinstance(error, UnidentifiedImageError):
      error = 'cannot identify image file'
    raise UsageError(f'{path} cannot be read ({error}); repair or remove it, or set data.skip=True.') from None


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


def to_eight_bits(image: Image.Image, bits: int) -> Image.Image:
  """Scales grayscale of 9 to 16 bits to 8 bits; returns other images unchanged.

  Raises:
    ValueError: floating-point or 32-bit pixels, which have no known range.
  """
  if image.mode == 'F' or (image.mode == 'I' and image.format == 'TIFF'):
    kind = 'floating-point' if image.mode == 'F' else '32-bit or signed'
    raise ValueError(f'its pixels are {kind} numbers without a known range; save it with 8 or 16 bits')
  if not image.mode.startswith('I'):
    return image
  values, maximum = np.asarray(image).astype(np.int64), 2**bits - 1
  gray = Image.fromarray((values.clip(0, maximum) * 255 // maximum).astype(np.uint8))
  if isinstance(transparent := image.info.get('transparency'), int):
    gray.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
  return gray


def split_metadata(content: bytes) -> tuple[bytes, bytes, bytes]:
  """A JPEG or PNG file without metadata, its raw EXIF and its raw XMP. Other files are returned unchanged, with b''."""
  if content.startswith(b'\xff\xd8\xff'):
    return _jpeg(content)
  if content.startswith(b'\x89PNG\r\n\x1a\n'):
    return _png(content)
  return content, b'', b''


def _jpeg(content: bytes) -> tuple[bytes, bytes, bytes]:
  """Removes APP1 to APP13, APP15 and comments. JFIF (APP0) and Adobe (APP14) define the color space, and are kept."""
  kept, exif, xmp, place = [content[:2]], b'', b'', 2
  while content[place : place + 1] == b'\xff' and place + 4 <= len(content):
    marker = content[place + 1]
    if marker == 0xFF:  # a fill byte
      place += 1
      continue
    if marker in (0x00, 0x01, 0xDA) or 0xD0 <= marker <= 0xD9:  # start of the pixels, or not a segment
      break
    end = place + 2 + max(2, int.from_bytes(content[place + 2 : place + 4]))
    segment = content[place + 4 : end]
    if marker == 0xE1 and segment.startswith(b'Exif\0\0'):
      exif = exif or segment
    elif marker == 0xE1 and segment.startswith(b'http://ns.adobe.com/xap/1.0/\0'):
      xmp = xmp or segment
    if not (0xE1 <= marker <= 0xED or marker in (0xEF, 0xFE)):
      kept.append(content[place:end])
    place = end
  return b''.join([*kept, content[place:]]), exif, xmp


def _png(content: bytes) -> tuple[bytes, bytes, bytes]:
  """Keeps the critical chunks and tRNS, the transparency."""
  kept, exif, xmp, place = [content[:8]], b'', b'', 8
  while place + 12 <= len(content):
    kind, end = content[place + 4 : place + 8], place + 12 + int.from_bytes(content[place : place + 4])
    if kind == b'eXIf':
      exif = exif or content[place + 8 : end - 4]
    elif kind in (b'tEXt', b'zTXt') and content.startswith(b'Raw profile type exif\0', place + 8):
      exif = exif or _raw_profile(content[place + 30 : end - 4], kind == b'zTXt')
    elif kind == b'iTXt' and content.startswith(b'XML:com.adobe.xmp\0', place + 8):
      xmp = xmp or content[place + 8 : end - 4]
    if not kind[0] & 32 or kind == b'tRNS':
      kept.append(content[place:end])
    place = end
  return b''.join([*kept, content[place:]]), exif, xmp


def _raw_profile(text: bytes, compressed: bool) -> bytes:
  """EXIF that ImageMagick wrote into a text chunk: a name, a length and hexadecimal digits, in lines."""
  try:
    text = zlib.decompressobj().decompress(text[1:], 2**20) if compressed else text
    return bytes.fromhex(b''.join(text.split(b'\n')[3:]).decode())
  except (ValueError, zlib.error):
    return b''


def orientation(exif: bytes, xmp: bytes) -> int:
  """The orientation, 1 to 8, from tag 0x0112 of the raw EXIF or else from the raw XMP; by default 1. Accepts any bytes."""
  exif = exif.removeprefix(b'Exif\0\0')
  order = {b'II': '<', b'MM': '>'}.get(exif[:2])
  try:
    (start,) = struct.unpack_from(f'{order}I', exif, 4)
    (count,) = struct.unpack_from(f'{order}H', exif, start)
    for place in range(start + 2, start + 2 + 12 * count, 12):
      tag, kind, number = struct.unpack_from(f'{order}HHI', exif, place)
      if tag == 0x0112 and kind in (3, 4) and number == 1:  # SHORT or LONG
        return struct.unpack_from(order + {3: 'H', 4: 'I'}[kind], exif, place + 8)[0]
  except struct.error:  # truncated, or without a byte order
    pass
  match = re.search(rb'tiff:Orientation(?:="|>)([1-8])', xmp)
  return int(match[1]) if match else 1
