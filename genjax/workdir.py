"""A run directory, as train.py makes and resumes it.

config.json       resolved: every option written out, so that later defaults cannot change an old run; `run_id`, `schema`
environment.json  versions, devices, commit, command of this and earlier sessions
metrics.jsonl     one object a line: step, kimg, losses, images_per_second
samples/          step_*.png, the same latents each time
checkpoints/      the whole state
best/             the same, of the lowest FID, where train.evaluate_every is set
evaluation/       what evaluate.py found
saved             there since the first checkpoint was whole
lock              held while a process trains in it
"""

import dataclasses
import fcntl
import fnmatch
import importlib.metadata
import json
import os
import platform
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax

from genjax.build import defaults, with_defaults
from genjax.data import contents
from genjax.data.pipeline import Pipeline
from genjax.data.sources.open import open_data
from genjax.errors import UsageError
from genjax.files import refuse_links, write_json, writing
from genjax.parallel import STRATEGIES
from genjax.schema import SCHEMA, migrate

SAVED = 'saved'
DEEPEST = 30  # levels of a config; genjax's own have eight at most
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'tensorflow-datasets')


@dataclasses.dataclass(frozen=True)
class Training:
  """The section `train` of a config."""

  steps: int
  batch_size: int  # images per step over all devices
  seed: int = 0  # of the initial parameters, the order of the images and all noise
  log_every: int = 100  # steps
  checkpoint_every: int = 1000  # steps
  sample_every: int = 1000  # steps
  keep: int = 2  # newest checkpoints kept
  keep_every: int = 0  # steps whose multiples are kept for good; 0: none
  evaluate_every: int = 0  # thousands of images; 0: never. The checkpoint of the lowest FID is kept in best/
  evaluate_samples: int = 2000
  evaluate_features: str = 'classifier'  # or 'inception', 'efficientnet_lite0', a function of yours (evaluate.py)
  ema_halflife: float = 10_000.0  # images
  accumulate: int = 1  # microbatches per step
  strategy: str = 'jit'  # data parallel; 'fsdp': the state split too; or 'pmap'
  dtype: str = 'float32'  # of the computation; 'bfloat16' on GPU and TPU. Parameters stay float32

  def __post_init__(self):
    for name in ('steps', 'batch_size', 'log_every', 'checkpoint_every', 'sample_every', 'keep', 'accumulate'):
      if getattr(self, name) < 1:
        raise UsageError(f'train.{name}={getattr(self, name)} must be 1 or more.')
    if self.keep_every % self.checkpoint_every or self.keep_every < 0:
      raise UsageError(
        f'train.keep_every={self.keep_every} must be 0 or a multiple of checkpoint_every={self.checkpoint_every}.'
      )
    if self.evaluate_every < 0 or self.evaluate_samples < 100:
      raise UsageError(
        f'train.evaluate_every={self.evaluate_every} must be 0 or more, evaluate_samples={self.evaluate_samples} at least 100.'
      )
    if not 0 <= self.seed < 2**32:
      raise UsageError(f'train.seed={self.seed} must be from 0 to {2**32 - 1}.')
    if not 0 < self.ema_halflife < float('inf'):
      raise UsageError(f'train.ema_halflife={self.ema_halflife} must be positive: it is in images.')
    if self.batch_size % self.accumulate:
      raise UsageError(f'train.batch_size={self.batch_size} must be a multiple of train.accumulate={self.accumulate}.')
    if self.strategy not in STRATEGIES:
      raise UsageError(f'train.strategy={self.strategy!r}: give one of {", ".join(STRATEGIES)}.')
    if self.dtype not in ('float32', 'bfloat16'):
      raise UsageError(f'train.dtype={self.dtype!r}: give float32 or bfloat16.')


def section_defaults() -> dict[str, dict[str, Any]]:
  """The options of the sections `data` and `train` that have defaults, with them."""
  return {'data': defaults(open_data) | {'flip': defaults(Pipeline)['flip']}, 'train': defaults(Training)}


# On resume: what does not change the result (DESIGN, invariant 4), and how far to go.
MAY_CHANGE = {f'train.{name}_every' for name in ('log', 'checkpoint', 'sample', 'keep', 'evaluate')}
MAY_CHANGE |= {'train.steps', 'train.keep', 'train.strategy', 'train.accumulate'}
MAY_CHANGE |= {'data.memory_gib', 'data.data_dir', '*.remat'}
MAY_CHANGE |= {'run_id'}  # not an option
MAY_CHANGE |= {'data.skip', 'data.channels'}  # the remedies for bad images, after which the order is another
MAY_CHANGE |= {f'data.{name}' for name in contents.RECORDED if name != 'image_shape'}  # `contents.changes` compares them


