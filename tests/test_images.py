"""Resizing, rounding, grids."""

import numpy as np
import pytest
from PIL import Image

import genjax
from genjax.errors import UsageError
from genjax.images import grid, resize, save_grid, to_float, to_uint8


def test_resize_crops_the_center_and_averages():
  wide = np.zeros((4, 12, 1), np.uint8)
  wide[:, 4:8] = 255  # the centered square
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


def test_a_grid_for_a_notebook_has_the_values_of_the_file(tmp_path):
  images = np.linspace(-1, 1, 3 * 4 * 4 * 3, dtype=np.float32).reshape(3, 4, 4, 3)
  for columns, captions in ((2, ()), (9, ()), (3, ('a', 'b', 'c'))):
    save_grid(tmp_path / 'x.png', np.asarray(to_uint8(images)), min(columns, 3), captions)
    with Image.open(tmp_path / 'x.png') as file:
      np.testing.assert_array_equal(genjax.make_grid(images, columns, captions), file)
  assert genjax.make_grid(np.zeros((5, 1, 1, 2))).size == (768, 768)
  for wrong in (np.zeros((4, 4, 1)), np.zeros((0, 4, 4, 1)), np.zeros((2, 4, 4, 1), np.uint8), np.zeros((2, 4, 4, 2))):
    with pytest.raises(UsageError, match='images'):
      genjax.make_grid(wrong)
  with pytest.raises(UsageError, match='columns=0'):
    genjax.make_grid(images, 0)


def test_captions_are_above_their_columns_and_fit(tmp_path):
  images = np.zeros((4, 8, 8, 3), np.uint8)
  pictures = []
  for captions in ((), ('7', 'a name that is longer than its column')):
    save_grid(tmp_path / 'grid.png', images, 2, captions)
    with Image.open(tmp_path / 'grid.png') as image:
      pictures.append(np.asarray(image))
  plain, captioned = pictures
  line = captioned[: len(captioned) - len(plain)]
  np.testing.assert_array_equal(captioned[len(line) :], plain)
  bright = np.flatnonzero((line > 200).any(axis=(0, 2)))
  assert abs(bright[bright < 66].mean() - 33) < 3  # centered
  assert 68 < bright[bright > 66].min() < bright.max() < 130
