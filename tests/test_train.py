"""train.py as its user meets it: mistakes, dry run, going on, a loss that is not finite."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
import warnings

import jax
import numpy as np
import pytest

import genjax
from configs import gaussians_wgan_gp
from genjax.commandline import Parser, refuse_shared_steps
from genjax.conditioners import ClassLabel, Together, Unconditional
from genjax.data.sources.base import Arrays
from genjax.data.sources.open import open_data
from genjax.errors import UsageError, UsageWarning
from genjax.experiment import build_experiment, check_fit
from genjax.logging import read_metrics
from genjax.networks.pixel_transformer import PixelTransformer
from genjax.parallel import initialize_distributed
from genjax.workdir import read_config
from tests.conftest import CLASSES, ROOT, UNCONDITIONAL, config_of, sometimes
from tests.programs import ENV, command, images_of_which_one_is_empty, train
from tests.test_conditioners import Tint


@pytest.mark.parametrize(
  ('more', 'message'),
  sometimes(
    [
      (['--config.train.stepz=5'], 'Did you mean steps'),
      (['--config.data.name=digit'], 'Did you mean digits?'),
      (['--config.train.batch_size=0'], 'train.batch_size=0 must be 1 or more'),
      (['--config.train.strategy=tpu'], "train.strategy='tpu' must be one of jit, fsdp, pmap"),
      (['--config.objective.conditioner.cls=conditioners.ClassLable'], 'Did you mean conditioners.ClassLabel'),
      (['--config=configs/digit_vae.py'], '--config configs/digit_vae.py: there is no such config file'),
      (['--config.train.steps=many'], '--config.train.steps=many must be an integer'),
      (['--confg=x'], '--confg=x'),
      (['--config.optim.model.learning_rate=1e-4'], '--config.optim.model.learning_rate is a section: override a value in it'),
      (['--config.data.memory_gib=-1.0'], 'data.memory_gib=-1.0 must not be negative'),
      (['stray'], 'stray'),
      (['--config.train.accumulate=3'], 'train.batch_size=8 must be a multiple of train.accumulate=3'),
      (['--config.objective.encoder.width=-4'], 'networks.mlp.MLPEncoder: width=-4 must be 1 or more'),
      (['--config.data.split=val'], "digits has no split 'val': use data.split=train or test"),
      (['--num_processes=2', '--process_id=1'], '--num_processes=2 and --process_id=1 need --coordinator=HOST:PORT'),
      (['--workdir=/proc/nobody/x'], '/proc/nobody/x cannot be written to'),
      (['--config.train.batch_size=100000000000', '--dry_run'], 'train.batch_size=100000000000: the images take 51,200 GB'),
      (['--config.data.resolution=100000'], 'data.resolution=100000'),
      (['--config.objective.encoder.width=10000000'], 'the parameters, their averages and the optimizer state take'),
      (['--config.objective.num_classes=0'], 'Its name is conditioner now'),
    ],
    *(0, 5, 12, 15, 16),
  ),
)
def test_mistakes_end_in_one_line_without_a_traceback(tmp_path, more, message):
  text = train('digits_vae', tmp_path / 'run', '--config.train.steps=5', *more, status=1)
  assert message in text
  assert 'Traceback' not in text
  assert len(text.strip().splitlines()) <= 2, text
  assert not (tmp_path / 'run').exists()


PARTS_OF_MINE = """
import dataclasses
from genjax.networks.mlp import MLPGenerator
from genjax.objectives.gan.losses import Hinge


@dataclasses.dataclass(frozen=True)
class Loss(Hinge):
  scale: float = 1.0

  def generator(self, real, fake):
    return self.scale * super().generator(real, fake)


class Net(MLPGenerator):
  depth: int = 1
"""
CONFIG_OF_MINE = """
from configs import digits_gan
from genjax.build import spec


def get_config():
  config = digits_gan.get_config()
  config.train.batch_size = 8
  config.objective.discriminator.width = 8
  config.objective.loss = spec('parts_of_mine.Loss')
  config.objective.generator = {'cls': 'parts_of_mine.Net', 'width': 8}  # no spec()
  return config