def keep_background(workdir: Path, config: dict[str, Any], overridden: Collection[str]) -> dict[str, Any]:
  """The config, with an empty `data.background` if the run in `workdir` drops transparency, as earlier versions did.

  `overridden` are the options of the command line, which are not changed.
  """
  data = config.get('data')
  if not (workdir / 'config.json').is_file() or not isinstance(data, dict) or 'data.background' in overridden:
    return config
  return config if read_config(workdir)['data'].get('background') else config | {'data': data | {'background': ''}}


def differences(old: Any, new: Any, name: str = '') -> list[tuple[str, Any, Any]]:
  """(name, old, new) for each leaf in which two JSON trees differ."""
  if isinstance(old, dict) and isinstance(new, dict):
    keys = sorted(old.keys() | new.keys())
    return [d for k in keys for d in differences(old.get(k), new.get(k), f'{name}.{k}' if name else k)]
  return [] if old == new else [(name, old, new)]


def lock(workdir: Path) -> int:
  """Makes the folder and takes its lock, which the system lets go when the process ends, however it ends.

  Returns the file descriptor; closing it lets go. Raises UsageError if another process has the lock, or the folder cannot
  be written to.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    held = os.open(workdir / 'lock', os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
  except OSError as error:
    raise UsageError(f'{workdir} cannot be written to ({error.strerror or error}): give another --workdir.') from None
  try:
    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    holder = os.read(held, 200).decode(errors='replace').strip()
    os.close(held)
    raise UsageError(f'{workdir} is in use by {holder}: wait for it, or give another --workdir.') from None
  except OSError as error:
    print(f'warning: {workdir} cannot be locked ({error.strerror}): let no second process train in it.')
  with writing(workdir / 'lock'):
    os.ftruncate(held, 0)
    os.write(held, f'process {os.getpid()} on {platform.node()}\n'.encode())
  return held


def open_workdir(
  workdir: Path,
  config: dict[str, Any],
  allow: Collection[str] = (),
  config_at: Callable[[int], dict[str, Any]] | None = None,
) -> int:
  """Makes the run directory, or checks that it belongs to this config. Returns its lock. `allow` as in `build.resolve`.

  Args:
    workdir: the run directory.
    config: resolved, as it is written to config.json.
    allow: packages other than genjax that the config may name.
    config_at: the config for another `train.steps`; options that differ only because of `train.steps` may differ.

  Raises:
    UsageError: it belongs to another config (the differences are named), another process trains in it, it cannot be
      written to, a folder in it is a link, or its checkpoints are missing.
  """
  path = workdir / 'config.json'
  ours = lambda name: name == 'lock' or name.startswith('.config.json.')  # noqa: E731 - left by one killed while starting
  if workdir.is_dir() and not path.exists() and not all(ours(p.name) for p in workdir.iterdir()):
    raise UsageError(f'{workdir} is not empty and not a run directory (no config.json): give another --workdir.')
  refuse_links(workdir)
  held = lock(workdir)
  try:
    config = {'schema': SCHEMA} | json.loads(json.dumps(config))
    newest = max((int(p.name) for p in workdir.glob('checkpoints/*') if p.name.isdecimal() and p.is_dir()), default=0)
    if not newest and (workdir / SAVED).exists():
      raise UsageError(
        f'{workdir} had a checkpoint and has none: restore {workdir}/checkpoints, or train anew in another --workdir.'
      )
    old = read_config(workdir) if path.exists() and newest else {}
    if old:
      refuse_another_config(workdir, old, config, allow, config_at)
    resolved = config
    if old and newest >= config['train']['steps']:  # a finished run keeps its config, except for the path of its data
      resolved = old | {'data': old['data'] | {name: value for name, value in config['data'].items() if name == 'name'}}
    resolved = resolved | {'run_id': run_id_of(old) or secrets.token_hex(8)}
    if resolved != old:
      write_json(path, resolved)
  except BaseException:
    os.close(held)
    raise
  return held


def refuse_another_config(
  workdir: Path,
  old: dict[str, Any],
  new: dict[str, Any],
  allow: Collection[str] = (),
  config_at: Callable[[int], dict[str, Any]] | None = None,
) -> None:
  """Once there is a checkpoint, only MAY_CHANGE may differ, and values that the config computes from `train.steps`.

  An option that genjax did not have when the run began counts as its default, which must do what was done before.
  """
  steps = old['train'].get('steps')
  old = json.loads(json.dumps(with_defaults(old, allow)))
  old['data'] = {'background': ''} | old['data']
  old |= {section: options | old[section] for section, options in section_defaults().items()}
  refusal, notes = contents.changes(old['data'], new['data'])
  may_change = MAY_CHANGE | ({'data.name'} if 'hash' in old['data'] else set())  # the content decides, not the path
  found = differences_that_matter(old, new, may_change)
  if found and config_at and isinstance(steps, int) and steps > 0:
    unexplained = {name for name, _, _ in differences_that_matter(old, json.loads(json.dumps(config_at(steps))), may_change)}
    for name, before, after in found:
      if name not in unexplained:
        print(f'{workdir}: {name} changes from {before} to {after} with train.steps.')
    found = [d for d in found if d[0] in unexplained]
  if found:
    shown = '; '.join(f'{name}: {json.dumps(a)} -> {json.dumps(b)}' for name, a, b in found[:5])
    shown += f'; and {len(found) - 5} more' if len(found) > 5 else ''
    raise UsageError(f'{workdir} belongs to another config ({shown}).\nGive another --workdir, or the old options.')
  if refusal:
    raise UsageError(f'{workdir}: {refusal}. Restore the data that it was trained on, or use another --workdir.')
  for note in notes:
    print(f'{workdir}: {note}')


def differences_that_matter(
  old: dict[str, Any], new: dict[str, Any], may_change: Collection[str]
) -> list[tuple[str, Any, Any]]:
  """`differences` without the options that match a pattern in `may_change`."""
  return [d for d in differences(old, new) if not any(fnmatch.fnmatch(d[0], pattern) for pattern in may_change)]


def run_id_of(config: dict[str, Any]) -> str:
  """The identity of a run, which its checkpoints carry; '' for a run of an earlier version."""
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
    raise UsageError(f'{path} is not JSON ({error}); restore it, or start anew in another folder.') from None
  sections = config if isinstance(config, dict) else {}
  if not all(isinstance(sections.get(name), dict) for name in ('data', 'train', 'objective', 'optim')):
    raise UsageError(f'{path} lacks one of the sections data, train, objective, optim: it was not written by genjax.')
  if depth(config) > DEEPEST:
    raise UsageError(f'{path} is nested deeper than {DEEPEST} levels: it was not written by genjax.')
  return config


def depth(tree: Any) -> int:
  """Levels of dictionaries and lists in a JSON tree, counted no further than one beyond DEEPEST."""
  level, below = 0, [tree]
  while below and level <= DEEPEST:
    inner = [x for x in below if isinstance(x, (dict, list))]
    below = [y for x in inner for y in (x.values() if isinstance(x, dict) else x)]
    level += bool(inner)
    if not inner:
      break
  return level


def write_environment(workdir: Path) -> None:
  """Versions, devices, commit and command, with those of earlier sessions below them."""
  path = workdir / 'environment.json'
  try:
    last = json.loads(path.read_text())
    earlier = [{k: v for k, v in last.items() if k != 'earlier'}, *last['earlier']]
  except (OSError, ValueError, KeyError, AttributeError, TypeError):  # a new run, or a file that somebody cut short
    earlier = []
  devices = jax.devices()
  now = {
    'started': time.strftime('%Y-%m-%dT%H:%M:%S%z'),
    'command': sys.argv,
    'commit': git('rev-parse', 'HEAD'),
    'uncommitted_changes': bool(git('status', '--porcelain')),
    'devices': [f'{len(devices)} x {devices[0].device_kind}'],
    'processes': jax.process_count(),
    'platform': platform.platform(),
    'python': platform.python_version(),
    'versions': {name: importlib.metadata.version(name) for name in PACKAGES},
  }
  write_json(path, now | {'earlier': earlier})


def git(*words: str) -> str | None:
  """What git says about genjax's own checkout; None without git or without a checkout."""
  try:
    done = subprocess.run(['git', *words], capture_output=True, text=True, cwd=Path(__file__).parent, check=True)
  except (OSError, subprocess.CalledProcessError):
    return None
  return done.stdout.strip() or None
