"""A run directory: open it, resume it, `load(run).sample(key, n)` in a notebook.

config.json       resolved: every option written out, so that later defaults cannot change an old run
environment.json  versions, devices, commit, command of this and earlier sessions
metrics.jsonl     one object a line: step, kimg, losses, images_per_second
samples/          step_*.png, the same latents each time
checkpoints/      the whole state
"""

import dataclasses
import functools
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from genjax import rng
from genjax.build import build, check, parameters
from genjax.checkpoint import Checkpoints
from genjax.errors import UsageError
from genjax.objectives.common import labels_or_random
from genjax.parallel import STRATEGIES, make_mesh, replicated
from genjax.step import TrainState, init_state
from genjax.types import Objective, Variables, example_batch

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
  ema_halflife: float = 10_000.0  # images
  accumulate: int = 1  # microbatches per step
  strategy: str = 'jit'  # or 'pmap'
  dtype: str = 'float32'  # of the computation; 'bfloat16' on GPU and TPU. Parameters stay float32

  def __post_init__(self):
    for name in ('steps', 'batch_size', 'log_every', 'checkpoint_every', 'sample_every', 'keep', 'accumulate'):
      if getattr(self, name) < 1:
        raise UsageError(f'train.{name}={getattr(self, name)} must be 1 or more.')
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


# On resume: what does not change the result (DESIGN, invariant 4), and how far to go.
MAY_CHANGE = {
  f'train.{n}' for n in ('steps', 'log_every', 'checkpoint_every', 'sample_every', 'keep', 'strategy', 'accumulate')
}
MAY_CHANGE |= {'data.memory_gib', 'data.data_dir'}


def differences(old: Any, new: Any, name: str = '') -> list[tuple[str, Any, Any]]:
  """(name, old, new) for each leaf in which two JSON trees differ."""
  if isinstance(old, dict) and isinstance(new, dict):
    keys = sorted(old.keys() | new.keys())
    return [d for k in keys for d in differences(old.get(k), new.get(k), f'{name}.{k}' if name else k)]
  return [] if old == new else [(name, old, new)]


def open_workdir(workdir: Path, config: dict[str, Any]) -> None:
  """Makes the run directory, or checks that it belongs to this config.

  Once there is a checkpoint, only MAY_CHANGE may differ, and schedules whose length is `train.steps`.

  Raises:
    UsageError: it belongs to another config (the differences are named), or it cannot be written to.
  """
  path = workdir / 'config.json'
  config = json.loads(json.dumps(config))
  if path.exists():
    old = read_config(workdir)
    trained = any(p.name.isdigit() for p in workdir.glob('checkpoints/*'))
    found = [d for d in differences(old, config) if d[0] not in MAY_CHANGE] if trained else []
    for name, *lengths in list(found):
      if name.startswith('optim.') and name.endswith('.steps') and lengths == [old['train']['steps'], config['train']['steps']]:
        print(f'{workdir}: {name} goes from {lengths[0]} to {lengths[1]} with train.steps: the schedule is stretched.')
        found.remove((name, *lengths))
    if found:
      shown = '; '.join(f'{name}: {json.dumps(a)} -> {json.dumps(b)}' for name, a, b in found[:5])
      shown += f'; and {len(found) - 5} more' if len(found) > 5 else ''
      raise UsageError(f'{workdir} belongs to another config ({shown}).\nGive another --workdir, or the old options.')
  elif workdir.is_dir() and any(p.suffix != '.tmp' for p in workdir.iterdir()):  # .tmp: killed while starting
    raise UsageError(f'{workdir} is not empty and not a run directory (no config.json): give another --workdir.')
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(path, config)
  except OSError as error:
    raise UsageError(f'{workdir} cannot be written to ({error.strerror or error}): give another --workdir.') from None


def write_json(path: Path, value: Any) -> None:
  """Whole or not at all: a kill leaves the old file."""
  scratch = path.with_suffix('.tmp')
  scratch.write_text(json.dumps(value, indent=2) + '\n')
  scratch.replace(path)


def read_config(workdir: Path) -> dict[str, Any]:
  """Raises UsageError if the folder is not a run directory."""
  path = Path(workdir) / 'config.json'
  if not path.is_file():
    raise UsageError(f'{workdir} is not a run directory: it has no config.json.')
  try:
    config = json.loads(path.read_text())
  except ValueError as error:
    raise UsageError(f'{path} is not JSON ({error}); restore it, or start anew in another folder.') from None
  sections = config if isinstance(config, dict) else {}
  if not all(isinstance(sections.get(name), dict) for name in ('data', 'train', 'objective', 'optim')):
    raise UsageError(f'{path} lacks one of the sections data, train, objective, optim: it was not written by genjax.')
  return config


def write_environment(workdir: Path) -> None:
  """Versions, devices, commit and command, with those of earlier sessions below them."""
  path = workdir / 'environment.json'
  try:
    last = json.loads(path.read_text())
    earlier = [{k: v for k, v in last.items() if k != 'earlier'}, *last['earlier']]
  except (OSError, ValueError, KeyError, AttributeError):  # a new run, or a file that somebody cut short
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


def abstract_state(objective: Objective, image_shape: tuple[int, int, int], optimizers=None) -> TrainState:
  """A TrainState of shapes, nothing computed. Without optimizers its `opt_states` mean nothing."""
  optimizers = optimizers or {name: optax.identity() for name in objective.players}
  init = functools.partial(init_state, objective, optimizers)
  return jax.eval_shape(lambda: init(jax.random.key(0), example_batch(image_shape)))


