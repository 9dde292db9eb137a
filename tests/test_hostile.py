"""What a stranger hands over is data: any bytes give a documented error or a correct result, and run nothing."""

import functools
import io
import json
import os
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import genjax
from genjax.build import build, fill_inferred
from genjax.data import photos
from genjax.data.sources.open import open_data
from genjax.errors import UsageError
from genjax.run import load
from genjax.types import Objective
from tests.conftest import config_of

FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
EDITS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6)  # (place, byte)
CUTS = st.integers(0, 10**6)


def edited(data, edits, cut):
  content = bytearray(data)
  for place, value in edits:
    content[place % len(content)] = value
  return bytes(content[: cut % len(content) + 1] if cut % 3 == 0 else content)


def npz_bytes(**arrays):
  file = io.BytesIO()
  np.savez_compressed(file, **arrays)
  return file.getvalue()


def read_or_refuse(name):
  """Images and labels as documented, or a UsageError that names the file."""
  try:
    source = open_data(str(name), 8)
  except UsageError as error:
    refusal = str(error)
    source = None
  if source is None:
    assert str(name) in refusal
    return
  images, cond = source.read(np.arange(len(source)))
  labels = cond.get('label', np.zeros(len(source)))
  assert images.dtype == np.uint8
  assert images.shape == (len(source), 8, 8, images.shape[-1])
  assert images.shape[-1] in (1, 3)
  assert ((labels >= 0) & (labels < max(source.num_classes, 1))).all()


@FUZZ
@given(st.binary(max_size=300))
def test_any_bytes_as_npz(tmp_path, data):
  (tmp_path / 'x.npz').write_bytes(data)
  read_or_refuse(tmp_path / 'x.npz')


@FUZZ
@given(EDITS, CUTS)
def test_an_edited_npz(tmp_path, edits, cut):
  images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
  (tmp_path / 'x.npz').write_bytes(edited(npz_bytes(image=images, label=np.array([0, 2, 1])), edits, cut))
  read_or_refuse(tmp_path / 'x.npz')


@FUZZ
@given(st.sampled_from(['png', 'jpeg', 'gif', 'bmp', 'webp', 'tiff', 'ppm']), EDITS, CUTS)
def test_an_edited_image(tmp_path, kind, edits, cut):
  file = io.BytesIO()
  Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 8, 3), np.uint8)).save(file, kind)
  for old in tmp_path.iterdir():
    old.unlink()
  (tmp_path / f'x.{kind}').write_bytes(edited(file.getvalue(), edits, cut))
  read_or_refuse(tmp_path)


JSON = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
  max_leaves=5,
)


RECORDED = {'image_shape': [8, 8, 1], 'size': 1500, 'classes': list('0123456789'), 'cond': {'label': ['int32', []]}}


@pytest.mark.slow
@FUZZ
@given(st.sampled_from(['digits_vae', 'digits_gan', 'digits_flow']), st.lists(st.integers(0, 30), max_size=5), JSON)
def test_a_config_with_any_value_anywhere(tmp_path, name, path, value):
  config = json.loads(json.dumps(config_of(name)))
  config['data'] |= RECORDED
  config['objective'] = fill_inferred(config['objective'], {'image_shape': [8, 8, 1], 'classes': 10, 'dtype': 'float32'})
  node = config
  for place in path[:-1]:
    below = [v for _, v in sorted(node.items()) if isinstance(v, dict)]
    if below:
      node = below[place % len(below)]
  node[sorted(node)[path[-1] % len(node)] if path else 'extra'] = value
  (tmp_path / 'config.json').write_text(json.dumps(config))
  (tmp_path / 'checkpoints').mkdir(exist_ok=True)
  with pytest.raises(UsageError):  # at the latest, once the model is known: there is no checkpoint
    load(tmp_path)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'conditioner': {'cls': 'conditioners.ClassLabel', 'classes': -1}}, r'classes=-1 must be 1 or more'),
    ({'conditioner': {'cls': 'conditioners.ClassLabel', 'classes': 10**30}}, r'no checkpoint yet'),  # nothing is made of each
    ({'encoder': {'cls': 'networks.mlp.MLPEncoder', 'z_dim': 10**30}}, r'config.json .* model .*\('),
    ({'decoder': {'cls': 'networks.mlp.MLPDecoder', 'image_shape': [8, 8, 1], 'dtype': ''}}, r'config.json .* model'),
    ({'beta': functools.reduce(lambda inner, _: [inner], range(600), 1)}, 'config.json is nested deeper than 30 levels'),
  ],
)
def test_a_config_that_is_valid_for_classes_and_not_for_networks(tmp_path, change, message):
  config = json.loads(json.dumps(config_of('digits_vae')))
  config['data']['image_shape'] = [8, 8, 1]
  inferred = {'image_shape': [8, 8, 1], 'classes': 10, 'dtype': 'float32'}
  config['objective'] = fill_inferred(config['objective'], inferred) | change
  (tmp_path / 'config.json').write_text(json.dumps(config))
  (tmp_path / 'checkpoints').mkdir()
  with pytest.raises(UsageError, match=message):
    load(tmp_path)


@pytest.mark.parametrize(
  'change',
  [
    {'classes': 5},
    {'cond': 'label'},
    {'cond': {'label': 'int32'}},
    {'cond': {'label': ['nothing', []]}},
    {'cond': {'label': ['int32', ['a']]}},
    {'cond': {}},
    {'size': 'many'},
    {'image_shape': ['a', 8, 1]},
  ],
)
def test_a_config_that_records_no_examples(tmp_path, change):
  config = json.loads(json.dumps(config_of('digits_vae')))
  config['data'] |= RECORDED | change
  config['objective'] = fill_inferred(config['objective'], {'image_shape': [8, 8, 1], 'classes': 10, 'dtype': 'float32'})
  (tmp_path / 'config.json').write_text(json.dumps(config))
  (tmp_path / 'checkpoints').mkdir()
  with pytest.raises(UsageError, match=r"config.json: .*'data'|config.json .* model"):
    load(tmp_path)


