"""Run directories, which train.py creates and resumes.

config.json       resolved: every option written out, so that later defaults cannot change an old run; `run_id`, `schema`
environment.json  versions, devices, commit, command of this and earlier sessions
metrics.jsonl     one object per line: step, kimg, losses, images_per_second
samples/          step_*.png, from the same latents each time
previews/         step_*.png of autoencoders: reconstructions, interpolations
tensorboard/      event files: metrics, samples, previews, the config
checkpoints/      the whole training state
best/             the training state with the lowest FID, if train.evaluate_every is set
evaluation/       the results of evaluate.py
saved             exists once a checkpoint has been saved
lock              locked while a process trains in the directory
"""

import fcntl
import json
import os
import platform
import secrets
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from genjax.config import refuse_another_config
from genjax.errors import UsageError
from genjax.files import refuse_links, remedy_of, write_json, writing
from genjax.schema import SCHEMA, migrate

SAVED = 'saved'
DEEPEST = 30  # levels of a config; those of genjax have at most eight


def keep_background(workdir: Path, config: dict[str, Any], overridden: Collection[str]) -> dict[str, Any]:
  """The config, with an empty `data.background` if the run in `workdir` drops transparency, as earlier versions did.

  `overridden` are the options set on the command line, which are not changed.
  """
  data = config.get('data')
  if not (workdir / 'config.json').is_file() or not isinstance(data, dict) or 'data.background' in overridden:
    return config
  return config if read_config(workdir)['data'].get('background') else config | {'data': data | {'background': ''}}


def lock(workdir: Path) -> int:
  """Creates the folder and locks it. The operating system releases the lock when the process ends for any reason.

  Returns the file descriptor; closing it releases the lock. Raises UsageError if another process has the lock, or the
  folder is not writable.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(workdir / 'lock', os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
  except OSError as error:
    remedy = remedy_of(error) or 'use another --workdir'
    raise UsageError(f'{workdir} cannot be written to ({error.strerror or error}): {remedy}.') from None
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    owner = os.read(descriptor, 200).decode(errors='replace').strip()
    os.close(descriptor)
    raise UsageError(f'{workdir} is in use by {owner}: wait for it, or use another --workdir.') from None
  except OSError as error:
    print(f'warning: {workdir} cannot be locked ({error.strerror}): do not train in it with two processes.')
  with writing(workdir / 'lock'):
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f'process {os.getpid()} on {platform.node()}\n'.encode())
  return descriptor


def open_workdir(
  workdir: Path,
  config: dict[str, Any],
  allow: Collection[str] = (),
  config_at: Callable[[int], dict[str, Any]] | None = None,
) -> int:
  """Creates the run directory, or checks that it belongs to this config. Returns its lock.

  Args:
    workdir: the run directory.
    config: the resolved config, as written to config.json.
    allow: packages other than genjax that the config may name, as in `build.resolve`.
    config_at: returns the config for another `train.steps`. Options that follow from `train.steps` may differ.

  Raises:
    UsageError: it belongs to another config (the differences are named), another process trains in it, it is not
      writable, a folder in it is a link, or its checkpoints are missing.
  """
  path = workdir / 'config.json'
  ours = lambda name: name == 'lock' or name.startswith('.config.json.')  # noqa: E731 - left by a process killed while starting
  if workdir.is_dir() and not path.exists() and not all(ours(p.name) for p in workdir.iterdir()):
    raise UsageError(f'{workdir} is not empty and not a run directory (no config.json): use another --workdir.')
  if path.exists() and read_config(workdir).get('export'):
    raise UsageError(f'{workdir} is an export: use another --workdir, and train.init_from={workdir} to start from its weights.')
  refuse_links(workdir)
  descriptor = lock(workdir)
  try:
    config = {'schema': SCHEMA} | json.loads(json.dumps(config))
    newest = max((int(p.name) for p in workdir.glob('checkpoints/*') if p.name.isdecimal() and p.is_dir()), default=0)
    if not newest and (workdir / SAVED).exists():
      raise UsageError(
        f'{workdir} has lost its checkpoints: restore {workdir}/checkpoints, or train a new run in another --workdir.'
      )
    old = read_config(workdir) if path.exists() and newest else {}
    finished = bool(old) and newest >= config['train']['steps']
    if old:
      changes = refuse_another_config(workdir, old, config, allow, config_at)
      for change in () if finished else changes:
        print(f'{workdir}: {change}')
    resolved = config
    if finished:  # a finished run keeps its config, except for the path of its data
      paths = {name: value for name, value in config['data'].items() if name in ('name', 'data_dir')}
      resolved = old | {'data': old['data'] | paths}
    resolved = resolved | {'run_id': run_id_of(old) or secrets.token_hex(8)}
    if resolved != old:
      write_json(path, resolved)
  except BaseException:
    os.close(descriptor)
    raise
  return descriptor


def run_id_of(config: dict[str, Any]) -> str:
  """The identity of a run, on which the checksums of its checkpoints depend; '' for a run of an earlier version."""
  return str(config.get('run_id', ''))


def read_config(workdir: Path) -> dict[str, Any]:
  """The config of a run, migrated if an earlier version wrote it (genjax/schema.py). Raises UsageError like `raw_config`."""
  config = raw_config(workdir)
  try:
    return migrate(config)
  except UsageError as error:
    raise UsageError(f'{workdir}/config.json: {error}') from None


def raw_config(workdir: Path) -> dict[str, Any]:
  """The config of a run as it was written. Raises UsageError if the folder is not a run directory."""
  path = Path(workdir) / 'config.json'
  if not path.is_file():
    raise UsageError(f'{workdir} is not a run directory: it has no config.json.')
  try:
    config = json.loads(path.read_text())
  except (ValueError, RecursionError) as error:
    raise UsageError(f'{path} is not valid JSON ({error}): restore it, or train a new run in another folder.') from None
  sections = config if isinstance(config, dict) else {}
  if not all(isinstance(sections.get(name), dict) for name in ('data', 'train', 'objective', 'optim')):
    raise UsageError(f'{path} lacks one of the sections data, train, objective, optim: it was not written by genjax.')
  if depth(config) > DEEPEST:
    raise UsageError(f'{path} is nested deeper than {DEEPEST} levels: it was not written by genjax.')
  return config


def depth(tree: Any) -> int:
  """The nesting depth of dictionaries and lists in a JSON tree, counted up to DEEPEST + 1."""
  level, below = 0, [tree]
  while below and level <= DEEPEST:
    inner = [x for x in below if isinstance(x, (dict, list))]
    below = [y for x in inner for y in (x.values() if isinstance(x, dict) else x)]
    level += bool(inner)
    if not inner:
      break
  return level
