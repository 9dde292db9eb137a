"""Specs become objects, and nothing but genjax's own classes does."""

import dataclasses
import functools

import pytest
from flax import linen as nn

import genjax
from genjax.build import INFERRED, build, check, defaults, fill_inferred, resolve, spec, with_defaults, without_leftovers
from genjax.conditioners import ClassLabel, Unconditional
from genjax.errors import UsageError
from genjax.networks.mlp import MLPDecoder
from genjax.networks.unet import UNet
from genjax.samplers.sampler import Sampler
from tests.conftest import config_of


def test_a_spec_writes_out_every_plain_default():
  actual = spec('networks.unet.UNet', width=16)
  assert actual['width'] == 16
  assert actual['multipliers'] == UNet.multipliers
  assert set(actual) == {'cls', *defaults(UNet)} - {'dtype'}  # which follows from train.dtype
  assert build(actual) == UNet(width=16)
  assert hash(build({**actual, 'multipliers': [1, 2]})) == hash(UNet(width=16, multipliers=(1, 2)))  # JSON's lists


def test_inferred_values_fill_what_a_spec_leaves_out():
  inferred = {'image_shape': (8, 8, 1), 'classes': 7, 'dtype': 'bfloat16'}
  assert set(inferred) == set(INFERRED)
  specs = {'decoder': {'cls': 'networks.mlp.MLPDecoder', 'dtype': 'float32'}, 'label': spec('conditioners.ClassLabel')}
  assert build(fill_inferred(specs, inferred)) == {'decoder': MLPDecoder((8, 8, 1), dtype='float32'), 'label': ClassLabel(7)}
  assert build(fill_inferred(spec('conditioners.ClassLabel', classes=3), inferred)) == ClassLabel(3)
  for name, missing in (('networks.mlp.MLPDecoder', 'image_shape'), ('conditioners.ClassLabel', 'classes')):
    with pytest.raises(UsageError, match=rf"{name} needs '{missing}'"):
      build({'cls': name})


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: spec('networks.unet.Unet'), r"'networks.unet.Unet'.*networks.unet.UNet"),
    (lambda: spec('..os.system'), r"cls='..os.system' is not a name like networks.unet.UNet"),
    (lambda: spec(7), 'cls=7 is not a name like networks.unet.UNet'),
    (lambda: spec('networks.unet.UNet', widht=3), r"'widht' of networks.unet.UNet.*width"),
    (lambda: spec('objectives.vae.vae.VAE'), r"objectives.vae.vae.VAE needs 'encoder': set encoder=... in the config"),
    (lambda: spec('conditioners.ClassLabel', clases=3), r"'clases' of .*ClassLabel.*classes"),
    (lambda: spec('networks.unet.UNet', parent=None), "'parent' of networks.unet.UNet"),
    (lambda: build({'cls': 'optim.adam', 'learning_rate': 1e-3, 'beta1': 0.5}), "'beta1' of optim.adam"),
  ],
)
def test_mistakes_are_named(call, message):
  with pytest.raises(UsageError, match=message):
    call()


@pytest.mark.parametrize(
  'name',
  [
    'os.system', 'builtins.eval', 'run.subprocess', 'genjax.optim.adam', 'optim.optax', 'optim.optax.adam',
    'objectives.vae.vae.jax', '__main__.x',
    'networks.unet.UNet.apply', 'networks.layers.lax', 'data.prepare.prepare', 'networks.unet.nn', 'networks.__init__.os',
    'networks.unet._private', '..os.system', 'optim', '', None, 7, ['os', 'system'], 'networks/unet', 'objectives.common.rng',
    'conditioners.rng', 'conditioners._like', 'conditioners.jax', 'data.sources.open.open_data',
  ],
)  # fmt: skip
def test_an_untrusted_config_resolves_nothing_else(name):
  with pytest.raises(UsageError, match=r'cls=|class or function'):
    build({'cls': name})


def test_a_package_is_allowed_by_its_whole_name():
  with pytest.raises(UsageError, match='scipy'):
    resolve('scipy.stats.gmean', 'xscipyx')
  with pytest.raises(UsageError, match='any_package'):
    genjax.load('any_package/run', allow_package='xscipyx')