@FUZZ
@given(st.binary(max_size=200))
def test_any_bytes_as_config(tmp_path, data):
  (tmp_path / 'config.json').write_bytes(data)
  with pytest.raises(UsageError):
    load(tmp_path)


def test_a_config_runs_no_code(tmp_path):
  config = config_of('digits_vae')
  for name in ('os.system', 'subprocess.run', 'genjax.data.prepare.prepare', '../../os.system', 'networks/../../os.system'):
    hostile = config | {'objective': {'cls': name, 'command': f'touch {tmp_path}/ran'}, 'data': {'image_shape': [8, 8, 1]}}
    (tmp_path / 'config.json').write_text(json.dumps(hostile))
    with pytest.raises(UsageError, match=r'cls=|class or function'):
      genjax.load(tmp_path)
  assert not (tmp_path / 'ran').exists()


def test_a_package_that_the_user_allows(tmp_path, monkeypatch):
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / '__init__.py').write_text('')
  (tmp_path / 'mine' / 'vae.py').write_text('from genjax.objectives.vae.vae import VAE\nclass Mine(VAE):\n  pass\n')
  monkeypatch.syspath_prepend(tmp_path)
  spec = fill_inferred(config_of('digits_vae')['objective'], {'image_shape': (8, 8, 1), 'classes': 10, 'dtype': 'float32'}) | {
    'cls': 'mine.vae.Mine'
  }
  with pytest.raises(UsageError, match='add --allow_package mine'):
    build(spec)
  assert isinstance(build(spec, ['mine']), Objective)
  with pytest.raises(UsageError, match=r"mine.vae defines no class or function 'VAE'"):
    build(spec | {'cls': 'mine.vae.VAE'}, ['mine'])
  with pytest.raises(UsageError, match=r"No module named 'mine.gan'"):
    build(spec | {'cls': 'mine.gan.Mine'}, ['mine'])


def test_an_image_that_would_unpack_to_more_than_is_sane(tmp_path, monkeypatch):
  Image.new('L', (4000, 3000)).save(tmp_path / 'large.png')
  assert open_data(str(tmp_path), 8).images.shape == (1, 8, 8, 1)
  monkeypatch.setattr(photos, 'MAX_PIXELS', 11_000_000)
  with pytest.raises(UsageError, match=r'large.png cannot be read \(4000 x 3000 pixels, more than 11,000,000\)'):
    open_data(str(tmp_path), 8)


def test_an_npz_that_would_unpack_to_more_than_the_machine_has(tmp_path):
  with zipfile.ZipFile(tmp_path / 'x.npz', 'w') as archive:
    archive.writestr('image.npy', b'\0')
  content = (tmp_path / 'x.npz').read_bytes()
  size = (2**32 - 2).to_bytes(4, 'little')
  where = content.rindex(b'PK\x01\x02') + 24  # the unpacked size in the archive's directory
  (tmp_path / 'x.npz').write_bytes(content[:where] + size + content[where + 4 :])
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(os, 'sysconf', lambda name: 2**15)
    with pytest.raises(UsageError, match='unpacks to 4 GiB, more than this machine has'):
      open_data(str(tmp_path / 'x.npz'), 8)


def test_a_link_out_of_an_image_folder(tmp_path):
  (tmp_path / 'images').mkdir()
  Image.new('L', (8, 8)).save(tmp_path / 'secret.png')
  Image.new('L', (8, 8)).save(tmp_path / 'images' / 'a.png')
  (tmp_path / 'images' / 'b.png').symlink_to(tmp_path / 'images' / 'a.png')
  assert len(open_data(str(tmp_path / 'images'), 8)) == 2  # within is fine
  (tmp_path / 'images' / 'c.png').symlink_to(tmp_path / 'secret.png')
  with pytest.raises(UsageError, match=r'c.png is a link out of the folder, to .*secret.png'):
    open_data(str(tmp_path / 'images'), 8)


@pytest.mark.parametrize(
  ('target', 'message'),
  [
    ('outside', r'cat is a link out of the folder, to .*outside: copy what you want there'),
    ('images/dog', r'cat is a link to a folder, which is not followed'),
    ('nothing', r'cat is a link that leads nowhere: remove it'),
    ('images/cat', r'cat is a link that leads nowhere: remove it'),
  ],
)
def test_a_linked_folder_among_the_labels(tmp_path, target, message):
  for folder in ('images/dog', 'outside'):
    (tmp_path / folder).mkdir(parents=True)
    Image.new('L', (8, 8)).save(tmp_path / folder / 'a.png')
  (tmp_path / 'images' / 'cat').symlink_to(tmp_path / target)
  with pytest.raises(UsageError, match=message):
    open_data(str(tmp_path / 'images'), 8)


def test_an_image_of_a_format_that_runs_a_program(tmp_path):
  Image.new('RGB', (8, 8)).save(tmp_path / 'a.eps')
  (tmp_path / 'a.eps').rename(tmp_path / 'a.png')  # Pillow would give it to Ghostscript
  with pytest.raises(UsageError, match=r'a.png cannot be read \(cannot identify image file'):
    open_data(str(tmp_path), 8)


def test_paths_that_are_none():
  for name in ('~nobody-of-this-name/x', 'x/' * 4000, 'a\0b'):
    with pytest.raises(UsageError, match=r'data.name=.* is not a valid path|is not digits'):
      open_data(name, 8)
