"""Strict settings, four simulated devices, and tiny versions of every config."""

import os
from pathlib import Path

os.environ.setdefault('JAX_NUM_CPU_DEVICES', '4')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(Path(__file__).parent.parent / '.pytest_cache' / 'xla'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
if '--xla_backend_optimization_level' not in os.environ.get('XLA_FLAGS', ''):  # compiling dominates: 2.4 times faster
  os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + ' --xla_backend_optimization_level=0'

import importlib

import jax
import pytest

from genjax.build import build, complete

jax.config.update('jax_numpy_rank_promotion', 'raise')

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(path.stem for path in (ROOT / 'configs').glob('*.py') if path.stem not in ('__init__', 'common'))
FAMILIES = ('digits_vae', 'digits_gan', 'digits_flow')  # one config per family, for what is expensive
CHANNELS = {'digits': 1, 'mnist': 1, 'fashion_mnist': 1, 'cifar10': 3}


def config_of(name: str) -> dict:
  return importlib.import_module(f'configs.{name}').get_config().to_dict()


def image_shape(config: dict) -> tuple[int, int, int]:
  data = config['data']
  return data['resolution'], data['resolution'], data['channels'] or CHANNELS.get(data['name'], 3)


def shrink(spec):
  """The same networks, narrow and of two resolutions at most."""
  if not isinstance(spec, dict):
    return spec
  small = {'width': 8, 'hidden': 16, 'blocks': 1, 'head_features': 8}
  return {key: value[:2] if key == 'multipliers' else small.get(key, shrink(value)) for key, value in spec.items()}


def objects(name: str, small: bool = True, dtype: str = 'float32', **options):
  """Objective and optimisers of a config; `options` replace the objective's own."""
  config = config_of(name)
  spec = complete(config['objective'] | options, {'image_shape': image_shape(config), 'dtype': dtype})
  return build(shrink(spec) if small else spec), build(config['optim'])


@pytest.fixture(scope='session')
def shared_data() -> Path:
  """Real data beside the checkout; see the project's shared/data/README.md."""
  path = Path(os.environ.get('GENJAX_SHARED_DATA', ROOT.parent / 'shared' / 'data'))
  if not path.is_dir():
    pytest.skip('no real data here: set GENJAX_SHARED_DATA to the folder that holds fashion_mnist/')
  return path
