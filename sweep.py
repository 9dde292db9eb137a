"""Train every combination of options: python sweep.py --config configs/x.py --set train.ema_halflife=1e4,1e5 --seeds 3

Each combination and seed is a run in --workdir; train.py trains them one after the other. Repeating the command skips finished
runs and resumes the others. A run that fails does not stop the others. Afterwards: python evaluate.py compare runs/sweep/*/

--slurm writes a job array, and --print prints the commands for another scheduler. Arguments after -- are passed to train.py:
python sweep.py --set train.seed=0,1 --workdir runs/sweep -- --config.train.steps=500
"""

import os
import signal

if __name__ == '__main__':  # Ctrl-C while the modules below are imported
  signal.signal(signal.SIGINT, lambda *_: (os.write(2, b'SIGINT: ended.\n'), os._exit(130)))

import itertools
import json
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import train
from genjax.commandline import Parser, load_config, split_overrides
from genjax.errors import UsageError
from genjax.files import write_json, write_whole

ROOT = Path(__file__).resolve().parent
DEFAULT = 'configs/digits_flow.py'
DONE = 'sweep.json'  # the arguments with which a run was trained and evaluated
STOPPED = (130, 143)  # exit status after SIGINT and SIGTERM


class Entry(NamedTuple):
  """A run of a sweep: its directory, and the overrides of the config."""

  workdir: Path
  overrides: dict[str, str]


def main(argv: list[str]) -> int:
  args, train_args = parse(argv)
  entries = make_entries(args)
  passed, words = split_overrides(train_args)
  for word in words:
    if word.startswith(('--config', '--workdir', '--resume', '--replay', '--dry_run')):
      raise UsageError(f'{word} after -- is set by sweep.py: use --config and --workdir before --.')
  train.parse(words)
  steps = {}  # loading the configs detects mistakes before any training starts
  for entry in entries:
    config = load_config(args.config, passed | entry.overrides, args.allow_package).config
    steps[entry.workdir] = config['train']['steps']
  commands = {entry.workdir: make_commands(entry, args, train_args) for entry in entries}
  if args.print:
    for parts in commands.values():
      print(' && '.join(map(shlex.join, parts)))
    return 0
  if args.slurm:
    print(f'sbatch {write_slurm(Path(args.workdir), commands)}')
    return 0
  failed = {}
  for number, (workdir, parts) in enumerate(commands.items(), 1):
    heading = f'[{number}/{len(commands)}] {workdir}'
    if is_done(workdir, steps[workdir], parts):
      print(f'{heading}: done', flush=True)
      continue
    print(heading, flush=True)
    for words in parts:
      status = run_command(words)
      if status:
        break
    if status in STOPPED:
      print(f'stopped in {workdir}. The same command resumes.')
      return status
    if status:
      failed[workdir] = words
    else:
      write_json(workdir / DONE, arguments(parts))
  done = [str(workdir) for workdir in commands if workdir not in failed] if failed else [f'{args.workdir}/*/']
  print(f'{len(commands) - len(failed)} of {len(commands)} runs are done: python evaluate.py compare {" ".join(done)}')
  for words in failed.values():
    print(f'failed: {shlex.join(words)}')
  return 1 if failed else 0


def run_command(words: list[str]) -> int:
  """Runs a command, and returns its exit status. On SIGINT and SIGTERM, waits until the command has ended."""
  process = subprocess.Popen(words)
  previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
  signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches both processes
  signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGTERM))
  try:
    status = process.wait()
    return status if status >= 0 else 128 - status
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)


def is_done(workdir: Path, steps: int, commands: list[list[str]]) -> bool:
  """Whether a run has a checkpoint of its last step, `steps`, and was trained and evaluated with these arguments."""
  try:
    recorded = json.loads((workdir / DONE).read_text())
  except (OSError, ValueError):
    return False
  return (workdir / 'checkpoints' / str(steps)).is_dir() and recorded == arguments(commands)


def arguments(commands: list[list[str]]) -> list[list[str]]:
  """The arguments of commands, without Python and the script."""
  return [words[2:] for words in commands]


def make_entries(args) -> list[Entry]:
  """The runs of all combinations of --set, or of a random subset, with all seeds.

  Raises:
    UsageError: --set is malformed or sets an option twice, or two runs would have the same directory.
  """
  options = {}
  for text in args.set:
    name, equals, values = text.partition('=')
    name = name.removeprefix('--').removeprefix('config.')
    if not equals or not split_values(values):
      raise UsageError(f'--set {text} must be OPTION=VALUE,VALUE, such as train.ema_halflife=1e4,1e5.')
    if name in options:
      raise UsageError(f'--set {name} occurs twice: list all values in one option, --set {name}=VALUE,VALUE.')
    options[name] = split_values(values)
  settings = [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]
  if args.random:
    chosen = random.Random(args.random_seed).sample(range(len(settings)), min(args.random, len(settings)))
    settings = [settings[i] for i in sorted(chosen)]
  names = short_names(list(options))
  entries = []
  for setting in settings:
    for seed in range(args.seeds) if args.seeds else (None,):
      overrides = setting | ({} if seed is None else {'train.seed': str(seed)})
      parts = [f'{names[name]}={short_value(name, value)}' for name, value in setting.items()] + (
        [] if seed is None else [f'seed={seed}']
      )
      folder = re.sub(r'[^A-Za-z0-9.=,_+-]+', '_', ','.join(parts)) or 'run'
      entries.append(Entry(Path(args.workdir) / folder, overrides))
  if len({entry.workdir for entry in entries}) < len(entries):
    raise UsageError('--set: two combinations have the same directory name; use values that differ in letters or digits.')
  return entries


