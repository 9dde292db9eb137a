"""sweep.py: every combination is a run; finished runs are skipped, and failures do not stop the others."""

import json
import shlex
import signal
import subprocess
import sys
import time

import pytest

import sweep
from genjax.errors import UsageError
from tests.conftest import ROOT
from tests.programs import ENV

TINY = '--config configs/digits_vae.py --set objective.decoder.width=8'
MORE = (
  '-- --config.objective.encoder.width=8 --config.train.batch_size=8 --config.train.steps=4 --config.train.sample_every=1000'
)


def entries(text):
  return sweep.make_entries(sweep.parse(shlex.split(text))[0])


def test_every_combination_and_seed_is_a_run():
  actual = entries('--set a.width=1,2 --set b.width="(1,2),(3,)" --seeds 2 --workdir w')
  assert len(actual) == 8
  assert str(actual[0].workdir) == 'w/a.width=1,b.width=_1,2_,seed=0'
  assert actual[-1].overrides == {'a.width': '2', 'b.width': '(3,)', 'train.seed': '1'}
  assert [str(entry.workdir) for entry in entries('--set x.y=1 --workdir w')] == ['w/y=1']
  assert [str(entry.workdir) for entry in entries('--workdir w')] == ['w/run']
  named = entries('--set objective.loss.cls=objectives.gan.losses.Hinge,objectives.gan.losses.NonSaturating --workdir w')
  assert [str(entry.workdir) for entry in named] == ['w/loss=Hinge', 'w/loss=NonSaturating']


def test_a_random_subset_is_the_same_each_time_and_keeps_all_seeds():
  text = '--set a=1,2,3,4,5 --set b=1,2,3,4,5 --seeds 2 --random 6'
  actual = entries(text)
  assert actual == entries(text)
  assert len(actual) == 12
  assert all(entry in entries(text.removesuffix(' --random 6')) for entry in actual)
  assert actual != entries(f'{text} --random_seed 1')


@pytest.mark.parametrize(
  ('text', 'named'),
  [
    ('--set objective.decoder.width', 'objective.decoder.width'),
    ('--set train.steps=1 --set train.steps=2', 'train.steps'),
    ('--set train.seed=1 --seeds 2', '--seeds'),
    ('--set a="x y,x/y"', '--set'),
    ('--seeds -1', '--seeds'),
    ('--slurm --print', '--print'),
    ('--config configs/digits_vae.py --set objective.decoder.widht=8', 'widht'),
    ('--config configs/digits_vae.py --set train.batch_size=many', 'batch_size'),
    ('-- --nonsense 3', 'nonsense'),
    ('-- --workdir elsewhere', '--workdir'),
  ],
)
def test_mistakes_are_named_before_anything_is_trained(text, named, tmp_path):
  with pytest.raises(UsageError, match=named):
    sweep.main(['--workdir', str(tmp_path / 'w'), *shlex.split(text)])
  assert not (tmp_path / 'w').exists()


def test_what_is_done_is_skipped_and_a_failure_does_not_stop_the_others(tmp_path, capfd, monkeypatch):
  monkeypatch.setenv('JAX_NUM_CPU_DEVICES', '1')
  monkeypatch.chdir(ROOT)
  folder = tmp_path / 'w'
  command = shlex.split(f'{TINY} --set train.accumulate=3,1 --workdir {folder} {MORE}')  # 8 images are not 3 microbatches
  assert sweep.main(command) == 1
  out = capfd.readouterr()
  assert f'1 of 2 runs are done: python evaluate.py compare {folder}/width=8,accumulate=1\n' in out.out
  assert 'failed: ' in out.out
  assert 'accumulate=3' in out.err
  assert (folder / 'width=8,accumulate=1' / 'checkpoints' / '4').is_dir()
  assert sweep.main(command) == 1
  assert 'width=8,accumulate=1: done' in capfd.readouterr().out
  assert sweep.main([*command, '--config.objective.beta=3.0']) == 1
  assert 'objective.beta' in capfd.readouterr().err  # another config is not taken for done, and train.py refuses it


@pytest.mark.slow
def test_stopped_and_started_again_and_compared(tmp_path):
  folder = tmp_path / 'w'
  words = f'{TINY},16 --seeds 2 --evaluate "--samples 200 --likelihood 0" --workdir {folder} {MORE}'
  command = [sys.executable, 'sweep.py', *shlex.split(words.replace('steps=4', 'steps=2000'))]
  process = subprocess.Popen(command, cwd=ROOT, env=ENV, stdout=subprocess.PIPE, text=True)
  while not (folder / 'width=8,seed=1' / 'metrics.jsonl').exists():
    assert process.poll() is None
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  assert 'width=8,seed=1' in process.communicate(timeout=60)[0].splitlines()[-1]
  assert process.returncode == 143
  done = subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert 'width=8,seed=0: done' in done.stdout
  assert 'resuming from step' in done.stdout
  assert '4 of 4 runs are done' in done.stdout
  cards = [json.loads(path.read_text()) for path in sorted(folder.glob('*/evaluation/*.json'))]
  assert len(cards) == 4
  assert len({card['metrics']['fid'] for card in cards}) == 4
  compare = [sys.executable, 'evaluate.py', 'compare', *map(str, sorted(folder.glob('*/'))), '--out', str(tmp_path / 'out')]
  assert subprocess.run(compare, cwd=ROOT, env=ENV, capture_output=True).returncode == 0
  rows = (tmp_path / 'out' / 'table.md').read_text().splitlines()
  assert [row.split('|')[1].strip() for row in rows[2:4]] == ['width=16', 'width=8']  # one row per setting, its seeds pooled


def test_slurm_s_tasks_are_the_commands(tmp_path, capsys):
  folder = tmp_path / 'w w'
  words = ['--config', 'configs/digits_vae.py', '--set', 'train.ema_halflife=1e3,1e4', '--evaluate', '--samples 200']
  assert sweep.main([*words, '--workdir', str(folder), '--slurm']) == 0
  assert 'sweep.sbatch' in capsys.readouterr().out
  script = (folder / 'sweep.sbatch').read_text()
  assert '--array=1-2' in script
  train, evaluate = (folder / '.slurm' / '2.txt').read_text().splitlines()
  assert shlex.split(train)[-1] == '--config.train.ema_halflife=1e4'
  assert shlex.split(evaluate)[-2:] == ['--samples', '200']
  # What the script does with the commands, without Slurm: each runs, until one fails.
  (folder / '.slurm' / '1.txt').write_text('touch a\nfalse\ntouch b\n')
  text = script.replace(str(ROOT), str(tmp_path)).replace('cd ', f'cd {tmp_path} #')
  subprocess.run(['bash', '-c', text], env={**ENV, 'SLURM_ARRAY_TASK_ID': '1', 'SLURM_ARRAY_JOB_ID': '7'}, cwd=tmp_path)
  assert (tmp_path / 'a').exists()
  assert not (tmp_path / 'b').exists()
