"""Parity with other libraries on the same inputs; tests/peers/make_*.py made their values."""

import json
import zlib

import jax
import numpy as np
import pytest
from PIL import Image

from genjax.errors import UsageError
from genjax.metrics import efficientnet, extractors, inception
from genjax.metrics.fid import frechet_distance
from genjax.metrics.inception_score import RunningScore
from genjax.metrics.kid import mmd2
from genjax.metrics.manifold import manifold
from genjax.metrics.moments import moments
from genjax.metrics.torchfile import read_tensors
from tests.conftest import ROOT

PEERS = ROOT / 'tests' / 'peers'


def peer(name):
  with np.load(PEERS / f'{name}.npz') as file:
    return dict(file)


@pytest.fixture(scope='module')
def metrics():
  return peer('metrics')


def test_fid(metrics):
  actual = frechet_distance(moments(metrics['real']), moments(metrics['fake']))
  for library in ('torch_fidelity', 'pytorch_fid', 'torchmetrics'):
    assert actual == pytest.approx(float(metrics[f'fid_{library}']), rel=1e-12), library


def test_kid(metrics):
  pairs = zip(metrics['kid_fake_indices'], metrics['kid_real_indices'], metrics['kid_subset_values'], strict=True)
  with jax.enable_x64(True):
    for fake, real, value in pairs:
      assert float(mmd2(metrics['fake'][fake], metrics['real'][real])) == pytest.approx(value, rel=1e-12)
    actual = float(mmd2(metrics['fake'][:300], metrics['real'][:300]))
  assert actual == pytest.approx(float(metrics['mmd_torchmetrics']), rel=1e-12)


def test_inception_score(metrics):
  for splits, name in ((10, ''), (7, '_seven')):
    running = RunningScore(1500, splits)
    running.add(metrics['probabilities'])
    mean, std = running.result()
    assert mean == pytest.approx(float(metrics[f'isc_mean{name}']), rel=1e-9)
    assert std == pytest.approx(float(metrics[f'isc_std{name}']), rel=1e-6)
  assert float(metrics['isc_mean']) == pytest.approx(float(metrics['isc_mean_torchmetrics']), rel=1e-12)


def test_precision_and_recall(metrics):
  actual = manifold(metrics['real'], metrics['fake'])
  assert actual.precision == pytest.approx(float(metrics['precision']), rel=1e-6)
  assert actual.recall == pytest.approx(float(metrics['recall']), rel=1e-6)


def drawn(name, shape):
  """The weights of make_inception.py."""
  random = np.random.default_rng(zlib.crc32(name.encode()))
  kind = name.rpartition('.')[2]
  if kind == 'running_var':
    value = random.uniform(0.5, 1.5, shape)
  elif kind == 'running_mean' or (kind == 'bias' and '.bn.' in name):
    value = random.normal(0, 0.1, shape)
  elif '.bn.' in name:
    value = random.uniform(0.8, 1.2, shape)
  elif name.startswith('fc.'):
    value = random.normal(0, 0.02, shape)
  else:
    value = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
  return value.astype(np.float32)