def test_a_function_with_options_of_any_name_is_checked_for_its_own():
  def sample(self, keys, *, steps: int = 3, **options): ...

  check(functools.partial(sample, None, None), 'sample', {'steps': 4, 'anything': 'x'})
  with pytest.raises(UsageError, match='steps'):
    check(functools.partial(sample, None, None), 'sample', {'steps': 'four'})


def test_a_class_of_the_user_s_needs_that_its_package_is_allowed(tmp_path, monkeypatch):
  (tmp_path / 'parts_of_mine').mkdir()
  code = 'class Net:\n  def __init__(self, width: int = 8, depth: int = 2):\n    self.size = width, depth\n'
  (tmp_path / 'parts_of_mine' / 'nets.py').write_text(code)
  monkeypatch.syspath_prepend(tmp_path)
  written = spec('parts_of_mine.nets.Net', width=4)  # a config file is the user's own code
  assert written == {'cls': 'parts_of_mine.nets.Net', 'width': 4, 'depth': 2}
  with pytest.raises(
    UsageError, match=r'is not of genjax. If you trust the code of parts_of_mine, add --allow_package parts_of'
  ):
    build(written)
  assert build(written, ['parts_of_mine']).size == (4, 2)
  with pytest.raises(UsageError, match=r"'widht' of .*Net.*width"):
    spec('parts_of_mine.nets.Net', widht=4)
  with pytest.raises(UsageError, match=r"parts_of_mine.nets defines no class or function 'Nett'"):
    spec('parts_of_mine.nets.Nett')


def test_another_class_keeps_the_options_that_both_have():
  loss = {'cls': 'objectives.gan.losses.Hinge', 'smoothing': 0.0}
  penalty = {'cls': 'objectives.gan.penalties.GradientPenalty', 'weight': 3.0, 'every': 2, 'radius': 1.0}
  config = {'objective': {'cls': 'objectives.gan.gan.GAN', 'loss': loss, 'penalties': {'gp': penalty}}, 'train': {'steps': 3}}
  actual, left_out = without_leftovers(config, ['objective.loss', 'objective.penalties.gp'])
  assert left_out == ['objective.loss.smoothing', 'objective.penalties.gp.radius']
  assert actual['objective']['loss'] == {'cls': 'objectives.gan.losses.Hinge'}
  assert actual['objective']['penalties']['gp'] == {'cls': penalty['cls'], 'weight': 3.0, 'every': 2}
  assert actual['train'] == config['train']
  with pytest.raises(UsageError, match=r"'smoothing' of .*Hinge"):  # written in a config, it is a mistake
    build(without_leftovers(config, [])[0])


def test_parameters_that_are_not_annotated_take_anything():
  check(lambda a, b=None, *, c=1.0: None, 'mine', {'a': 'x', 'b': 3, 'c': 2.0})
  with pytest.raises(UsageError, match="'d' of mine"):
    check(lambda a: None, 'mine', {'a': 1, 'd': 2})


def test_names_are_public_things_of_their_module():
  assert resolve('networks.unet.UNet') is UNet
  assert issubclass(resolve('networks.dcgan.DCGANGenerator'), nn.Module)


def test_numbers_out_of_range_are_said_to_be():
  for value, message in (
    (1.5, r'dropout=1.5 must be in \[0, 1\)'),
    (float('nan'), 'dropout=nan must be finite: float'),
    ('inf', "dropout='inf' must be float"),
  ):
    with pytest.raises(UsageError, match=message):
      spec('networks.unet.UNet', dropout=value)


def test_a_default_that_is_an_object_is_written_out():
  flow = config_of('digits_flow')['objective']
  written = {'cls': 'samplers.sampler.Sampler'} | dataclasses.asdict(Sampler())
  assert flow.pop('sampler') == written
  assert with_defaults(flow)['sampler'] == written  # of a run that began before
  full = fill_inferred(flow | {'sampler': written | {'steps': 7}}, {'image_shape': (8, 8, 1), 'classes': 10})
  assert build(full).sampler == Sampler(steps=7)
  unconditional = with_defaults({key: value for key, value in flow.items() if key != 'conditioner'})
  assert unconditional['conditioner'] == {'cls': 'conditioners.Unconditional'}
  assert build(fill_inferred(unconditional, {'image_shape': (8, 8, 1)})).conditioner == Unconditional()
