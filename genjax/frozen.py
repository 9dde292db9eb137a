"""Networks of other runs that a model uses and does not train: a teacher, an autoencoder, a feature network.

The section `frozen` of a config names runs: `config.frozen = {'teacher': {'run': 'runs/x', 'ema': True}}`. An objective
with a field `teacher` gets that run's objective, and its losses get that run's `Variables` in `params['teacher']`. They are
copied into the run directory once, with a hash in config.json, and are not in its checkpoints.
"""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax

from genjax.build import check
from genjax.errors import UsageError
from genjax.run import load
from genjax.types import Variables
from genjax.weights import copy_path, read_copy, save_tree, tree_hash

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
    allow: packages other than genjax that the other runs may import.

  Raises:
    UsageError: no such run, or its variables differ from those that were copied.
  """
  return {name: open_entry(name, entry, workdir, recorded, allow) for name, entry in section.items()}


def open_entry(name: str, entry: Any, workdir: Path, recorded: Mapping[str, Any], allow: Collection[str]) -> Frozen:
  if not isinstance(entry, Mapping):
    raise UsageError(f"config.frozen.{name}={entry!r} must be a section with 'run', as {{'run': 'runs/x'}}.")
  check(Source, f'config.frozen.{name}', entry)
  source = Source(**entry)
  before = (recorded.get('frozen') or {}).get(name)
  # The other run may have been trained further since it was copied: unless the step changes, the copy is used.
  same = bool(before) and source in (to_source(before, -1), to_source(before, before['step']))
  if before and (not Path(source.run).expanduser().exists() or (same and copy_path(workdir, name).exists())):
    variables = read_copy(workdir, name, before['hash'])
    return Frozen(recorded['objective'][name], variables, before | {'run': source.run})
  step = before['step'] if same else source.step
  run = load(source.run, None if step < 0 else step, source.ema, allow)
  if any(isinstance(tree, Variables) for tree in run.variables.params.values()):
    raise UsageError(
      f'config.frozen.{name}: {source.run} has frozen networks itself, which is not supported: use a run without them.'
    )
  variables = Variables(*jax.device_get(run.variables))
  record = {'run': source.run, 'step': run.step, 'ema': source.ema, 'hash': tree_hash(variables._asdict())}
  if before and before['hash'] != record['hash']:
    raise UsageError(
      f'config.frozen.{name}: {source.run} contains other networks (step {run.step}, hash {record["hash"]}) than those that '
      f'{workdir} was started with (step {before["step"]}, hash {before["hash"]}): use those, or another --workdir.'
    )
  return Frozen(run.config['objective'], variables, record)


def to_source(record: Mapping[str, Any], step: int) -> Source:
  """The entry of the section `frozen` that corresponds to `record` in config.json, with this step."""
  return Source(record['run'], step, record['ema'])


def source_of(record: Mapping[str, Any]) -> dict[str, Any]:
  """The entry of the section `frozen` that corresponds to `record` in config.json, as a dictionary."""
  return dataclasses.asdict(to_source(record, record['step']))


def write_copies(workdir: Path, frozen: Mapping[str, Frozen]) -> None:
  """Copies the variables into the run directory, once."""
  for name, part in frozen.items():
    if not copy_path(workdir, name).exists():
      save_tree(copy_path(workdir, name), {key: value for key, value in part.variables._asdict().items() if value})
