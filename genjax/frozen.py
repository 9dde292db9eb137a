"""Networks of other runs that a model uses and does not train: a teacher, an autoencoder, a feature network.

The section `frozen` of a config names runs: `config.frozen = {'teacher': {'run': 'runs/x', 'ema': True}}`. An objective
with a field `teacher` gets that run's objective, and its losses find that run's `Variables` in `params['teacher']`. They are
copied into the run directory once, with a hash in config.json, and are no part of its checkpoints.
"""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from genjax.errors import UsageError
from genjax.metrics.extractors import tree_hash
from genjax.metrics.weights import load_tree, save_tree
from genjax.types import Variables

PARTS = ('params', 'buffers')


@dataclasses.dataclass(frozen=True)
class Source:
  """An entry of the section `frozen` of a config."""

  run: str
  step: int = -1  # which checkpoint; -1: the newest
  ema: bool = True  # the averaged parameters


@dataclasses.dataclass(frozen=True, eq=False)
class Frozen:
  """A run's objective as a spec, its variables, and what config.json records of it."""

  objective: dict[str, Any]
  variables: Variables
  record: dict[str, Any]


def open_frozen(
  section: Mapping[str, Any], workdir: Path, recorded: Mapping[str, Any], allow: Collection[str]
) -> dict[str, Frozen]:
  """The networks in the section `frozen` of a config.

  Args:
    section: name -> options of `Source`.
    workdir: the run directory; its copy is used unless another run or step is named.
    recorded: the config of the run directory, if there is one.
    allow: packages beside genjax that the other runs may name.

  Raises:
    UsageError: no such run, or its variables are not those that were copied.
  """
  return {name: open_one(name, entry, workdir, recorded, allow) for name, entry in section.items()}


def open_one(name: str, entry: Any, workdir: Path, recorded: Mapping[str, Any], allow: Collection[str]) -> Frozen:
  from genjax.build import check
  from genjax.run import load

  if not isinstance(entry, Mapping):
    raise UsageError(f"config.frozen.{name}={entry!r} must be a section with 'run', as {{'run': 'runs/x'}}.")
  check(Source, f'config.frozen.{name}', entry)
  source = Source(**entry)
  before = (recorded.get('frozen') or {}).get(name)
  # The other run may have been trained further since the copy was made: without another step, the copy is meant.
  same = bool(before) and source in (source_with(before, -1), source_with(before, before['step']))
  if before and (not Path(source.run).expanduser().exists() or (same and copy_path(workdir, name).exists())):
    variables = read_copy(workdir, name, before['hash'])
    return Frozen(recorded['objective'][name], variables, before | {'run': source.run})
  step = before['step'] if same else source.step
  run = load(source.run, None if step < 0 else step, source.ema, allow)
  if any(isinstance(tree, Variables) for tree in run.variables.params.values()):
    raise UsageError(f'config.frozen.{name}: {source.run} has frozen networks itself, which is not supported.')
  variables = Variables(*jax.device_get(run.variables))
  record = {'run': source.run, 'step': run.step, 'ema': source.ema, 'hash': tree_hash(variables._asdict())}
  if before and before['hash'] != record['hash']:
    raise UsageError(
      f'config.frozen.{name}: {source.run} holds other networks (step {run.step}, hash {record["hash"]}) than those that '
      f'{workdir} was begun with (step {before["step"]}, hash {before["hash"]}): name that one, or use another --workdir.'
    )
  return Frozen(run.config['objective'], variables, record)


def source_with(record: Mapping[str, Any], step: int) -> Source:
  """The entry of a config that `record` in config.json stands for, with this step."""
  return Source(record['run'], step, record['ema'])


def source_of(record: Mapping[str, Any]) -> dict[str, Any]:
  """The entry of a config that `record` in config.json stands for, as a dictionary."""
  return dataclasses.asdict(source_with(record, record['step']))


def copy_path(workdir: Path, name: str) -> Path:
  return workdir / 'frozen' / f'{name}.npz'


def write_copies(workdir: Path, frozen: Mapping[str, Frozen]) -> None:
  """Copies the variables into the run directory, once."""
  for name, part in frozen.items():
    if not copy_path(workdir, name).exists():
      save_tree(copy_path(workdir, name), {key: value for key, value in part.variables._asdict().items() if value})


def read_copy(workdir: Path, name: str, expected: str) -> Variables:
  """The copy in a run directory. Raises UsageError if it is missing, or if its hash differs from that in config.json."""
  path = copy_path(workdir, name)
  try:
    tree = load_tree(path)
  except UsageError:
    raise UsageError(f'{path}, the frozen networks of {name!r}, is damaged: restore it.') from None
  if tree is None:
    raise UsageError(f'{path} is missing: the run needs the frozen networks of {name!r}; restore it.')
  variables = Variables(tree.get('params', {}), tree.get('buffers', {}))
  if tree_hash(variables._asdict()) != expected:
    raise UsageError(f'{path} has changed: its hash is not the one in config.json; restore it.')
  return variables


def read_copies(workdir: Path, config: Mapping[str, Any]) -> dict[str, Variables]:
  """The frozen variables of a run, by name. Raises UsageError like `read_copy`."""
  section = config.get('frozen') or {}
  return {name: jax.tree.map(np.asarray, read_copy(workdir, name, record['hash'])) for name, record in section.items()}