"""


@pytest.mark.slow
def test_a_run_with_custom_classes_resumes(tmp_path):
  (tmp_path / 'parts_of_mine.py').write_text(PARTS_OF_MINE)
  (tmp_path / 'mine.py').write_text(CONFIG_OF_MINE)

  def trained(steps, *more, status=0):
    words = [f'--config={tmp_path}/mine.py', f'--workdir={tmp_path}/run', f'--config.train.steps={steps}', *more]
    env = ENV | {'PYTHONPATH': f'{tmp_path}:{ROOT}'}
    done = subprocess.run([sys.executable, 'train.py', *words], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr

  message = 'is not of genjax. If you trust the code of parts_of_mine, add --allow_package parts_of_mine.'
  assert message in trained(2, status=1)
  trained(2, '--allow_package=parts_of_mine')
  written = json.loads((tmp_path / 'run' / 'config.json').read_text())['objective']
  assert written['loss'] == {'cls': 'parts_of_mine.Loss', 'scale': 1.0}
  own = {'cls': 'parts_of_mine.Net', 'image_shape': [8, 8, 1], 'z_dim': 32, 'width': 8, 'depth': 1, 'dtype': 'float32'}
  assert written['generator'] == own
  assert 'resuming from step 2' in trained(4, '--allow_package=parts_of_mine')


@pytest.mark.slow
def test_another_class_is_set_on_the_command_line(tmp_path):
  words = ['--config.objective.loss.cls=objectives.gan.losses.Hinge', '--dry_run']
  text = train('digits_gan', tmp_path / 'run', *words)
  assert 'objective.loss.smoothing: dropped' in text
  assert '"cls": "objectives.gan.losses.Hinge"' in text


@pytest.mark.slow
def test_an_unreadable_image_during_training_loses_no_steps(tmp_path):
  more = images_of_which_one_is_empty(tmp_path / 'images')
  more += ['--config.train.steps=20', '--config.train.batch_size=1']
  text = train('digits_vae', tmp_path / 'run', *more, status=1)
  assert '13.png cannot be read' in text
  reached = genjax.load(tmp_path / 'run').step
  text = train('digits_vae', tmp_path / 'run', *more, '--config.data.skip=True')
  assert 'the data had 24 images and has 23' in text
  assert f'resuming from step {reached}' in text


def objects_of(name, path, conditioner=None, **data):
  """What train.py makes of a config with another data set or conditioner."""
  config = config_of(name)
  np.savez(path, image=np.zeros((8, 8, 8), np.uint8), **data)
  config['data']['name'] = str(path)
  config['objective'] |= {'conditioner': conditioner} if conditioner else {}
  return build_experiment(config, [], path.parent / 'run')


def test_the_number_of_classes_follows_from_the_data(tmp_path):
  for label in (np.arange(8) % 3, np.arange(8)):
    built = objects_of('digits_vae', tmp_path / 'x.npz', label=label)
    classes = label.max() + 1
    assert built.objective.conditioner == ClassLabel(classes)
    assert built.resolved['objective']['conditioner'] == {'cls': 'conditioners.ClassLabel', 'classes': classes}
    assert built.resolved['data']['classes'] == [str(i) for i in range(classes)]
    assert built.resolved['data']['cond'] == {'label': ['int32', []]}
  unlabeled = objects_of('digits_vae', tmp_path / 'x.npz', UNCONDITIONAL)
  assert unlabeled.objective.conditioner == Unconditional()
  assert (unlabeled.resolved['data']['classes'], unlabeled.resolved['data']['cond']) == ([], {})


def test_conditions_that_data_or_networks_do_not_have_are_refused_with_a_remedy(tmp_path):
  path, remedy = tmp_path / 'x.npz', '--config.objective.conditioner.cls=conditioners.Unconditional'
  label = np.arange(8) % 3
  with pytest.raises(UsageError, match=rf'x.npz.*no labels.*{remedy}'):
    objects_of('digits_vae', path)
  with pytest.raises(UsageError, match=rf'x.npz.*3 classes.*classes=5: remove it.*{remedy}'):
    objects_of('digits_vae', path, CLASSES | {'classes': 5}, label=label)
  built = objects_of('digits_vq', path, CLASSES, label=label)
  both = dataclasses.replace(built.objective, conditioner=Together((ClassLabel(3), Tint())))
  source = Arrays('x', built.source.images, built.source.cond | {'tint': np.ones((8, 3), np.float32)}, built.source.classes)
  with pytest.raises(UsageError, match=r'no tint'):
    check_fit(both, built.optimizers, built.source)
  with pytest.raises(UsageError, match=rf"'tint'.*no network of VQVAE reads.*{remedy}"):
    check_fit(both, built.optimizers, source)
  check_fit(dataclasses.replace(both, prior=Tinted(both.prior.image_shape, 64)), built.optimizers, source)  # one is enough


class Tinted(PixelTransformer):
  fields = ('label', 'tint')


def test_a_repeated_warning_is_printed_once():
  with warnings.catch_warnings(record=True) as printed:
    warnings.resetwarnings()
    Parser('a script')
    for side in (7, 7, 5):
      warnings.warn(f'no feature map has side {side}', UsageWarning, stacklevel=1)
  assert [str(warning.message) for warning in printed] == [f'no feature map has side {side}' for side in (7, 5)]


def test_an_override_that_would_change_the_number_of_steps_is_refused():
  config = gaussians_wgan_gp.get_config()
  refuse_shared_steps(config, ['train.steps', 'train.seed', 'optim.generator.learning_rate.steps', 'objective.nothing.here'])
  with pytest.raises(UsageError, match=r'--config.optim.discriminator.learning_rate.steps .* train.steps'):
    refuse_shared_steps(config, ['train.steps', 'optim.discriminator.learning_rate.steps'])


def test_dry_run_describes_the_run_and_writes_nothing(tmp_path):
  text = train('digits_gan', tmp_path / 'run', '--dry_run')
  assert '"cls": "objectives.gan.gan.GAN"' in text
  assert f'"hash": "{open_data("digits", 8).contents().hash}"' in text
  # 74 inputs (64 pixels, 10 classes) -> 8 -> 8 -> 1, and 42 -> 8 -> 8 -> 64, with biases
  assert 'parameters discriminator 681, generator 992' in text
  flops = float(text.split('FLOPs per step ')[1].split()[0])
  assert flops > 1e4
  assert 'bytes of state' in text
  assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_a_warning_if_training_ends_before_the_last_level(tmp_path):
  text = train('digits_progressive', tmp_path / 'run', '--dry_run', '--config.train.steps=10')
  assert 'train.steps=10: all levels are used only from step 1200' in text


@pytest.mark.slow
def test_without_arguments_it_is_the_digits_flow():
  done = subprocess.run([sys.executable, 'train.py', '--dry_run'], cwd=ROOT, env=ENV, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert '"name": "digits"' in done.stdout
  assert '"cls": "samplers.paths.RectifiedFlow"' in done.stdout


@pytest.mark.slow
def test_a_finished_run_prints_a_message_and_continues_with_more_steps(tmp_path):
  first = ['--config.train.steps=4', '--config.train.checkpoint_every=2']
  train('digits_vae', tmp_path / 'run', *first)
  assert 'nothing to do. Raise train.steps' in train('digits_vae', tmp_path / 'run', *first)
  text = train('digits_vae', tmp_path / 'run', '--config.train.steps=6', '--config.train.checkpoint_every=2')
  assert 'resuming from step 4' in text
  assert 'optim.model.learning_rate.steps changes from 4 to 6 with train.steps' in text
  record = read_config(tmp_path / 'run')
  text = train('digits_vae', tmp_path / 'run', '--config.train.steps=2')
  assert 'nothing to do' in text
  assert 'changes' not in text
  assert read_config(tmp_path / 'run') == record  # of how it was trained
  text = train('digits_vae', tmp_path / 'run', '--config.train.steps=7', '--config.objective.beta=2.0', status=1)
  assert 'belongs to another config (objective.beta: 1.0 -> 2.0' in text


@pytest.mark.slow
def test_a_schedule_of_a_part_of_the_steps_follows_them(tmp_path):
  run, words = tmp_path / 'run', ['--config.train.checkpoint_every=5']
  train('gaussians_wgan_gp', run, *words, '--config.train.steps=10')
  assert read_config(run)['optim']['generator']['learning_rate']['steps'] == 2
  text = train('gaussians_wgan_gp', run, *words, '--config.train.steps=30')
  assert 'resuming from step 10' in text
  assert 'optim.generator.learning_rate.steps changes from 2 to 6 with train.steps' in text
  assert read_config(run)['optim']['generator']['learning_rate']['steps'] == 6
  more = [*words, '--config.train.steps=40', '--config.optim.generator.learning_rate.peak=0.5']
  assert 'optim.generator.learning_rate.peak: 0.001 -> 0.5' in train('gaussians_wgan_gp', run, *more, status=1)


@pytest.mark.slow
def test_actions_that_were_due_at_a_saved_step_are_done_on_resume(tmp_path):
  """A kill between the save of a step and its picture, in the middle and at the end."""
  run, options = tmp_path / 'run', ['--config.train.checkpoint_every=2', '--config.train.sample_every=2']
  train('digits_gan', run, *options, '--config.train.steps=2')
  for steps in (4, 2):  # resumed from step 2 to go on, and at its end
    killed, picture = tmp_path / f'killed_{steps}', 'samples/step_00000002.png'
    shutil.copytree(run, killed)
    (killed / picture).unlink()
    lines = (killed / 'metrics.jsonl').read_text().splitlines(keepends=True)
    (killed / 'metrics.jsonl').write_text(''.join(line for line in lines if 'collapse' not in line))
    assert 'done' in train('digits_gan', killed, *options, f'--config.train.steps={steps}')
    assert (killed / picture).read_bytes() == (run / picture).read_bytes()
    made_up = [line for line in read_metrics(killed) if line['step'] == 2 and 'collapse/pairwise' in line]
    assert made_up == [line for line in read_metrics(run) if 'collapse/pairwise' in line]
  before = (killed / 'metrics.jsonl').read_text()
  assert 'nothing to do' in train('digits_gan', killed, *options, '--config.train.steps=2')
  assert (killed / 'metrics.jsonl').read_text() == before


@pytest.mark.slow
def test_a_signal_at_the_last_step_leaves_its_picture_to_the_next_start(tmp_path):
  words = command('digits_vae', tmp_path / 'run', '--config.train.steps=1000000', '--config.train.sample_every=1000000')
  process = subprocess.Popen(words, cwd=ROOT, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
  end = time.monotonic() + 120
  while not (tmp_path / 'run' / 'metrics.jsonl').exists() and time.monotonic() < end:
    time.sleep(0.01)
  process.send_signal(signal.SIGTERM)
  text, _ = process.communicate(timeout=120)
  assert process.returncode == 143, text
  step = int(text.split('stopped by SIGTERM and saved at step ')[1].split('.')[0])
  assert not (tmp_path / 'run' / 'samples').exists()
  assert 'done' in train('digits_vae', tmp_path / 'run', f'--config.train.steps={step}')
  assert (tmp_path / 'run' / 'samples' / f'step_{step:08d}.png').exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_can_be_replayed(tmp_path):
  path = tmp_path / 'x.npz'
  np.savez(path, image=np.zeros((16, 8, 8), np.uint8), label=np.arange(16) % 10)
  more = ['--config.train.steps=200', '--config.train.checkpoint_every=1', '--config.optim.model.learning_rate.peak=1e30']
  text = train('digits_vae', tmp_path / 'run', f'--config.data.name={path}', *more, status=1)
  assert 'Traceback' not in text
  error, remedy = text.strip().splitlines()[-2:]
  step = int(error.split('not finite at step ')[1].split(';')[0])
  assert 'player model: ' in error
  assert all(word in remedy for word in ('--workdir', 'learning rate', 'clip'))
  run = genjax.load(tmp_path / 'run', ema=False)
  assert run.step == step - 1  # the state before, and no later one, was saved
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(run.variables.params))
  words = [sys.executable, 'train.py', f'--replay={tmp_path}/run/nan/step_{step:08d}']
  again = subprocess.run(words, cwd=ROOT, env=ENV, capture_output=True, text=True, check=True).stdout
  assert again.splitlines()[0].startswith(f'step {step}, players model; ')
  assert again.splitlines()[-1] in error
  assert f'--replay {tmp_path}/run/nan/step_{step:08d}' in error


def test_numbers_of_hosts_in_the_environment(monkeypatch):
  monkeypatch.setenv('JAX_NUM_PROCESSES', 'two')
  with pytest.raises(UsageError, match=r"JAX_NUM_PROCESSES='two' is not an integer"):
    initialize_distributed(None, None, None)
  monkeypatch.setenv('JAX_NUM_PROCESSES', '')
  initialize_distributed(None, None, None)  # one host
  with pytest.raises(UsageError, match=r'--coordinator=a:1 needs --num_processes \(here 0\) and --process_id from 0'):
    initialize_distributed('a:1', None, 0)
