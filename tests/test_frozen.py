"""Networks of another run: frozen beside those that are trained, or the start of a training; and averages of parameters."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import genjax
from genjax import optim, rng
from genjax.build import build, resolve, spec
from genjax.errors import UsageError
from genjax.optim import EMA
from genjax.step import TrainState
from tests.conftest import ROOT
from tests.programs import ENV, train

STEPS = '--config.train.steps='
CHECKPOINT = ['--config.train.checkpoint_every=2', f'{STEPS}4']
DISTILL = '''
"""A student that learns the images that a frozen teacher makes of the same latents."""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn

from configs import digits_vae
from genjax.build import spec
from genjax.conditioners import Unconditional
from genjax.types import Aux, Conditioner, Objective, Player, Variables


@dataclasses.dataclass(frozen=True)
class Student:
  network: nn.Module
  teacher: Objective
  conditioner: Conditioner = Unconditional()

  @property
  def players(self):
    return {'model': Player(self.loss)}

  def init(self, key, batch):
    return Variables({'model': self.network.init(key, jnp.zeros((len(batch.image), self.teacher.z_dim)))['params']}, {})

  def loss(self, params, context, batch, keys):
    z = self.teacher.latents(keys)
    label = self.teacher.conditioner.embed({'label': batch.index % 10})
    right = self.teacher.from_latents(params['teacher'], z, label, keys)
    made = self.network.apply({'params': params['model']}, z)
    return jnp.square(made - right).mean(), Aux({'teacher_mean': right.mean()})

  def sample(self, variables, keys, cond):
    return self.network.apply({'params': variables.params['model']}, self.teacher.latents(keys))


def get_config():
  config = digits_vae.get_config()
  config.objective = {'cls': 'distill.Student', 'network': spec('networks.mlp.MLPDecoder', width=8)}
  config.frozen = {'teacher': {'run': TEACHER, 'step': -1}}
  config.train.batch_size, config.train.log_every = 8, 1
  return config
'''


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
  path = tmp_path_factory.mktemp('frozen') / 'teacher'
  train('digits_vae', path, *CHECKPOINT)
  return path


@pytest.fixture
def distill(tmp_path, teacher):
  """`distill(*words, status=0)`: trains the student, and returns what was printed."""
  (tmp_path / 'distill.py').write_text(DISTILL.replace('TEACHER', repr(str(tmp_path / 'teacher'))))
  shutil.copytree(teacher, tmp_path / 'teacher')
  env = ENV | {'PYTHONPATH': f'{tmp_path}:{ROOT}'}

  def run(*words, status=0):
    command = [sys.executable, 'train.py', f'--config={tmp_path}/distill.py', '--allow_package=distill']
    command += [f'--workdir={tmp_path}/run', *words]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr

  return run


def parameters(path, part='params'):
  """Path -> array of the newest checkpoint."""
  run = genjax.load(path, ema=False)
  leaves = jax.tree_util.tree_leaves_with_path(getattr(run.variables, part))
  return {jax.tree_util.keystr(place): np.asarray(leaf) for place, leaf in leaves}


def test_a_frozen_network_is_copied_once_and_is_in_no_checkpoint(distill, tmp_path, teacher, monkeypatch):
  distill(f'{STEPS}2', '--config.train.checkpoint_every=2')
  record = json.loads((tmp_path / 'run' / 'config.json').read_text())['frozen']['teacher']
  assert record['step'] == 4
  assert len(record['hash']) == 16
  names = (tmp_path / 'run' / 'checkpoints' / '2' / 'params' / '_METADATA').read_text()
  assert "'model'" in names
  assert 'teacher' not in names
  monkeypatch.syspath_prepend(str(tmp_path))
  run = genjax.load(tmp_path / 'run', allow_package=['distill'])
  right = genjax.load(teacher).variables
  jax.tree.map(np.testing.assert_array_equal, run.variables.params['teacher'].params, right.params)
  shutil.rmtree(tmp_path / 'teacher')  # the copy is enough
  assert 'resuming from step 2' in distill(f'{STEPS}4')
  lines = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
  assert len({line['teacher_mean'] for line in lines}) == 4  # of other latents at each step
  (tmp_path / 'run' / 'frozen' / 'teacher.npz').write_bytes(b'')
  assert 'teacher.npz' in distill(f'{STEPS}6', status=1)


def test_other_frozen_networks_are_refused_on_resume(distill, tmp_path):
  distill(f'{STEPS}2', '--config.train.checkpoint_every=2')
  train('digits_vae', tmp_path / 'teacher', '--config.train.checkpoint_every=2', f'{STEPS}6')
  text = distill(f'{STEPS}4', '--config.frozen.teacher.step=6', status=1)
  assert 'frozen.teacher' in text
  assert 'step 6' in text
  assert 'step 4' in text
  assert 'resuming from step 2' in distill(f'{STEPS}4')  # the copy, although the teacher was trained further
  distill(f'{STEPS}6', '--config.frozen.teacher.run=/nowhere')  # the copy


def test_a_run_with_frozen_networks_resumes_by_its_directory_alone(distill, tmp_path):
  distill(f'{STEPS}2', '--config.train.checkpoint_every=2')
  words = ['--resume', str(tmp_path / 'run'), '--allow_package=distill', '--config.train.log_every=2']
  env = ENV | {'PYTHONPATH': f'{tmp_path}:{ROOT}'}
  done = subprocess.run([sys.executable, 'train.py', *words], cwd=ROOT, env=env, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert 'nothing to do' in done.stdout


def test_a_dry_run_counts_the_step_with_frozen_networks(distill):
  assert 'FLOPs' in distill('--dry_run')


@pytest.mark.slow
@pytest.mark.parametrize('strategy', ['fsdp', 'pmap'])
def test_frozen_networks_compute_the_same_under_every_strategy(distill, tmp_path, strategy):
  def losses():
    lines = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
    shutil.rmtree(tmp_path / 'run')
    return [line['model/loss'] for line in lines]

  distill(f'{STEPS}3')
  right = losses()
  distill(f'{STEPS}3', f'--config.train.strategy={strategy}')
  np.testing.assert_allclose(losses(), right, rtol=1e-5)


def test_a_run_starts_from_another(teacher, tmp_path):
  text = train(
    'digits_vae',
    tmp_path / 'run',
    f'{STEPS}1',
    f'--config.train.init_from={teacher}',
    '--config.optim.model.learning_rate.peak=0.0',
  )
  before, after = parameters(teacher), parameters(tmp_path / 'run')
  start = genjax.load(teacher).variables.params  # its averages
  leaves = jax.tree_util.tree_leaves_with_path(start)
  for place, leaf in leaves:
    np.testing.assert_array_equal(after[jax.tree_util.keystr(place)], leaf)
  assert before.keys() == after.keys()
  assert f'{len(leaves)} arrays' in text
  assert 'step 4' in text


def test_a_run_does_not_start_from_another_model(teacher, tmp_path):
  words = [f'{STEPS}1', f'--config.train.init_from={teacher}', '--config.objective.encoder.width=16']
  assert 'train.init_from' in train('digits_vae', tmp_path / 'run', *words, '--dry_run', status=1)
  text = train('digits_vae', tmp_path / 'run', *words, status=1)
  assert 'train.init_from' in text
  assert 'encoder/Hidden_0/Dense_0/kernel is [74, 8], not [74, 16]' in text


@pytest.mark.parametrize('name', ['optax.lion', 'optax.adamw', 'optax.sgd', 'optax.contrib.muon', 'optax.contrib.prodigy'])
def test_optimizers_of_optax_are_built_by_name(name):
  optimizer = build(spec('optim.chain', optimizer=spec(name, learning_rate=0.1), clip=1.0, skip=100.0))
  params = {'w': jnp.ones((3, 3))}
  state = optimizer.init(params)
  updates, state = optimizer.update({'w': jnp.full((3, 3), 2.0)}, state, params)
  assert np.isfinite(updates['w']).all()
  assert (updates['w'] < 0).all()
  skipped, state = optimizer.update({'w': jnp.full((3, 3), 200.0)}, state, params)
  assert not skipped['w'].any()
  assert int(state.skipped) == 1


def test_schedules_of_optax_are_built_by_name():
  schedule = spec('optax.warmup_cosine_decay_schedule', init_value=0.0, peak_value=1.0, warmup_steps=2, decay_steps=4)
  optimizer = build(spec('optax.sgd', learning_rate=schedule))
  params = {'w': jnp.ones(())}
  state, steps = optimizer.init(params), []
  for _ in range(4):
    updates, state = optimizer.update({'w': jnp.ones(())}, state, params)
    steps.append(-float(updates['w']))
  np.testing.assert_allclose(steps, [0, 0.5, 1, 0.5], atol=1e-6)


def test_functions_of_optax_take_lists_dictionaries_and_what_is_not_annotated():
  constant = lambda value: spec('optax.constant_schedule', value=value)  # noqa: E731
  joined = build(json.loads(json.dumps(spec('optax.join_schedules', schedules=[constant(1.0), constant(2.0)], boundaries=[3]))))
  assert [float(joined(step)) for step in (0, 2, 3, 9)] == [1, 1, 2, 2]
  scales = spec('optax.piecewise_constant_schedule', init_value=1.0, boundaries_and_scales={'2': 0.5, '4': 0.1})
  stepped = build(json.loads(json.dumps(scales)))  # JSON has no integer keys
  np.testing.assert_allclose([float(stepped(step)) for step in (0, 3, 5)], [1, 0.5, 0.05])
  for name in ('optax.lars', 'optax.lbfgs'):
    assert isinstance(build(spec(name, learning_rate=0.1)), optax.GradientTransformation)
  with pytest.raises(UsageError, match='schedules'):
    spec('optax.join_schedules', schedules=3, boundaries=[3])


def test_a_schedule_in_the_place_of_an_optimizer_is_named(tmp_path):
  (tmp_path / 'config.py').write_text(
    'from configs import digits_vae\nfrom genjax.build import spec\n\n\ndef get_config():\n  config = digits_vae.get_config()\n'
    "  config.optim = {'model': spec('optax.constant_schedule', value=1.0)}\n  return config\n"
  )
  words = [sys.executable, 'train.py', f'--config={tmp_path}/config.py', f'--workdir={tmp_path}/run']
  done = subprocess.run(words, cwd=ROOT, env=ENV | {'PYTHONPATH': str(ROOT)}, capture_output=True, text=True)
  assert 'config.optim.model' in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(
  'name', ['optax.lino', 'optax.tree', 'optax.l2_loss', 'optax.contrib._muon', 'optax.Schedule', 'optax.inject_hyperparams']
)
def test_other_functions_of_optax_are_refused(name):
  with pytest.raises(UsageError, match='optax'):
    resolve(f'optax.{name}')


def test_an_average_is_one_class():
  class Last:
    def init(self, params):
      return {'kept': params, 'seen': 0}

    def update(self, average, params, step, batch_size):
      return {'kept': params, 'seen': average['seen'] + batch_size}

    def select(self, average):
      return average['kept']

  params = {'model': {'w': jnp.ones(2)}}
  state = TrainState(
    jnp.asarray(3), params, {}, {}, {'model': Last().update(Last().init(params['model']), {'w': jnp.zeros(2)}, 3, 8)}
  )
  assert not state.variables(Last()).params['model']['w'].any()
  assert state.variables(None).params['model']['w'].all()
  assert state.ema['model']['seen'] == 8


@pytest.mark.parametrize('halflife', [0.0, -1.0, float('inf')])
def test_a_halflife_is_positive(halflife):
  with pytest.raises(UsageError, match='halflife'):
    EMA(halflife)


def test_adam_is_a_chain_of_optax_s():
  ours = optim.adam(1e-2, clip=1.0)
  theirs = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2, weight_decay=0.0))
  params, grads = {'w': jnp.arange(3.0)}, {'w': rng.normal(rng.image_keys(rng.key(0), jnp.arange(3)), ())}
  actual = [optimizer.update(grads, optimizer.init(params), params)[0]['w'] for optimizer in (ours, theirs)]
  np.testing.assert_array_equal(*actual)