def grid_labels(objective: Objective, n: int) -> np.ndarray | None:
  """Labels 0, 1, ..., K - 1, 0, ...: one class per column of a grid that is `grid_columns` wide."""
  return np.arange(n, dtype=np.int32) % objective.num_classes if objective.num_classes else None


def grid_columns(objective: Objective) -> int:
  """As many columns as classes, if those make a reasonable grid; else 8."""
  return objective.num_classes if 2 <= objective.num_classes <= 16 else 8


@dataclasses.dataclass(frozen=True)
class Run:
  """A trained model. `variables` holds the moving average of the parameters, unless loaded with `ema=False`."""

  path: Path
  config: dict[str, Any]
  objective: Objective
  variables: Variables
  step: int

  def sample(
    self,
    key: jax.Array,
    n: int,
    label: int | list[int] | None = None,
    batch_size: int = 256,
    **options,
  ) -> Float[Array, 'n h w c']:
    """`n` images in [-1, 1]. Image i depends on (key, i) alone: not on `n` nor on `batch_size`.

    Args:
      key: `jax.random.key(seed)`.
      n: how many.
      label: one class for all, or one for each; None draws them uniformly if the model has classes.
      batch_size: images computed at a time; one compilation per size and options.
      **options: the objective's own, see `run.options`.

    Raises:
      UsageError: an unknown option, a label out of range, an `n` below 1.
    """
    if n < 1:
      raise UsageError(f'n={n}: ask for at least one image.')
    if batch_size < 1:
      raise UsageError(f'batch_size={batch_size} must be 1 or more.')
    for option in options.keys() - self.options.keys():
      raise UsageError(f'this model has no option {option!r}; it has {", ".join(self.options) or "none"}.')
    check(functools.partial(self.objective.sample, None, None, None), 'sample', options)
    options = {k: type(self.options[k])(v) for k, v in options.items()}
    labels = self.labels(label, n, key)
    size = min(n, batch_size)
    parts = []
    for start in range(0, n, size):
      index = np.arange(start, start + size, dtype=np.int32)  # past n: padding, cut below
      part = None if labels is None else jnp.asarray(labels[np.minimum(index, n - 1)])
      parts.append(_sample(self.objective, tuple(sorted(options.items())), self.variables, key, index, part))
    return jnp.concatenate(parts)[:n]

  @property
  def options(self) -> dict[str, Any]:
    """The options that `sample` takes, with their defaults."""
    kinds = parameters(self.objective.sample).values()
    return {p.name: p.default for p in kinds if p.kind is p.KEYWORD_ONLY}

  def labels(self, label: int | list[int] | None, n: int, key: jax.Array) -> np.ndarray | None:
    """Labels int32 [n] for what the user said, checked; drawn from the images' keys if that was None."""
    classes = self.objective.num_classes
    if label is None:
      keys = rng.image_keys(key, np.arange(n, dtype=np.int32))
      return np.asarray(labels_or_random(None, keys, classes)) if classes else None
    if not classes:
      raise UsageError(f'label={label}: this model was trained without labels.')
    labels = np.atleast_1d(np.asarray(label))  # int64: checked before it is narrowed
    if labels.dtype.kind not in 'iu' or labels.ndim != 1 or labels.size not in (1, n):
      raise UsageError(f'label={label}: give one whole number, or one for each of the {n} images.')
    if labels.min() < 0 or labels.max() >= classes:
      raise UsageError(f'label={label}: this model has the classes 0 to {classes - 1}.')
    return np.broadcast_to(labels.astype(np.int32), (n,))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sample(objective, options, variables, key, index, labels):
  return objective.sample(variables, rng.image_keys(key, index), labels, **dict(options))


def load(path: str | Path, step: int | None = None, ema: bool = True) -> Run:
  """Opens a run directory for sampling, on the first device.

  Args:
    path: the run directory.
    step: which checkpoint; the newest if None.
    ema: the moving average of the parameters rather than the parameters.

  Raises:
    UsageError: not a run directory, no checkpoint yet, or names in it that are not genjax's.
  """
  path = Path(path)
  config = read_config(path)
  objective, image_shape = build(config['objective']), config['data'].get('image_shape')
  if not isinstance(objective, Objective) or not isinstance(image_shape, list) or len(image_shape) != 3:
    raise UsageError(f"{path}/config.json: 'objective' is not an objective, or data.image_shape is missing.")
  if not (path / 'checkpoints').is_dir():
    raise UsageError(f'{path} has no checkpoint yet: train it first.')
  checkpoints = Checkpoints(path / 'checkpoints', read_only=True)
  try:
    steps = checkpoints.steps()
    if not steps:
      raise UsageError(f'{path} has no checkpoint yet: train it first.')
    step = steps[-1] if step is None else step
    if step not in steps:
      raise UsageError(f'{path} has no checkpoint of step {step}; it has {", ".join(map(str, steps))}.')
    like = abstract_state(objective, tuple(image_shape))
    sharding = replicated(make_mesh(jax.local_devices()[:1]))
    try:
      restored = checkpoints.restore(step, like, sharding, ('params', 'buffers', 'ema'))
    except (ValueError, KeyError, OSError) as error:
      first_line = str(error).strip().split(chr(10))[0][:200]
      raise UsageError(f'{path}: the checkpoint of step {step} does not fit config.json ({first_line}).') from None
  finally:
    checkpoints.close()
  state = TrainState(jnp.asarray(step), restored['params'], restored['buffers'], {}, restored['ema'])
  return Run(path, config, objective, state.variables(ema), step)
