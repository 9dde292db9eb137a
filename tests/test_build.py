"""Specs become objects, and nothing but genjax's own classes does."""

import dataclasses

import pytest
from flax import linen as nn

from genjax.build import build, check, complete, defaults, resolve, spec, with_defaults
from genjax.errors import UsageError
from genjax.networks.mlp import MLPDecoder
from genjax.networks.unet import UNet
from genjax.samplers.sampler import Sampler
from tests.conftest import config_of


def test_a_spec_writes_out_every_plain_default():
  found = spec('networks.unet.UNet', width=16)
  assert found['width'] == 16
  assert found['multipliers'] == UNet.multipliers
  assert set(found) == {'cls', *defaults(UNet)} - {'dtype'}  # which follows from train.dtype
  assert build(found) == UNet(width=16)
  assert hash(build({**found, 'multipliers': [1, 2]})) == hash(UNet(width=16, multipliers=(1, 2)))  # JSON's lists


def test_given_values_fill_what_a_spec_leaves_out():
  given = {'image_shape': (8, 8, 1), 'dtype': 'bfloat16'}
  full = complete({'decoder': {'cls': 'networks.mlp.MLPDecoder', 'dtype': 'float32'}}, given)
  assert build(full) == {'decoder': MLPDecoder((8, 8, 1), dtype='float32')}
  with pytest.raises(UsageError, match=r"networks.mlp.MLPDecoder needs 'image_shape'"):
    build({'cls': 'networks.mlp.MLPDecoder'})


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: spec('networks.unet.Unet'), r"cls='networks.unet.Unet' names nothing in genjax. Did you mean networks.unet.UNet"),
    (lambda: spec('networks.unet.UNet', widht=3), r"networks.unet.UNet has no parameter 'widht'. Did you mean width"),
    (lambda: spec('objectives.vae.VAE'), r"objectives.vae.VAE needs 'encoder': give encoder=... in the config"),
    (lambda: spec('networks.unet.UNet', parent=None), "has no parameter 'parent'"),
    (lambda: build({'cls': 'optim.adam', 'learning_rate': 1e-3, 'beta1': 0.5}), "has no parameter 'beta1'"),
  ],
)
def test_mistakes_are_named(call, message):
  with pytest.raises(UsageError, match=message):
    call()


@pytest.mark.parametrize(
  'name',
  [
    'os.system', 'builtins.eval', 'run.subprocess', 'genjax.optim.adam', 'optim.optax', 'optim.optax.adam',
    'objectives.vae.jax',
    'networks.unet.UNet.apply', 'networks.layers.lax', 'data.prepare.prepare', 'networks.unet.nn', 'networks.__init__.os',
    'networks.unet._private', '..os.system', 'optim', '', None, 7, ['os', 'system'], 'networks/unet', 'objectives.common.rng',
  ],
)  # fmt: skip
def test_a_stranger_s_config_reaches_nothing_else(name):
  with pytest.raises(UsageError, match='cls='):
    build({'cls': name})


def test_parameters_that_are_not_annotated_take_anything():
  check(lambda a, b=None, *, c=1.0: None, 'mine', {'a': 'x', 'b': 3, 'c': 2.0})
  with pytest.raises(UsageError, match="mine has no parameter 'd'"):
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
  assert build(flow | {'image_shape': (8, 8, 1), 'sampler': written | {'steps': 7}}).sampler == Sampler(steps=7)