def test_inception_is_that_of_pytorch_fid_block_by_block():
  stored = peer('inception')
  shapes = dict(json.loads(str(stored['state_dict'])))
  tensors = {name: drawn(name, shapes[name]) for name in json.loads(str(stored['drawn']))}
  params = inception.convert(tensors)
  x = np.random.default_rng(1).uniform(-1, 1, (1, 3, 299, 299)).astype(np.float32).transpose(0, 2, 3, 1)
  network = inception.InceptionV3()
  run = jax.jit(lambda params, x: network.apply({'params': params}, x, capture_intermediates=True))
  (features, logits), inner = run(params, x)
  np.testing.assert_allclose(features, stored['features'], rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(logits, stored['logits'], rtol=1e-4, atol=1e-4)
  blocks = [name for name in json.loads(str(stored['blocks'])) if name in inner['intermediates']]
  assert len(blocks) == 17  # five convolutions, eleven blocks, the classifier
  for name in blocks:
    (block,) = inner['intermediates'][name]['__call__']
    block = np.moveaxis(np.asarray(block), -1, 1)
    assert list(block.shape) == stored[f'{name}/shape'].tolist()
    np.testing.assert_allclose(block.mean(), stored[f'{name}/mean'], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(block.reshape(-1)[stored[f'{name}/places']], stored[f'{name}/values'], rtol=1e-4, atol=1e-4)
  del tensors['Mixed_6b.branch7x7_2.bn.bias']
  with pytest.raises(UsageError, match=r'have no array Mixed_6b.branch7x7_2.bn.bias: .*pt_inception-2015-12-05'):
    inception.convert(tensors)


def test_the_resizing_of_tensorflow_1():
  stored = peer('inception')
  x = stored['resize_input'].transpose(0, 2, 3, 1).astype(np.float32)
  actual = np.moveaxis(np.asarray(inception.resize_tensorflow(x)), -1, 1)
  np.testing.assert_allclose(actual.reshape(-1)[stored['resized/places']], stored['resized/values'], atol=1e-3)
  np.testing.assert_allclose(actual.mean(), stored['resized/mean'], rtol=1e-6)


def test_the_real_inception_weights(shared_data):
  place = extractors.cache_folder() / inception.FILE
  if not place.is_file():
    pytest.skip(f'the real weights cannot be had offline: put {inception.FILE} into {extractors.cache_folder()}')
  photo = np.asarray(Image.open(shared_data / 'fid_reference' / 'elefant.jpg').convert('RGB'))
  assert photo.shape == (256, 256, 3)  # not resized, 2 x / 255 - 1: so the activations were made
  params = extractors.open_inception().params
  features, _ = jax.jit(lambda params, x: inception.InceptionV3().apply({'params': params}, x))(params, photo[None] / 127.5 - 1)
  expected = np.load(shared_data / 'fid_reference' / 'elefant_inception_output.npy').reshape(-1)
  np.testing.assert_allclose(features[0], expected, rtol=1e-3, atol=1e-3)


def test_efficientnet(shared_data):
  stored = peer('efficientnet')
  extractor = extractors.open_efficientnet(str(next((shared_data / 'efficientnet_lite0').glob('*.npz'))))
  photo = Image.open(shared_data / 'fid_reference' / 'elefant.jpg').convert('RGB').resize((224, 224), Image.Resampling.BICUBIC)
  x = (np.asarray(photo, np.float32)[None] - 127) / 128
  run = jax.jit(lambda params, x: efficientnet.EfficientNetLite0().apply({'params': params}, x))
  features, logits = run(extractor.params, x)
  np.testing.assert_allclose(features, stored['features'], rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(logits, stored['logits'], rtol=1e-4, atol=1e-4)
  assert int(logits.argmax()) == 386  # African elephant


@pytest.mark.parametrize('name', ['named_tensors_zip.pth', 'named_tensors_legacy.pth'])
def test_files_of_torch_are_read(name):
  expected, actual = peer('torchfile'), read_tensors(PEERS / name)
  assert set(actual) == set(expected)
  for key, value in expected.items():
    assert actual[key].dtype == value.dtype
    assert actual[key].shape == value.shape
    assert (actual[key] == value).all()


@pytest.mark.parametrize('name', ['named_tensors_zip.pth', 'named_tensors_legacy.pth'])
def test_damaged_files_of_torch_give_an_error_of_ours_or_arrays(name, tmp_path):
  whole, random, refused = (PEERS / name).read_bytes(), np.random.default_rng(0), 0
  path = tmp_path / 'x.pth'
  for _ in range(200):
    content = bytearray(whole)
    content[random.integers(len(whole))] ^= 1 << int(random.integers(8))
    path.write_bytes(bytes(content[: random.integers(1, len(whole))]) if random.random() < 0.3 else bytes(content))
    try:
      actual = read_tensors(path)
    except UsageError:
      refused += 1
    else:
      assert all(isinstance(value, np.ndarray) for value in actual.values())
  assert refused > 50


def test_nothing_in_a_file_of_torch_runs(tmp_path):
  touched = tmp_path / 'touched'
  hostile = b'cos\nsystem\n(S"touch ' + str(touched).encode() + b'"\ntR.'
  (tmp_path / 'x.pth').write_bytes(hostile)
  with pytest.raises(UsageError, match=r'os\.system'):
    read_tensors(tmp_path / 'x.pth')
  assert not touched.exists()
  with pytest.raises(UsageError, match='cannot be read: No such file'):
    read_tensors(tmp_path / 'none.pth')
