"""Every file in configs/ builds; by default one of each set of classes is traced through a step, with -m slow all are."""

import functools
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import genjax.networks
import genjax.objectives
from genjax import rng
from genjax.run import abstract_state
from genjax.step import init_state, turn_at
from genjax.types import Objective, example_batch
from tests.conftest import CONFIGS, UNCONDITIONAL, batch_of, config_of, example_of, image_shape, objects, one_level, step_of


def classes(spec) -> set[str]:
  """All that a spec names."""
  if not isinstance(spec, dict):
    return set()
  return (
    {spec['cls']} | set().union(*map(classes, spec.values())) if 'cls' in spec else set().union(*map(classes, spec.values()))
  )


# One config of each set of classes, of the smallest images: for what takes minutes.
KINDS = list(
  {
    frozenset(classes(config_of(n)['objective'])): n for n in sorted(CONFIGS, key=lambda n: (n.startswith('digits'), n))
  }.values()
)


TRAINED = ('digits_flow', 'digits_gan', 'mnist_vae')  # by default: a gradient takes half a minute to compile
often = lambda name: () if name in TRAINED else pytest.mark.slow  # noqa: E731
LARGE = [name for name in CONFIGS if name.startswith('cifar10')]  # which take a quarter of a minute each to trace
traced = lambda name: () if name in KINDS and name not in LARGE else pytest.mark.slow  # noqa: E731


OF_CLASSES = ('digits_semi_aae',)  # which is nothing without them


@pytest.mark.parametrize('name', CONFIGS)
def test_config_builds(name):
  objective, optimizers = objects(name, small=False)
  assert isinstance(objective, Objective)
  assert set(optimizers) == set(objective.players)


@pytest.mark.parametrize(
  ('name', 'options'),
  [
    *(pytest.param(name, {}, id=name, marks=traced(name)) for name in CONFIGS),
    *(pytest.param(name, {'dtype': 'float32'}, id=f'{name}-shrunk', marks=pytest.mark.slow) for name in LARGE if name in KINDS),
    *(pytest.param(name, {'dtype': 'bfloat16'}, id=f'{name}-bfloat16', marks=often(name)) for name in KINDS),
    *(
      pytest.param(name, {'conditioner': UNCONDITIONAL}, id=f'{name}-unconditional', marks=often(name))
      for name in KINDS
      if name not in OF_CLASSES
    ),
  ],
)
def test_config_takes_a_step(name, options):
  config = config_of(name)
  example = example_of(config)
  objective, optimizers = objects(name, small=bool(options), **options)  # full size as it is
  like = abstract_state(objective, example, optimizers)
  assert {x.dtype for x in jax.tree.leaves((like.params, like.ema))} == {jnp.dtype('float32')}  # whatever computes
  batch = jax.eval_shape(lambda: example_batch(example, config['train']['batch_size']))
  step = step_of(objective, optimizers, turn=turn_at(objective, 0))
  after, metrics = jax.eval_shape(step, like, batch, jax.eval_shape(lambda: jax.random.key(0)))
  assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), like)
  assert all(m.shape == () and m.dtype == jnp.float32 for m in metrics.values())
  images = jax.eval_shape(
    lambda variables: objective.sample(variables, rng.image_keys(jax.random.key(0), jnp.arange(3)), {}), like.variables()
  )
  assert images.shape == (3, *example.image.shape)
  assert images.dtype == jnp.float32


@pytest.mark.parametrize('name', [pytest.param(n, marks=often(n) if n != 'digits_flow' else pytest.mark.slow) for n in KINDS])
def test_config_trains_when_shrunk(name):
  objective, optimizers = objects(name)
  if name not in ('digits_flow', 'cifar10_edm'):  # of which each halves and doubles in its own way
    objective = one_level(objective)
  shape = image_shape(config_of(name))
  batch = batch_of(jax.random.uniform(jax.random.key(1), (4, *shape), minval=-1))
  state = jax.jit(functools.partial(init_state, objective, optimizers))(jax.random.key(0), batch)
  step = jax.jit(step_of(objective, optimizers, turn=turn_at(objective, 0)))
  after = state
  for _ in range(2):  # a learning rate that warms up starts at 0
    after, metrics = step(after, batch, jax.random.key(2))
  assert int(after.step) == 2
  assert all(np.isfinite(float(m)) for m in metrics.values()), metrics
  for player in objective.players:
    assert float(metrics[f'{player}/grad_norm']) > 0
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), after.params[player], state.params[player])
    assert max(jax.tree.leaves(moved)) > 0, player


@pytest.mark.parametrize('name', CONFIGS)
def test_no_two_players_share_a_section(name):
  # ml_collections keeps one section where a config puts the same dict twice: an override would change both.
  config = importlib.import_module(f'configs.{name}').get_config()
  sections = [id(section) for section in config.optim.values()]
  assert len(set(sections)) == len(sections)


def test_every_objective_and_network_is_in_some_config():
  text = ' '.join(str(config_of(name)) for name in CONFIGS)
  for package, helpers in (
    (genjax.networks, {'layers', 'resample', 'embeddings', 'cpu_workarounds'}),
    (genjax.objectives, {'common', 'diffusion.augment', 'diffusion.denoising', 'vae.priors', 'previews'}),
  ):
    for module in pkgutil.walk_packages(package.__path__, f'{package.__name__}.'):
      name = module.name.removeprefix('genjax.')
      assert module.ispkg or name.partition('.')[2] in helpers or f'{name}.' in text, name
