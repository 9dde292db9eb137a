"""Batches as a function of (seed, step)."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from genjax.data.pipeline import Pipeline, batch_rows
from genjax.data.sources.base import Source, labeled
from genjax.data.transforms import Flip
from genjax.errors import UsageError
from genjax.parallel import make_mesh
from tests.conftest import ROOT, noise, same_bits

KEY = jax.random.key(7)


def arrays(n=20):
  return labeled('noise', noise(n), np.arange(n) % 5, 5)


class Streamed(Source):
  """The same images behind the interface of a set too large for memory."""

  def __init__(self, source):
    self.source, self.name = source, source.name

  @property
  def example(self):
    return self.source.example

  def read(self, rows):
    return self.source.read(rows)


def batches(source, steps, devices=1, **options):
  pipeline = Pipeline(source, 8, KEY, seed=3, mesh=make_mesh(jax.devices()[:devices]), **options)
  results = [jax.device_get(pipeline(t)) for t in steps]
  pipeline.close()
  return results


def test_each_epoch_shows_each_image_once_and_in_another_order():
  rows = np.concatenate([batch_rows(0, t, 8, 20) for t in range(10)]).reshape(4, 20)
  assert (np.sort(rows, axis=1) == np.arange(20)[None]).all()
  assert not (rows[0] == rows[1]).all()
  assert not (rows[0] == np.concatenate([batch_rows(1, t, 4, 20) for t in range(5)])).all()


def test_the_order_is_pinned():
  # Resuming with another NumPy must go on with the same batches: these rows were written down once.
  assert batch_rows(0, 0, 8, 20).tolist() == [0, 2, 11, 17, 9, 1, 8, 13]


@pytest.mark.parametrize('transforms', [(), (Flip(),)])
def test_batches_after_a_resume_are_those_without(transforms):
  through = batches(arrays(), range(6), transforms=transforms)
  resumed = batches(arrays(), range(3, 6), transforms=transforms)
  assert same_bits(through[3:], resumed)


def test_batches_do_not_depend_on_devices_or_on_streaming():
  reference = batches(arrays(), range(4), transforms=(Flip(),))
  assert same_bits(reference, batches(arrays(), range(4), devices=4, transforms=(Flip(),)))
  assert same_bits(reference, batches(Streamed(arrays()), range(4), transforms=(Flip(),)))
  assert same_bits(reference, batches(Streamed(arrays()), range(4), devices=4, transforms=(Flip(),)))


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
  whole = batches(arrays(), range(4), transforms=(Flip(),)) * 2  # resident, then streamed
  with np.load(tmp_path / '0.npz') as first, np.load(tmp_path / '1.npz') as second:
    for i, batch in enumerate(whole):
      assert np.array_equal(np.concatenate([first[f'arr_{i}'], second[f'arr_{i}']]), batch.image)


def test_a_batch_contains_the_images_of_its_rows():
  source = arrays()
  (batch,) = batches(source, [5])
  rows = batch_rows(3, 5, 8, 20)
  np.testing.assert_allclose(batch.image, source.images[rows] / 127.5 - 1, atol=1e-6)
  assert list(batch.cond) == ['label']
  assert (batch.cond['label'] == source.cond['label'][rows]).all()
  assert (batch.row == rows).all()
  assert (batch.index == np.arange(8)).all()


def test_half_of_the_images_are_mirrored():
  plain, flipped = batches(arrays(), range(20)), batches(arrays(), range(20), transforms=(Flip(),))
  mirrored = 0
  for a, b in zip(plain, flipped, strict=True):
    for x, y in zip(a.image, b.image, strict=True):
      same, turned = (np.allclose(y, z, atol=1e-6) for z in (x, x[:, ::-1]))  # two programs may round apart
      assert same or turned
      mirrored += turned
  assert 55 < mirrored < 105  # of 160


def test_batch_size_that_the_devices_do_not_divide():
  with pytest.raises(UsageError, match=r'train.batch_size=6 must be a multiple of 8 \(8 devices\): the nearest is 8'):
    Pipeline(arrays(), 6, KEY, 0, make_mesh())
