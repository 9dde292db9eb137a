"""Conversion of images between uint8 and [-1, 1], resizing, grids and image files."""

import io
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from genjax.errors import UsageError
from genjax.files import write_whole


def to_float(images: UInt8[Array, '*b h w c']) -> Float[Array, '*b h w c']:
  """0..255 -> [-1, 1]."""
  return images.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(images: Float[Array, '*b h w c']) -> UInt8[Array, '*b h w c']:
  """[-1, 1] -> 0..255, rounded; values outside are clipped."""
  return jnp.round((jnp.clip(images, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)


def count_not_finite(images: Float[Array, 'n h w c']) -> Int[Array, '']:
  """The number of images with values that are not finite, which `to_uint8` would turn black."""
  return (~jnp.isfinite(images).all(axis=(1, 2, 3))).sum()


def check_finite(wrong: int, images: int) -> None:
  """Raises UsageError if `wrong` of the samples were not finite."""
  if wrong:
    raise UsageError(
      f'{wrong} of {images} samples are not finite. Use less guidance, more steps or another solver if the model has them, '
      'or an earlier checkpoint with --step.'
    )


def resize(image: UInt8[np.ndarray, 'h w c'], resolution: int) -> UInt8[np.ndarray, 'r r c']:
  """Crops the largest centered square and resizes it, if needed, with Pillow's bicubic filter, which is antialiased."""
  h, w, channels = image.shape
  side = min(h, w)
  top, left = (h - side) // 2, (w - side) // 2
  image = image[top : top + side, left : left + side]
  if side == resolution:
    return image
  pil = Image.fromarray(image[..., 0] if channels == 1 else image)
  return np.asarray(pil.resize((resolution, resolution), Image.Resampling.BICUBIC)).reshape(resolution, resolution, channels)


def enlarge(images: UInt8[np.ndarray, '*n h w c'], scale: int) -> UInt8[np.ndarray, '*n sh sw c']:
  """Repeats each pixel `scale` x `scale` times."""
  return np.repeat(np.repeat(images, scale, axis=-3), scale, axis=-2)


def grid(images: UInt8[np.ndarray, 'n h w c'], columns: int, margin: int = 0) -> UInt8[np.ndarray, 'gh gw c']:
  """A grid of images, row by row, separated by `margin` gray pixels; empty cells are gray."""
  n, h, w, c = images.shape
  rows = -(-n // columns)
  padded = np.full((rows * columns, h + margin, w + margin, c), 96, np.uint8)
  padded[:n, :h, :w] = images
  h, w = h + margin, w + margin
  tiles = padded.reshape(rows, columns, h, w, c).transpose(0, 2, 1, 3, 4).reshape(rows * h, columns * w, c)
  return tiles[: rows * h - margin, : columns * w - margin]


ENCODINGS = {  # suffix -> Pillow's format and options
  '.png': ('PNG', {}),
  '.jpg': ('JPEG', {'quality': 95, 'subsampling': 0}),
  '.jpeg': ('JPEG', {'quality': 95, 'subsampling': 0}),
  '.webp': ('WEBP', {'lossless': True}),
}


def encode_image(image: UInt8[np.ndarray, 'h w c'], suffix: str = '.png') -> bytes:
  """Encodes a one- or three-channel image as a file with this suffix, one of ENCODINGS. PNG and WebP are lossless."""
  format_name, options = ENCODINGS[suffix]
  out = io.BytesIO()
  Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(out, format=format_name, **options)
  return out.getvalue()


def save_image(path: str | Path, image: UInt8[np.ndarray, 'h w c']) -> None:
  """Writes a one- or three-channel image, encoded by the suffix of `path`. Creates parent folders.

  Raises:
    UsageError: an unknown suffix, or a file that cannot be written.
  """
  suffix = Path(path).suffix.lower()
  if suffix not in ENCODINGS:
    raise UsageError(f'{path}: the name of an image file must end in {", ".join(ENCODINGS)}.')
  write_whole(Path(path), encode_image(image, suffix))


def make_grid(images: Float[Array, 'n h w c'], columns: int = 10, captions: Sequence[str] = ()) -> Image.Image:
  """A picture of images in [-1, 1], row by row, for a notebook; `captions` are written above the columns.

  Small images are enlarged. Points [N, 1, 1, 2] become a scatter plot, white on black. Raises UsageError for other arrays.
  """
  images = jnp.asarray(images)
  if images.ndim != 4 or not len(images) or not jnp.issubdtype(images.dtype, jnp.floating):
    raise UsageError(f'images: pass floats [N, H, W, C] in [-1, 1], not {images.dtype} {list(images.shape)}.')
  if images.shape[3] not in (1, 3) and images.shape[1:] != (1, 1, 2):
    raise UsageError(f'images: {images.shape[3]} channels cannot be shown, only 1 or 3.')
  if columns < 1:
    raise UsageError(f'columns={columns} must be 1 or more.')
  picture = captioned_grid(np.asarray(to_uint8(images)), min(columns, len(images)), captions)
  return Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)


def grid_image(images: UInt8[np.ndarray, 'n h w c'], columns: int) -> UInt8[np.ndarray, 'gh gw c']:
  """A grid of images, enlarged if they are small, or a scatter plot of points [N, 1, 1, 2]."""
  if images.shape[1:] == (1, 1, 2):
    return plot(images[:, 0, 0])
  return grid(enlarge(images, max(1, 64 // images.shape[1])), columns, margin=2)


def plot(points: UInt8[np.ndarray, 'n 2']) -> UInt8[np.ndarray, '768 768 1']:
  """A scatter plot, white on black, with the first coordinate to the right and the second upwards."""
  canvas = np.zeros((256, 256, 1), np.uint8)
  canvas[255 - points[:, 1], points[:, 0]] = 255
  return enlarge(canvas, 3)


def save_grid(path: str | Path, images: UInt8[np.ndarray, 'n h w c'], columns: int, captions: Sequence[str] = ()) -> None:
  """Writes a grid to a file, encoded by the suffix of `path`; `captions` are written above the columns."""
  save_image(path, captioned_grid(images, columns, captions))


def captioned_grid(
  images: UInt8[np.ndarray, 'n h w c'], columns: int, captions: Sequence[str] = ()
) -> UInt8[np.ndarray, 'gh gw c']:
  """`grid_image` with captions above its columns, which a scatter plot does not have."""
  picture = grid_image(images, columns)
  return with_captions(picture, captions) if captions and images.shape[1:] != (1, 1, 2) else picture


def with_captions(picture: UInt8[np.ndarray, 'h w c'], captions: Sequence[str]) -> UInt8[np.ndarray, 'h2 w c']:
  """A grid with a line of text above it, one caption per column, shortened to the width of the column."""
  width, font = picture.shape[1] / len(captions), ImageFont.load_default(12)
  line = Image.new('L', (picture.shape[1], 18), 96)
  draw = ImageDraw.Draw(line)
  for i, text in enumerate(captions):
    shown = text
    while len(shown) > 1 and draw.textlength(shown, font) > width - 4:
      shown = shown.removesuffix('…')[:-1] + '…'
    draw.text(((i + 0.5) * width, 9), shown, 255, font, anchor='mm')
  return np.concatenate([np.repeat(np.asarray(line)[..., None], picture.shape[-1], axis=-1), picture])
