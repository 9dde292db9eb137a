"""A run directory: trained by train.py, opened by load and sample.py; mistakes end in one line."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import genjax
import sample
from genjax import replay
from genjax.build import build
from genjax.checkpoint import Checkpoints
from genjax.commandline import config_path
from genjax.errors import UsageError
from genjax.logging import Metrics
from genjax.parallel import make_mesh, replicated
from genjax.run import _sample, abstract_state
from genjax.workdir import open_workdir, read_config
from tests.conftest import ROOT

TINY = {
  'digits_vae': ['--config.objective.encoder.width=8', '--config.objective.decoder.width=8'],
  'digits_gan': ['--config.objective.generator.width=8', '--config.objective.discriminator.width=8'],
  'digits_flow': [
    '--config.objective.network.width=8',
    '--config.objective.network.multipliers=(1,)',
    '--config.objective.network.attention=(8,)',
    '--config.objective.network.head_features=8',
  ],
}


def command(name, workdir, *more):
  """train.py on one device, as a user calls it."""
  options = ['--config.train.batch_size=8', '--config.train.sample_every=1000', '--config.train.log_every=5']
  return [sys.executable, 'train.py', f'--config=configs/{name}.py', f'--workdir={workdir}', *TINY[name], *options, *more]


ENV = {**os.environ, 'JAX_NUM_CPU_DEVICES': '1'}


def size(path):
  with Image.open(path) as image:
    return image.size


def train(name, workdir, *more, status=0):
  done = subprocess.run(command(name, workdir, *more), cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=300)
  assert done.returncode == status, done.stdout + done.stderr
  return done.stdout + done.stderr


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """A run of each family, 10 steps, made when first asked for."""
  made = {}

  def run(name):
    if name not in made:
      made[name] = tmp_path_factory.mktemp(name) / 'run'
      train(name, made[name], '--config.train.steps=10', '--config.train.checkpoint_every=5')
    return made[name]

  return run


def test_a_run_directory_holds_what_is_promised(runs):
  path = runs('digits_flow')
  config = json.loads((path / 'config.json').read_text())
  assert config['data']['image_shape'] == [8, 8, 1]
  assert config['objective']['network']['width'] == 8
  assert config['objective']['label_dropout'] == 0.1  # defaults written out
  environment = json.loads((path / 'environment.json').read_text())
  assert environment['versions']['jax'] == jax.__version__
  lines = [json.loads(line) for line in (path / 'metrics.jsonl').read_text().splitlines()]
  assert [line['step'] for line in lines] == [5, 10]
  assert lines[1]['kimg'] == 0.08
  assert {'model/loss', 'model/grad_norm', 'images_per_second'} <= set(lines[1])
  assert [line for line in lines if 'compile_seconds' in line] == lines[:1]
  assert size(path / 'samples' / 'step_00000010.png') == (10 * 66 - 2, 8 * 66 - 2)
  assert list((path / 'tensorboard').iterdir())


def test_load_and_sample(runs):
  run = genjax.load(runs('digits_flow'))
  images = run.sample(jax.random.key(0), 6, label=3, steps=2)
  assert images.shape == (6, 8, 8, 1)
  assert float(images.min()) >= -1
  assert float(images.max()) <= 1
  np.testing.assert_allclose(images[:4], run.sample(jax.random.key(0), 4, label=3, steps=2), atol=1e-5)
  np.testing.assert_allclose(images, run.sample(jax.random.key(0), 6, label=3, steps=2, batch_size=4), atol=1e-5)
  other = run.sample(jax.random.key(0), 6, label=[3, 3, 3, 3, 3, 4], steps=2)
  np.testing.assert_allclose(images[:5], other[:5], atol=1e-5)
  before = _sample._cache_size()
  run.sample(jax.random.key(9), 6, label=5, steps=2)
  assert _sample._cache_size() == before  # compiled once per shape and options
  assert run.options == {'solver': 'heun', 'steps': 25, 'guidance': 1.0}


def test_the_moving_average_is_not_the_parameters(runs):
  path = runs('digits_vae')
  a, b = (jax.tree.leaves(genjax.load(path, ema=ema).variables.params) for ema in (True, False))
  assert any((x != y).any() for x, y in zip(a, b, strict=True))
  config = read_config(path)
  like = abstract_state(build(config['objective']), tuple(config['data']['image_shape']))
  checkpoints = Checkpoints(path / 'checkpoints', read_only=True)
  saved = checkpoints.restore(10, like, replicated(make_mesh(jax.devices()[:1])), ('ema', 'params'))
  checkpoints.close()
  assert all((x == y).all() for x, y in zip(a, jax.tree.leaves(saved['ema']), strict=True))
  assert all((x == y).all() for x, y in zip(b, jax.tree.leaves(saved['params']), strict=True))
  assert genjax.load(path, step=5).step == 5


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda run: run.sample(jax.random.key(0), 0), 'n=0: ask for at least one image'),
    (lambda run: run.sample(jax.random.key(0), 2, label=10), 'label=10: this model has the classes 0 to 9'),
    (lambda run: run.sample(jax.random.key(0), 2, label=[1, 2, 3]), 'one for each of the 2 images'),
    (lambda run: run.sample(jax.random.key(0), 2, stepz=3), "no option 'stepz'; it has solver, steps, guidance"),
    (lambda run: run.sample(jax.random.key(0), 2, solver='hein'), "solver='hein' is not there. Did you mean heun"),
    (lambda run: run.sample(jax.random.key(0), 2, steps=0), 'steps=0: a solver takes at least 1'),
    (lambda run: genjax.load(run.path, step=7), 'no checkpoint of step 7; it has 5, 10'),
    (lambda run: genjax.load(run.path / 'samples'), 'is not a run directory: it has no config.json'),
  ],
)
def test_sampling_mistakes(runs, call, message):
  with pytest.raises(UsageError, match=message):
    call(genjax.load(runs('digits_flow')))


def test_sample_py(runs, tmp_path, capsys):
  out, npz = tmp_path / 'new' / 'grid.png', tmp_path / 'x.npz'
  sample.main(
    [
      '--run',
      str(runs('digits_flow')),
      '--n',
      '12',
      '--label',
      'each',
      '--out',
      str(out),
      '--npz',
      str(npz),
      '--steps',
      '2',
      '--solver=euler',
    ]
  )
  assert size(out) == (10 * 66 - 2, 2 * 66 - 2)
  with np.load(npz) as file:
    assert file['image'].shape == (12, 8, 8, 1)
    assert file['image'].dtype == np.uint8
    assert file['label'].tolist() == [*range(10), 0, 1]
    assert int(file['seed']) == 0
    assert json.loads(str(file['options']))['solver'] == 'euler'
  sample.main(['--run', str(runs('digits_gan')), '--n', '3', '--npz', str(npz)])
  with np.load(npz) as file:
    assert file['label'].shape == (3,)  # drawn, and written down
  sample.main(['--run', str(runs('digits_gan')), '--help'])
  assert '--truncation (1.0)' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    (['--stepz', '2'], 'no option --stepz; it has --solver, --steps, --guidance'),
    (['--steps', 'two'], '--steps=two: it takes a whole number'),
    (['--steps'], '--steps needs a value'),
    (['--label', 'cat'], '--label cat: give a class'),
    (['--label', '11'], '^label=11: this model has the classes 0 to 9.$'),
    (['--label', '3,12'], '^label=12: this model has the classes 0 to 9.$'),
    (['--label', '99999999999999999999'], 'label: give one whole number'),
    (['--n', 'many'], "argument --n: invalid int value: 'many'; see --help"),
    (['--n', '0'], '--n 0: ask for at least one image'),
    (['--seed', '-1'], '--seed -1: give a number from 0'),
    (['--out', 'grid.jpg'], 'the grid is a PNG'),
  ],
)
def test_sample_py_mistakes(runs, tmp_path, words, message):
  with pytest.raises(UsageError, match=message):
    sample.main(['--run', str(runs('digits_flow')), '--out', str(tmp_path / 'x.png'), *words])


def test_sample_py_says_what_is_missing():
  with pytest.raises(UsageError, match='say which run'):
    sample.main(['--out', 'x.png'])
  with pytest.raises(UsageError, match='say where to'):
    sample.main(['--run', 'x'])
  done = subprocess.run([sys.executable, 'sample.py', '--run', 'x', '--out', 'x.png'], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 1
  assert done.stderr == 'error: x is not a run directory: it has no config.json.\n'


@pytest.mark.parametrize(
  ('more', 'message'),
  [
    (['--config.train.stepz=5'], 'Did you mean "steps"'),
    (['--config.data.name=digit'], 'Did you mean digits?'),
    (['--config.train.batch_size=0'], 'train.batch_size=0 must be 1 or more'),
    (['--config.train.strategy=tpu'], "train.strategy='tpu': give one of jit, fsdp, pmap"),
    (['--config.objective.num_classes=5'], 'digits has 10 classes, config.objective.num_classes=5: set it to 10'),
    (['--config=configs/digit_vae.py'], "there is no config file 'configs/digit_vae.py'"),
    (['--config.train.steps=many'], '--config.train.steps=many: invalid literal for int'),
    (['--confg=x'], "Unknown command line flag 'confg'"),
    (['--config.optim.model.learning_rate=1e-4'], '--config.optim.model.learning_rate is a section: override a value in it'),
    (['--config.data.memory_gib=-1.0'], 'data.memory_gib=-1.0 must not be negative'),
    (['stray'], "'stray' is not an option"),
    (['--config.train.accumulate=3'], 'train.batch_size=8 must be a multiple of train.accumulate=3'),
    (['--config.objective.encoder.width=-4'], 'networks.mlp.MLPEncoder: width=-4 must be 1 or more'),
    (['--config.data.split=val'], "digits has no split 'val': give data.split=train or test"),
    (['--workdir=/proc/nobody/x'], '/proc/nobody/x cannot be written to'),
  ],
)
def test_a_user_s_mistake_ends_in_a_line_and_not_a_traceback(tmp_path, more, message):
  text = train('digits_vae', tmp_path / 'run', '--config.train.steps=5', *more, status=1)
  assert message in text
  assert 'Traceback' not in text
  assert len(text.strip().splitlines()) <= 2, text
  assert not (tmp_path / 'run').exists()


def test_a_workdir_of_another_config_is_refused_with_the_difference(tmp_path, capsys):
  config = {'data': {}, 'train': {'steps': 5, 'seed': 0}, 'objective': {'beta': 1.0}, 'optim': {'model': {'steps': 5}}}
  longer = config | {'train': {'steps': 9, 'seed': 0}, 'optim': {'model': {'steps': 9}}}
  other = config | {'train': {'steps': 9, 'seed': 1}, 'objective': {'beta': 2.0}}
  os.close(open_workdir(tmp_path / 'run', config))
  os.close(open_workdir(tmp_path / 'run', other))  # nothing is trained yet
  held = open_workdir(tmp_path / 'run', config)
  with pytest.raises(UsageError, match=rf'run is in use by process {os.getpid()} on .*: wait for it'):
    open_workdir(tmp_path / 'run', config)
  os.close(held)
  (tmp_path / 'run' / 'checkpoints' / '5').mkdir(parents=True)
  with pytest.raises(UsageError, match=r'belongs to another config \(objective.beta: 1.0 -> 2.0; train.seed: 0 -> 1\)'):
    open_workdir(tmp_path / 'run', other)
  os.close(open_workdir(tmp_path / 'run', longer))
  assert 'optim.model.steps goes from 5 to 9 with train.steps: the schedule follows' in capsys.readouterr().out
  assert read_config(tmp_path / 'run') == longer
  (tmp_path / 'other').mkdir()
  (tmp_path / 'other' / 'thesis.tex').write_text('mine')
  with pytest.raises(UsageError, match='is not empty and not a run directory'):
    open_workdir(tmp_path / 'other', {'objective': {}})
  assert [p.name for p in (tmp_path / 'other').iterdir()] == ['thesis.tex']


def test_a_bad_image_met_on_the_way_loses_nothing(tmp_path):
  (tmp_path / 'images').mkdir()
  for i in range(24):
    Image.new('L', (8, 8), i).save(tmp_path / 'images' / f'{i:02}.png')
  (tmp_path / 'images' / '13.png').write_bytes(b'')
  more = [f'--config.data.name={tmp_path}/images', '--config.data.memory_gib=0.0', '--config.objective.num_classes=0']
  more += ['--config.train.steps=20', '--config.train.batch_size=1']
  text = train('digits_vae', tmp_path / 'run', *more, status=1)
  assert '13.png cannot be read' in text
  reached = genjax.load(tmp_path / 'run').step
  text = train('digits_vae', tmp_path / 'run', *more, '--config.data.skip=True')
  assert 'the data had 24 images and has 23: from here on their order is another' in text
  assert f'resuming from step {reached}' in text


def test_dry_run_says_what_it_would_be_and_makes_nothing(tmp_path):
  text = train('digits_gan', tmp_path / 'run', '--dry_run')
  assert '"cls": "objectives.gan.GAN"' in text
  # 74 inputs (64 pixels, 10 classes) -> 8 -> 8 -> 1, and 42 -> 8 -> 8 -> 64, with biases
  assert 'parameters discriminator 681, generator 992' in text
  flops = float(text.split('FLOPs per step ')[1].split()[0])
  assert flops > 1e4
  assert 'bytes of state' in text
  assert not (tmp_path / 'run').exists()


def test_without_arguments_it_is_the_digits_flow():
  assert config_path(['train.py']) is None
  done = subprocess.run([sys.executable, 'train.py', '--dry_run'], cwd=ROOT, env=ENV, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert '"name": "digits"' in done.stdout
  assert '"cls": "objectives.flow.RectifiedFlow"' in done.stdout


def test_a_finished_run_says_so_and_goes_on_when_asked(tmp_path):
  first = ['--config.train.steps=4', '--config.train.checkpoint_every=2']
  train('digits_vae', tmp_path / 'run', *first)
  assert 'nothing to do. Raise train.steps' in train('digits_vae', tmp_path / 'run', *first)
  text = train('digits_vae', tmp_path / 'run', '--config.train.steps=6', '--config.train.checkpoint_every=2')
  assert 'resuming from step 4' in text
  assert 'optim.model.learning_rate.steps goes from 4 to 6 with train.steps: the schedule follows' in text
  record = read_config(tmp_path / 'run')
  assert 'nothing to do' in train('digits_vae', tmp_path / 'run', '--config.train.steps=2')
  assert read_config(tmp_path / 'run') == record  # of how it was trained
  text = train('digits_vae', tmp_path / 'run', '--config.train.steps=7', '--config.objective.beta=2.0', status=1)
  assert 'belongs to another config (objective.beta: 1.0 -> 2.0' in text


def test_a_loss_that_is_not_finite_stops_the_run_and_can_be_replayed(tmp_path):
  path = tmp_path / 'x.npz'
  np.savez(path, image=np.zeros((16, 8, 8), np.uint8), label=np.arange(16) % 10)
  more = ['--config.train.steps=200', '--config.train.checkpoint_every=1', '--config.optim.model.learning_rate.peak=1e30']
  text = train('digits_vae', tmp_path / 'run', f'--config.data.name={path}', *more, status=1)
  assert 'Traceback' not in text
  error, remedy = text.strip().splitlines()[-2:]
  step = int(error.split('not finite at step ')[1].split(';')[0])
  assert 'player model: ' in error
  assert remedy.startswith('Train anew in another --workdir with a lower learning rate')
  run = genjax.load(tmp_path / 'run', ema=False)
  assert run.step == step - 1  # the state before, and no later one, was saved
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(run.variables.params))
  words = [sys.executable, 'train.py', f'--replay={tmp_path}/run/nan/step_{step:08d}']
  again = subprocess.run(words, cwd=ROOT, env=ENV, capture_output=True, text=True, check=True).stdout
  assert again.splitlines()[0].startswith(f'step {step}, players model; in training, and here on cpu')
  assert again.splitlines()[-1] == error.split('; ')[1].removesuffix(
    f'. To see it: --replay {tmp_path}/run/nan/step_{step:08d}'
  )
  with pytest.raises(UsageError, match='holds no step to replay'):
    replay.load(tmp_path, None, None)


def test_metrics_after_the_resumed_step_are_cut(tmp_path):
  log = Metrics(tmp_path, 0, 8, {})
  for step in (5, 10, 15):
    log.write(step, {'loss': float(step)})
  log.close()
  with open(tmp_path / 'metrics.jsonl', 'a') as file:
    file.write('{"step": 2')  # a kill in the middle of a line
  log = Metrics(tmp_path, 10, 8, {})
  log.write(15, {'loss': float('nan')})
  log.close()
  lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert [line['step'] for line in lines] == [5, 10, 15]
  assert lines[-1]['loss'] is None


def test_wandb_that_is_not_installed(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  with pytest.raises(UsageError, match='--wandb needs the package: pip install wandb'):
    Metrics(tmp_path, 0, 8, {}, 'project')


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('{', 'is not JSON'),
    ('[]', 'lacks one of the sections'),
    ('{"data": {}, "train": {}, "optim": {}}', 'lacks one of the sections'),
    ('{"data": {}, "train": {}, "optim": {}, "objective": {"cls": "os.system"}}', "cls='os.system' names nothing in genjax"),
    ('{"data": {}, "train": {}, "optim": {}, "objective": {}}', 'is not an objective'),
  ],
)
def test_a_config_that_genjax_did_not_write(tmp_path, text, message):
  (tmp_path / 'config.json').write_text(text)
  with pytest.raises(UsageError, match=message):
    genjax.load(tmp_path)
