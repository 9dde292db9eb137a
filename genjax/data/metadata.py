"""Separates the pixels of an image file from its metadata, of which only the orientation is used.

The functions accept any bytes. What cannot be parsed is left to the decoder, which raises the error.
"""

import re
import struct
import zlib
from typing import NamedTuple

# Tags of a TIFF file that decide the pixels: always, for some compressions, and for some color spaces.
PIXEL_TAGS = {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 322, 323, 324, 325, 338, 339}
OLD_JPEG_TAGS = {347, *range(512, 522), 529, 530, 532}
COMPRESSION_TAGS = {3: {292}, 4: {293}, 6: OLD_JPEG_TAGS, 7: {347}, **{kind: {317} for kind in (5, 8, 32946, 34925, 50000)}}
COLOR_TAGS = {3: {320}, 6: {529, 530, 532}}
BITS, COMPRESSION, COLOR, ORIENTATION, XMP = 258, 259, 262, 274, 700
SHORT = 3
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # by type
INTEGERS = {3: 'H', 4: 'I', 8: 'h', 9: 'i', 16: 'Q'}  # struct's names, by type
MAX_ENTRIES = 65_535  # of a directory; BigTIFF would allow 2^64


class Parts(NamedTuple):
  """An image file without metadata, its raw EXIF, and its raw XMP."""

  content: bytes
  exif: bytes = b''
  xmp: bytes = b''
  inverted: bool = False  # 12- or 16-bit TIFF, white is 0: Pillow does not invert it, so `content` declares black is 0


def split_metadata(content: bytes) -> Parts:
  """The parts of a JPEG, PNG or TIFF file. Other files are returned unchanged."""
  if content.startswith(b'\xff\xd8\xff'):
    return _jpeg(content)
  if content.startswith(b'\x89PNG\r\n\x1a\n'):
    return _png(content)
  if content[:2] in (b'II', b'MM') and set(content[2:4]) in ({0, 42}, {0, 43}):
    return _tiff(content)
  return Parts(content)


def _jpeg(content: bytes) -> Parts:
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
  return Parts(b''.join([*kept, content[place:]]), exif, xmp)


def _png(content: bytes) -> Parts:
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
  return Parts(b''.join([*kept, content[place:]]), exif, xmp)


def _raw_profile(text: bytes, compressed: bool) -> bytes:
  """EXIF that ImageMagick wrote into a text chunk: a name, a length and hexadecimal digits, in lines."""
  try:
    text = zlib.decompressobj().decompress(text[1:], 2**20) if compressed else text
    return bytes.fromhex(b''.join(text.split(b'\n')[3:]).decode())
  except (ValueError, zlib.error):
    return b''


class Directory(NamedTuple):
  """The first directory of a TIFF file, a BigTIFF file or an EXIF block."""

  content: bytes  # of the whole file
  order: str  # struct's name of the byte order
  word: str  # struct's name of counts and offsets, which are longer in BigTIFF
  start: int
  entries: dict[
    int, bytes
  ]  # by tag: tag, type, count, and a word that contains the value or its offset; the first of equal tags

  @classmethod
  def parse(cls, content: bytes) -> 'Directory | None':
    """Parses the directory, up to the end of the content. None without a byte order or a directory."""
    order, big = {b'II': '<', b'MM': '>'}.get(content[:2]), 43 in content[2:4]
    word, number, size = ('Q', 'Q', 20) if big else ('I', 'H', 12)
    try:
      (start,) = struct.unpack_from(f'{order}{word}', content, 8 if big else 4)
      (count,) = struct.unpack_from(f'{order}{number}', content, start)
    except (struct.error, OverflowError):
      return None
    entries, first = {}, start + struct.calcsize(f'={number}')
    for place in range(first, min(first + size * min(count, MAX_ENTRIES), len(content) - size + 1), size):
      (tag,) = struct.unpack_from(f'{order}H', content, place)
      entries.setdefault(tag, content[place : place + size])
    return cls(content, order, word, start, entries)

  def pack(self, form: str, *values: int) -> bytes:
    return struct.pack(self.order + form, *values)

  def data(self, tag: int) -> bytes:
    """The bytes of a value; b'' without the tag, or for a type of unknown size."""
    if tag not in self.entries:
      return b''
    kind, count = struct.unpack_from(f'{self.order}H{self.word}', self.entries[tag], 2)
    field = self.entries[tag][4 + struct.calcsize(f'={self.word}') :]
    size = SIZES.get(kind, 0) * count
    (place,) = struct.unpack(self.order + self.word, field)
    return field[:size] if size <= len(field) else self.content[place : place + size]

  def number(self, tag: int) -> int | None:
    """The first of the integers of a value; None without one."""
    data = self.data(tag)
    form = data and INTEGERS.get(struct.unpack_from(f'{self.order}H', self.entries[tag], 2)[0])
    return struct.unpack_from(self.order + form, data)[0] if form and len(data) >= struct.calcsize(f'={form}') else None


def _tiff(content: bytes) -> Parts:
  """Replaces the first directory with one that has only the entries that decide the pixels, and no directory after it."""
  directory = Directory.parse(content)
  if directory is None:
    return Parts(content)
  compression, color = directory.number(COMPRESSION), directory.number(COLOR)
  tags = PIXEL_TAGS | COMPRESSION_TAGS.get(compression, set()) | COLOR_TAGS.get(color, set())
  kept = {tag: entry for tag, entry in sorted(directory.entries.items()) if tag in tags}
  inverted = color == 0 and directory.number(BITS) in (12, 16)
  if inverted:
    kept[COLOR] = directory.pack(f'HH{directory.word}H', COLOR, SHORT, 1, 1).ljust(len(kept[COLOR]), b'\0')
  count = directory.pack('Q' if directory.word == 'Q' else 'H', len(kept))
  table = b''.join([count, *kept.values(), directory.pack(directory.word, 0)])
  pixels = content[: directory.start] + table + content[directory.start + len(table) :]
  return Parts(pixels, content, directory.data(XMP), inverted)


def orientation(exif: bytes, xmp: bytes) -> int:
  """The orientation, 1 to 8, from tag 0x0112 of the raw EXIF or else from the raw XMP; by default 1."""
  directory = Directory.parse(exif.removeprefix(b'Exif\0\0'))
  turn = directory and directory.number(ORIENTATION)
  if turn is not None:
    return turn
  match = re.search(rb'tiff:Orientation(?:="|>)([1-8])', xmp)
  return int(match[1]) if match else 1
