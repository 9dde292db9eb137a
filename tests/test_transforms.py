"""Transforms of batches: what belongs together changes together."""

import jax.numpy as jnp
import numpy as np

from genjax import rng
from genjax.data.transforms import Flip
from genjax.types import Batch
from tests.conftest import same_bits

N = 64
KEYS = rng.image_keys(rng.key(3), np.arange(N))


def batch():
  random = np.random.default_rng(0)
  floats = lambda *shape: jnp.asarray(random.normal(size=(N, *shape)), jnp.float32)  # noqa: E731
  cond = {
    'source': floats(6, 8, 3),
    'mask': floats(12, 4, 1) > 0,
    'map': floats(4, 6) > 0,
    'text': floats(5, 8),
    'label': jnp.arange(N) % 10,
  }
  index = jnp.arange(N, dtype=jnp.int32)
  return Batch(floats(4, 6, 3), cond, index, index + 100)


def test_an_image_and_what_is_an_image_of_it_are_mirrored_together():
  before = batch()
  after = Flip()(before, KEYS)
  mirrored = np.asarray([not same_bits(x, y) for x, y in zip(before.image, after.image, strict=True)])
  assert 16 < mirrored.sum() < 48
  pairs = [(before.image, after.image), *((before.cond[name], after.cond[name]) for name in ('source', 'mask', 'map'))]
  for x, y in pairs:  # of different sizes and types
    assert x.dtype == y.dtype
    assert (y[mirrored] == x[mirrored, :, ::-1]).all()
    assert (y[~mirrored] == x[~mirrored]).all()
  rest = lambda b: (b.cond['text'], b.cond['label'], b.index, b.row)  # noqa: E731
  assert same_bits(rest(before), rest(after))
  assert before.cond.keys() == after.cond.keys()


def test_an_example_is_mirrored_by_its_own_key():
  whole = Flip()(batch(), KEYS)
  part = Batch(*(x[8:20] if name != 'cond' else {k: v[8:20] for k, v in x.items()} for name, x in batch()._asdict().items()))
  part = Flip()(part, KEYS[8:20])
  assert same_bits(part.image, whole.image[8:20])
  assert same_bits(part.cond['mask'], whole.cond['mask'][8:20])
  assert same_bits(Flip()(batch()._replace(cond={}), KEYS).image, whole.image)  # whatever else there is


def test_mirroring_twice_with_one_key_changes_nothing():
  assert same_bits(Flip()(Flip()(batch(), KEYS), KEYS), batch())