def split_values(text: str) -> list[str]:
  """'1,(2,3)' -> ['1', '(2,3)']: splits at commas outside of brackets."""
  values, depth = [''], 0
  for character in text:
    depth += (character in '([{') - (character in ')]}')
    if character == ',' and not depth:
      values.append('')
    else:
      values[-1] += character
  return [value.strip() for value in values if value.strip()]


def short_value(name: str, value: str) -> str:
  """The value without the module, if it is the class of an option `....cls`; other values unchanged."""
  return value.rpartition('.')[2] if name.endswith('.cls') else value


def short_names(names: list[str]) -> dict[str, str]:
  """The shortest distinct suffixes of the names, without `.cls`."""
  parts = {name: name.removesuffix('.cls').split('.') for name in names}
  for n in range(1, max(map(len, parts.values()), default=0) + 1):
    short = {name: '.'.join(path[-n:]) for name, path in parts.items()}
    if len(set(short.values())) == len(names):
      return short
  return {name: name for name in names}


def make_commands(entry: Entry, args, train_args: list[str]) -> list[list[str]]:
  """The commands that train, and with --evaluate evaluate, a run."""
  overrides = [f'--config.{name}={value}' for name, value in entry.overrides.items()]
  packages = [f'--allow_package={name}' for name in args.allow_package]
  program = lambda name: [sys.executable, str(ROOT / name)]  # noqa: E731
  train = [*program('train.py'), f'--config={args.config}', f'--workdir={entry.workdir}', *packages, *train_args, *overrides]
  if args.evaluate is None:
    return [train]
  return [train, [*program('evaluate.py'), f'--run={entry.workdir}', *packages, *shlex.split(args.evaluate)]]


SLURM = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=1-{n}
#SBATCH --output={folder}/slurm_%a.txt
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@120

# Before its time limit, or when it is preempted, a task saves and is requeued; the requeued task resumes.
cd {cwd}
trap 'kill -TERM $child; wait $child; scontrol requeue ${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID; exit' TERM
while read -r command; do
  eval "exec $command" &
  child=$!
  wait $child || exit
done < {folder}/.slurm/$SLURM_ARRAY_TASK_ID.txt
"""


def write_slurm(workdir: Path, commands: dict[Path, list[list[str]]]) -> Path:
  """Writes a job array of which each task trains one run. Returns the path of its script."""
  folder = workdir.resolve()
  for number, parts in enumerate(commands.values(), 1):
    write_whole(folder / '.slurm' / f'{number}.txt', ''.join(f'{shlex.join(words)}\n' for words in parts))
  script = SLURM.format(name=folder.name, n=len(commands), folder=shlex.quote(str(folder)), cwd=shlex.quote(str(Path.cwd())))
  write_whole(folder / 'sweep.sbatch', script)
  return workdir / 'sweep.sbatch'


def parse(argv: list[str]):
  """The flags, and the arguments for train.py."""
  own, train_args = (argv[: argv.index('--')], argv[argv.index('--') + 1 :]) if '--' in argv else (argv, [])
  parser = Parser(__doc__)
  parser.add_argument('--config', default=DEFAULT, help=f'the config file ({DEFAULT})')
  parser.add_argument('--set', action='append', default=[], help='an option of the config and its values, OPTION=VALUE,VALUE')
  parser.add_argument(
    '--seeds',
    type=int,
    default=0,
    help='runs per combination, with train.seed 0, 1, ... (default: one, with the seed of --config)',
  )
  parser.add_argument('--workdir', default='runs/sweep', help='the folder of the runs (runs/sweep)')
  parser.add_argument('--random', type=int, default=0, help='train this many combinations, chosen at random (0: all)')
  parser.add_argument('--random_seed', type=int, default=0, help='the random seed of --random (0)')
  parser.add_argument('--evaluate', help='also evaluate each run, with these options of evaluate.py, such as "--samples 2000"')
  parser.add_argument('--slurm', action='store_true', help='write a Slurm job array instead of training')
  parser.add_argument('--print', action='store_true', help='print the commands instead of training')
  parser.add_argument(
    '--allow_package', action='append', default=[], help='another package that the config may import (repeatable)'
  )
  args = parser.parse_args(own)
  if args.seeds < 0 or args.random < 0:
    raise UsageError(f'--seeds {args.seeds} and --random {args.random} must not be negative.')
  if args.slurm and args.print:
    raise UsageError('--slurm and --print cannot be combined: use one of them.')
  if args.seeds and any(text.startswith(('train.seed=', 'config.train.seed=')) for text in args.set):
    raise UsageError('--seeds and --set train.seed cannot be combined: use one of them.')
  return args, train_args


if __name__ == '__main__':
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  try:
    sys.exit(main(sys.argv[1:]))
  except UsageError as error:
    sys.exit(f'error: {error}')
