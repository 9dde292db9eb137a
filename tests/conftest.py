"""Strict settings, eight simulated devices, and tiny versions of every config."""

import os
from pathlib import Path

import jaxlib.version

os.environ.setdefault('JAX_NUM_CPU_DEVICES', '8')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(Path(__file__).parent.parent / '.pytest_cache' / 'xla'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
if '--xla_backend_optimization_level' not in os.environ.get('XLA_FLAGS', ''):  # compiling dominates: 2.4 times faster
  os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + ' --xla_backend_optimization_level=0'
  if jaxlib.version.__version__.startswith('0.10.'):  # 1.7 times faster again; later ones do not know it
    os.environ['XLA_FLAGS'] += ' --xla_cpu_use_fusion_emitters=false'

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax.build import build, fill_inferred
from genjax.data.prepare import read_idx
from genjax.data.sources.base import numbered
from genjax.data.sources.open import open_data
from genjax.images import save_image
from genjax.metrics import classifier
from genjax.optim import EMA
from genjax.step import init_state, train_step
from genjax.types import Batch, Example

jax.config.update('jax_numpy_rank_promotion', 'raise')

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(path.stem for path in (ROOT / 'configs').glob('*.py') if path.stem not in ('__init__', 'common'))
FAMILIES = ('digits_vae', 'digits_gan', 'digits_flow')  # one config per family, for what is expensive
CHANNELS = {'digits': 1, 'mnist': 1, 'fashion_mnist': 1, 'cifar10': 3}


def config_of(name: str) -> dict:
  return importlib.import_module(f'configs.{name}').get_config().to_dict()


# A config for every class of objective, of the digits where there is one: for the contracts that every class keeps.
_BY_CLASS = {config_of(name)['objective']['cls']: name for name in sorted(CONFIGS, key=lambda name: name.startswith('digits'))}
_BY_CLASS |= {config_of(name)['objective']['cls']: name for name in FAMILIES}
OBJECTIVES = sorted(_BY_CLASS.values())
# And configs with other networks, quantizers and likelihoods, with -m slow.
_VARIANTS = ['digits_r3gan', 'digits_stylegan2', 'cifar10_edm', 'cifar10_dit', 'digits_pixelcnn', 'digits_row_lstm']
_VARIANTS += ['digits_fsq', 'cifar10_vdvae']
EACH = [*OBJECTIVES, *(pytest.param(name, marks=pytest.mark.slow) for name in _VARIANTS)]
# The two families that compile fast, for other tests of the step; the other configs with -m slow.
FEW = [
  name if name in ('digits_vae', 'digits_gan') else pytest.param(name, marks=pytest.mark.slow)
  for name in [*OBJECTIVES, *_VARIANTS]
]


def sometimes(cases, *keep):
  """Cases of which those at the places `keep` are run by default, the others with -m slow."""
  parts = [case if isinstance(case, tuple) else (case,) for case in cases]
  return [pytest.param(*part, marks=() if i in keep else pytest.mark.slow) for i, part in enumerate(parts)]


def image_shape(config: dict) -> tuple[int, int, int]:
  data = config['data']
  return data['resolution'], data['resolution'], data['channels'] or CHANNELS.get(data['name'], 3)


def shrink(spec):
  """The same networks, narrow and of two resolutions at most."""
  if not isinstance(spec, dict):
    return spec
  small = {'width': 8, 'hidden': 16, 'head_features': 8, 'depth': 1, 'heads': 2}
  small |= {'w_dim': 8, 'mapping_depth': 1, 'stddev_group': 1}
  cut = {'multipliers': lambda value: value[:2], 'blocks': lambda value: 1 if isinstance(value, int) else (1,) * len(value)}
  return {key: cut[key](value) if key in cut else small.get(key, shrink(value)) for key, value in spec.items()}


def example_of(config: dict, classes: int = 10) -> Example:
  """What the data of a config promise, without opening them."""
  return labeled_example(image_shape(config), classes)


def labeled_example(image_shape: tuple[int, int, int], classes: int = 10) -> Example:
  """Images of this shape, with labels of so many classes (0: without)."""
  cond = {'label': jax.ShapeDtypeStruct((), jnp.int32)} if classes else {}
  return Example(jax.ShapeDtypeStruct(image_shape, jnp.float32), cond, numbered(classes), 100)


def batch_of(images, labels=None) -> Batch:
  """A batch of images [B, H, W, C] with these labels (default: 0, 1, ..., 9, 0, ...)."""
  index = jnp.arange(len(images), dtype=jnp.int32)
  return Batch(images, {'label': index % 10 if labels is None else jnp.asarray(labels, jnp.int32)}, index, index)


UNCONDITIONAL = {'cls': 'conditioners.Unconditional'}
CLASSES = {'cls': 'conditioners.ClassLabel'}


def objects(name: str, small: bool = True, dtype: str = 'float32', **options):
  """Objective and optimizers of a config; `options` replace the objective's own."""
  config = config_of(name)
  spec = fill_inferred(config['objective'] | options, {'image_shape': image_shape(config), 'classes': 10, 'dtype': dtype})
  return build(shrink(spec) if small else spec), build(config['optim'])


def one_level(objective):
  """A U-Net of one resolution instead of two, which compiles in half the time."""
  if not hasattr(getattr(objective, 'network', None), 'multipliers'):
    return objective
  attention = tuple(side for side in (8,) if side == objective.image_shape[0])
  return dataclasses.replace(objective, network=objective.network.clone(multipliers=(1,), attention=attention))


def without_free_bits(name):
  """No free bits: they are of the mean over a batch, parts of which are then not the whole (docs/design.md)."""
  return {'free_bits': 0.0} if 'free_bits' in config_of(name)['objective'] else {}


@functools.cache
def family(name):
  """Objective, plain gradient descent, a batch of 8 random images, a state whose parameters are all non-zero."""
  objective = one_level(objects(name, **without_free_bits(name))[0])
  optimizers = {player: optax.sgd(0.1) for player in objective.players}
  shape = image_shape(config_of(name))
  image = jnp.tanh(jax.random.normal(jax.random.key(1), (8, *shape)))
  batch = batch_of(image)
  state = jax.jit(functools.partial(init_state, objective, optimizers))(jax.random.key(0), batch)
  leaves, tree = jax.tree.flatten(state.params)
  keys = jax.random.split(jax.random.key(2), len(leaves))
  params = [x + 0.05 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
  return objective, optimizers, batch, state.replace(params=jax.tree.unflatten(tree, params))


def step_of(objective, optimizers, **options):
  return functools.partial(
    train_step, objective=objective, optimizers=optimizers, **{'average': EMA(100.0), 'data_size': 100} | options
  )


def noise(n=20, shape=(8, 8, 3), seed=0):
  """Random images, uint8."""
  return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def write_folder(path, images, labels=None, names='0123456789'):
  """PNG files, in sub-folders by label if there are labels. Returns the path."""
  for i, image in enumerate(images):
    save_image(path / ('' if labels is None else names[labels[i]]) / f'{i:04}.png', image)
  return path


def same_bits(a, b):
  """Whether two trees are equal in every array."""
  return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def assert_close(a, b, tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


@pytest.fixture(scope='session')
def shared_data() -> Path:
  """Real data beside the checkout; see the project's shared/data/README.md."""
  path = Path(os.environ.get('GENJAX_SHARED_DATA', ROOT.parent / 'shared' / 'data'))
  if not path.is_dir():
    pytest.skip('no real data here: set GENJAX_SHARED_DATA to the folder that holds fashion_mnist/')
  return path


@pytest.fixture
def fashion_mnist(shared_data, tmp_path):
  """The training and test images of Fashion-MNIST."""
  folder = shared_data / 'fashion_mnist'
  for split, prefix in (('train', 'train'), ('test', 't10k')):
    images, labels = (read_idx(folder / f'{prefix}-{kind}.gz') for kind in ('images-idx3-ubyte', 'labels-idx1-ubyte'))
    np.savez(tmp_path / f'{split}.npz', image=images, label=labels)
  return tuple(open_data(str(tmp_path / f'{split}.npz'), 28) for split in ('train', 'test'))


RECIPE = classifier.Recipe(steps=150, width=8, features=32)


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  """An empty cache folder; the classifier that evaluate.py trains is small."""
  path = tmp_path_factory.mktemp('cache')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('GENJAX_CACHE', str(path))
    patch.setattr(classifier, 'Recipe', lambda **_: RECIPE)
    yield path
