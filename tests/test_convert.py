"""Weights of diffusers: the same outputs, and errors for what cannot be converted."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import genjax
import sample
from genjax import convert
from genjax.build import fill_inferred
from genjax.errors import UsageError
from tests.conftest import ROOT, config_of
from tests.peers.seeded import weight
from tests.programs import ENV

with np.load(ROOT / 'tests' / 'peers' / 'diffusers.npz') as file:
  PEER = dict(file)
OLD = {'to_q': 'query', 'to_k': 'key', 'to_v': 'value', 'to_out.0': 'proj_attn'}


def weights_of(network):
  return {name: weight(name, shape) for name, shape in json.loads(str(PEER[f'{network}/shapes'])).items()}


def config_in(folder, network, **changes):
  """Writes the config.json of diffusers."""
  config = json.loads(str(PEER[f'{network}/config'])) | changes
  (folder / 'config.json').write_text(json.dumps({'_class_name': 'UNet2DModel'} | config))


def file_in(folder, tensors):
  save_file(tensors, folder / 'model.safetensors')
  return folder / 'model.safetensors'


def difference(run, network):
  """The largest difference between outputs of a converted network and of diffusers'."""
  height, width, channels = run.objective.image_shape
  times = PEER[f'{network}/times']
  x = np.random.default_rng(0).normal(size=(len(times), channels, height, width)).astype(np.float32)
  path, parameterization = run.objective.path, run.objective.parameterization
  c_noise = parameterization.c_noise(path, (times + 1.0) / path.T)  # the first step is 0 in diffusers
  f = jax.jit(lambda params, x, t: run.objective.network.apply({'params': params}, x, t))
  output = f(run.variables.params['model'], np.moveaxis(x, 1, -1), c_noise)
  return np.abs(np.moveaxis(np.asarray(output), -1, 1)[:, :, ::3, ::3] - PEER[f'{network}/output']).max()


