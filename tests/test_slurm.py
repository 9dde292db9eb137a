"""Two tasks of a Slurm job train as one run, and a requeued job resumes.

It needs a cluster, such as the one that `tests/slurm/start.sh FOLDER` starts on this machine:

SLURM_CONF=FOLDER/slurm.conf python -m pytest -m slow tests/test_slurm.py
"""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT
from tests.programs import ENV, tiny

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif('SLURM_CONF' not in os.environ or not shutil.which('sbatch'), reason='there is no Slurm cluster here'),
]
TASKS = 2


def output(*words):
  return subprocess.run(words, capture_output=True, text=True, check=True, env=ENV, cwd=ROOT).stdout


def wait_for(condition, seconds):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, 'waited too long'
    time.sleep(0.5)


def tasks(workdir):
  """The process numbers of the training processes."""
  results = subprocess.run(['pgrep', '-f', f'train.py --coordinator=auto .*{workdir}'], capture_output=True, text=True)
  mine = []
  for pid in map(int, results.stdout.split()):
    with open(f'/proc/{pid}/comm') as file:
      mine += [pid] if file.read().startswith('python') else []
  return mine


def test_a_killed_task_requeues_the_job_which_resumes(tmp_path):
  workdir, log = tmp_path / 'run', tmp_path / 'log.txt'
  steps = ['--config.train.steps=2000', '--config.train.checkpoint_every=500', '--config.train.log_every=500']
  options = [
    '--config=configs/digits_vae.py',
    f'--workdir={workdir}',
    *tiny('digits_vae'),
    '--config.train.batch_size=8',
    *steps,
  ]
  environment = ['--export=ALL,JAX_NUM_CPU_DEVICES=1,PYTHON=' + sys.executable]
  job = output('sbatch', '--parsable', f'--output={log}', *environment, 'docs/slurm.sbatch', *options).strip()
  checkpoints = workdir / 'checkpoints'
  wait_for(lambda: checkpoints.is_dir() and any(path.name.isdecimal() for path in checkpoints.iterdir()), 180)
  alive = tasks(workdir)
  assert len(alive) == TASKS
  os.kill(alive[-1], signal.SIGKILL)
  wait_for(lambda: 'resuming from step' in log.read_text(), 400)
  output('scontrol', 'show', 'job', job)
  wait_for(lambda: (checkpoints / '2000').is_dir() or 'error' in log.read_text().splitlines()[-1], 400)
  wait_for(lambda: not output('squeue', '-h', '-j', job).strip(), 60)
  assert (checkpoints / '2000').is_dir()
  assert log.read_text().count('a new run') == 1  # the second start resumed
