"""Lists run directories: python -m genjax.runs runs/

Shows the status, step and lowest FID of each run, and the options in which it differs from other runs of the same objective.
"""

import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from genjax.commandline import Parser
from genjax.errors import UsageError
from genjax.logging import read_metrics
from genjax.metrics.compare import model_differences
from genjax.metrics.tables import markdown
from genjax.workdir import read_config


class Summary(NamedTuple):
  """The state of a run directory."""

  path: Path
  config: dict[str, Any]
  status: str  # 'training', 'done', 'stopped', 'not finite', 'new' or 'export'
  step: int  # of the newest checkpoint
  fid: float | None  # the lowest of its cards and of `train.evaluate_every`


def main(argv: list[str]) -> None:
  parser = Parser(__doc__)
  parser.add_argument(
    'folders', nargs='*', type=Path, default=[Path('runs')], help='run directories, or folders of them (runs)'
  )
  parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
  args = parser.parse_args(argv)
  runs = []
  for path in sorted({path for folder in args.folders for path in find_runs(folder)}):
    try:
      runs.append(summary(path))
    except UsageError as error:
      print(f'{path} is ignored: {error}', file=sys.stderr)
  if not runs:
    raise UsageError(f'{", ".join(map(str, args.folders))}: there is no run directory. Train one with train.py.')
  if args.json:
    rows = [run._asdict() | {'path': str(run.path), 'differs': differing_options(run, runs)} for run in runs]
    return print(json.dumps([{key: value for key, value in row.items() if key != 'config'} for row in rows], indent=2))
  print(markdown([['run', 'status', 'step', 'lowest FID', 'differs in'], *lines(runs)]), end='')


def find_runs(folder: Path) -> Iterator[Path]:
  """The run directories in a folder and its sub-folders, or the folder itself. Raises UsageError if there is no folder."""
  if not folder.is_dir():
    raise UsageError(f'{folder} is not a folder.')
  for path, folders, files in os.walk(folder):
    if 'config.json' in files:
      folders.clear()  # a run has no runs in it
      yield Path(path)


def summary(path: Path) -> Summary:
  """Reads a run directory. Raises UsageError if its config is damaged."""
  config = read_config(path)
  steps = [int(p.name) for p in path.glob('checkpoints/*') if p.name.isdecimal()]
  step = max(steps, default=0)
  if exported := config.get('export'):
    status, step = 'export', exported['step']
  elif is_locked(path):
    status = 'training'
  elif any(path.glob('nan/step_*')):
    status = 'not finite'
  elif step >= config['train']['steps']:
    status = 'done'
  else:
    status = 'stopped' if step else 'new'
  fids = [line.get('evaluation/fid') for line in read_metrics(path)]
  for card in path.glob('evaluation/*.json'):
    try:
      fids.append(json.loads(card.read_text())['metrics']['fid'])
    except (OSError, ValueError, KeyError, TypeError):  # not a card
      continue
  return Summary(path, config, status, step, min((fid for fid in fids if fid is not None), default=None))


def is_locked(path: Path) -> bool:
  """Whether a process on this machine is training in a run directory."""
  try:
    with open(path / 'lock') as file:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return True
  except OSError:  # never locked, or on storage without locks: a run that wrote its log in the last minute counts as training
    log = path / 'metrics.jsonl'
    return log.exists() and time.time() - log.stat().st_mtime < 60
  return False


def differing_options(run: Summary, runs: list[Summary]) -> dict[str, Any]:
  """The options of a run's config in which the runs with the same objective differ."""
  alike = [other for other in runs if other.config['objective'].get('cls') == run.config['objective'].get('cls')]
  options = {name: value for other in alike for name, value, _ in model_differences(run.config, other.config)}
  return {name: value for name, value in sorted(options.items()) if not isinstance(value, dict)}


def lines(runs: list[Summary]) -> list[list[str]]:
  """The rows of the table."""
  rows = []
  for run in runs:
    options = ', '.join(f'{key}={json.dumps(value)}' for key, value in differing_options(run, runs).items())
    fid = '' if run.fid is None else f'{run.fid:.4g}'
    rows.append([str(run.path), run.status, f'{run.step:,} of {run.config["train"]["steps"]:,}', fid, options])
  return rows


if __name__ == '__main__':
  try:
    main(sys.argv[1:])
  except UsageError as error:
    sys.exit(f'error: {error}')