@pytest.fixture(scope='module')
def narrow(tmp_path_factory):
  """The file of the narrow network, and its export, made by the command."""
  folder = tmp_path_factory.mktemp('narrow')
  words = ['-m', 'genjax.convert', 'diffusers_ddpm', str(file_in(folder, weights_of('narrow'))), '--out', str(folder / 'out')]
  done = subprocess.run([sys.executable, *words], cwd=ROOT, env=ENV, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert 'weights.safetensors' in done.stdout
  return folder


@pytest.mark.parametrize('network', ['narrow', 'options', pytest.param('full', marks=pytest.mark.slow)])
def test_outputs_are_those_of_diffusers(network, tmp_path):
  if network == 'options':  # the others have the default options
    config_in(tmp_path, network)
  run = genjax.load(convert.convert_ddpm(file_in(tmp_path, weights_of(network)), tmp_path / 'out'))
  assert (
    sum(x.size for x in jax.tree.leaves(run.variables))
    == {'narrow': 2_245_763, 'options': 167_345, 'full': 35_746_307}[network]
  )
  assert difference(run, network) < 1e-5


@pytest.mark.parametrize(
  'option',
  [
    {'attention_head_dim': 16},
    {'downsample_padding': 0},
    {'flip_sin_to_cos': False},
    {'freq_shift': 1},
    {'norm_eps': 1e-6},
    {'norm_num_groups': 4},
  ],
  ids=lambda option: next(iter(option)),
)
def test_each_option_in_config_json_matters(option, tmp_path):
  config_in(tmp_path, 'options', **option)
  run = genjax.load(convert.convert_ddpm(file_in(tmp_path, weights_of('options')), tmp_path / 'out'))
  assert difference(run, 'options') > 1e-4


def test_options_that_config_json_omits_have_the_defaults_of_the_class(tmp_path):
  (tmp_path / 'config.json').write_text('{"sample_size": 64}')
  network = config_network(tmp_path, convert.convert_ddpm(file_in(tmp_path, weights_of('narrow')), tmp_path / 'out'))
  assert network['attention'] == [32]
  assert network['head_features'] == 8
  assert network['norm_epsilon'] == 1e-5
  assert network['symmetric_padding']
  assert network['max_period'] == 10_000


def config_network(folder, export):
  return json.loads((export / 'config.json').read_text())['objective']['network']


def test_names_of_old_files_are_accepted(narrow, tmp_path):
  tensors = weights_of('narrow')
  for new, old in OLD.items():
    tensors = {name.replace(f'.{new}.', f'.{old}.'): x for name, x in tensors.items()}
  assert 'mid_block.attentions.0.query.weight' in tensors
  converted = load_file(convert.convert_ddpm(file_in(tmp_path, tensors), tmp_path / 'out') / 'weights.safetensors')
  expected = load_file(narrow / 'out' / 'weights.safetensors')
  assert converted.keys() == expected.keys()
  assert all((converted[name] == expected[name]).all() for name in expected)


def test_half_precision_is_accepted(tmp_path):
  half = {name: x.astype(np.float16) for name, x in weights_of('options').items()}
  config_in(tmp_path, 'options')
  run = genjax.load(convert.convert_ddpm(file_in(tmp_path, half), tmp_path / 'out'))
  assert {x.dtype.name for x in jax.tree.leaves(run.variables)} == {'float32'}
  assert difference(run, 'options') < 1e-2


def test_the_export_samples(narrow, tmp_path):
  run = genjax.load(narrow / 'out')
  key = jax.random.key(0)
  images = run.sample(key, 3, steps=2)
  assert images.shape == (3, 32, 32, 3)
  np.testing.assert_allclose(run.sample(key, 2, steps=2), images[:2], atol=1e-4)
  sample.main(['--run', str(narrow / 'out'), '--n', '2', '--steps', '2', '--out', str(tmp_path / 'grid.png')])
  assert (tmp_path / 'grid.png').is_file()


def test_the_config_is_that_of_cifar10_ddpm(narrow):
  config = json.loads((narrow / 'out' / 'config.json').read_text())
  expected = fill_inferred(config_of('cifar10_ddpm')['objective'], {'image_shape': [32, 32, 3], 'dtype': 'float32'})
  differ = {'width', 'multipliers', 'attention', 'head_features'}
  differ |= {'max_period', 'norm_groups', 'norm_group_size', 'norm_epsilon', 'symmetric_padding'}
  for name, value in expected.pop('network').items():
    assert name in differ or config['objective']['network'][name] == value, name
  for name, value in expected.items():
    assert config['objective'][name] == json.loads(json.dumps(value)), name
  assert config['data']['name'] == 'cifar10'
  assert config['export']['converted']['file'] == 'model.safetensors'
  assert str(narrow) not in (narrow / 'out' / 'README.md').read_text() + json.dumps(config)


@pytest.mark.parametrize(
  ('change', 'match'),
  [
    ({'conv_in.weight': None}, r'conv_in\.weight'),
    ({'mid_block.attentions.0.to_k.bias': None}, r'missing .*mid_block\.attentions\.0\.to_k\.bias'),
    ({'class_embedding.weight': (10, 64)}, r'unknown .*class_embedding\.weight'),
    ({'conv_norm_out.weight': None, 'norm.weight': (16,)}, r'missing .*conv_norm_out\.weight; unknown .*norm\.weight'),
    ({'conv_out.weight': (2, 16, 3, 3)}, r'conv_out\.weight has the shape \(2, 16, 3, 3\), .* \(1, 16, 3, 3\)'),
    ({'up_blocks.0.resnets.0.conv_shortcut.weight': None}, r'up_blocks\.0\.resnets\.0\.conv_shortcut\.weight'),
    ({'mid_block.resnets.0.conv_shortcut.bias': (32,)}, r'mid_block\.resnets\.0\.conv_shortcut\.bias'),
    ({'down_blocks.1.resnets.0.conv1.weight': (40, 16, 3, 3)}, r'40'),
    ({'down_blocks.1.resnets.0.conv1.weight': (32,)}, r'down_blocks\.1\.resnets\.0\.conv1\.weight'),
    ({'time_embedding.linear_1.weight': (64, 32)}, r'time_embedding\.linear_1\.weight has the shape \(64, 32\)'),
  ],
)
def test_arrays_that_do_not_fit_are_named(change, match, tmp_path):
  tensors = weights_of('options')
  for name, shape in change.items():
    tensors = {key: x for key, x in tensors.items() if key != name} | ({name: weight(name, shape)} if shape else {})
  config_in(tmp_path, 'options')
  with pytest.raises(UsageError, match=match):
    convert.convert_ddpm(file_in(tmp_path, tensors), tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  'change',
  [
    {'_class_name': 'UNet2DConditionModel'},
    {'act_fn': 'gelu'},
    {'attention_head_dim': 12},
    {'center_input_sample': True},
    {'downsample_padding': 2},
    {'freq_shift': 8},
    {'mid_block_scale_factor': 1.4},
    {'norm_eps': 'small'},
    {'norm_num_groups': 3},
    {'resnet_time_scale_shift': 'scale_shift'},
    {'sample_size': None},
    {'sample_size': 15},
    {'time_embedding_type': 'fourier'},
  ],
  ids=lambda change: next(iter(change)),
)
def test_options_that_do_not_fit_are_named(change, tmp_path):
  config_in(tmp_path, 'options', **change)
  path = file_in(tmp_path, weights_of('options'))
  with pytest.raises(UsageError, match=next(iter(change))):
    convert.convert_ddpm(path, tmp_path / 'out')


@pytest.mark.parametrize('beside', [True, False])
def test_another_noise_schedule_is_refused(beside, tmp_path):
  folder = tmp_path / 'unet'
  schedule = (folder if beside else tmp_path / 'scheduler') / 'scheduler_config.json'
  for path in (folder, schedule.parent):
    path.mkdir(exist_ok=True)
  config_in(folder, 'options')
  path = file_in(folder, weights_of('options'))
  schedule.write_text('{"beta_schedule": "squaredcos_cap_v2"}')
  with pytest.raises(UsageError, match='beta_schedule'):
    convert.convert_ddpm(path, tmp_path / 'out')
  schedule.write_text('{"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02, "variance_type": "fixed_large"}')
  convert.convert_ddpm(path, tmp_path / 'out')


def test_heads_of_different_sizes_are_refused(tmp_path):
  config_in(tmp_path, 'options', attention_head_dim=None)  # 16 and 32 channels
  with pytest.raises(UsageError, match='attention_head_dim'):
    convert.convert_ddpm(file_in(tmp_path, weights_of('options')), tmp_path / 'out')


def test_files_that_cannot_be_read_are_named(narrow, tmp_path, capsys):
  path = narrow / 'model.safetensors'
  (tmp_path / 'damaged.safetensors').write_bytes(path.read_bytes()[:-9])
  integers = {name: x.astype(np.int8) for name, x in weights_of('narrow').items()}
  save_file(integers, tmp_path / 'integers.safetensors')
  for name, match in (('none', 'cannot be read'), ('damaged', 'cannot be read'), ('integers', 'int8')):
    with pytest.raises(UsageError, match=f'{name}.safetensors.*{match}'):
      convert.convert_ddpm(tmp_path / f'{name}.safetensors', tmp_path / 'out')
  with pytest.raises(UsageError, match='not empty'):
    convert.convert_ddpm(path, narrow / 'out')
  with pytest.raises(UsageError, match=r'difusers_ddpm.* diffusers_ddpm'):
    convert.main(['difusers_ddpm', str(path), '--out', str(tmp_path / 'out')])
  with pytest.raises(UsageError, match='--out'):
    convert.main(['diffusers_ddpm', str(path)])
  for text in ('[]', '{'):
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(UsageError, match=r'config\.json'):
      convert.convert_ddpm(file_in(tmp_path, weights_of('options')), tmp_path / 'out')
