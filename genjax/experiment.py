"""Builds the objects of a training run from a config."""

import functools
import json
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import jax
import optax
from flax import linen as nn

from genjax import parallel, rng
from genjax.build import build, check, fill_inferred, with_defaults
from genjax.config import TrainConfig, section_defaults
from genjax.data import contents
from genjax.data.sources.base import Source
from genjax.data.sources.open import open_data, open_section
from genjax.data.transforms import Flip, Transform
from genjax.errors import UsageError, unknown
from genjax.frozen import Frozen, open_frozen
from genjax.optim import Average
from genjax.run import average_of
from genjax.step import TrainState, train_step, turn_at
from genjax.types import Objective, Variables, example_batch
from genjax.workdir import read_config

SECTIONS = ('data', 'train', 'objective', 'optim')
OPTIONAL = ('frozen',)


class Experiment(NamedTuple):
  """The objects of a config, and the config itself with all defaults and inferred values."""

  train: TrainConfig
  source: Source
  transforms: tuple[Transform, ...]
  objective: Objective
  optimizers: dict[str, optax.GradientTransformation]
  average: Average
  frozen: dict[str, Frozen]
  resolved: dict

  @property
  def data(self) -> dict:
    """The options of `open_data`."""
    return contents.options(self.resolved['data'])

  def keys(self) -> jax.Array:
    """The keys of init, training and sampling. Call it under jit, so that they are on all devices."""
    return jax.random.split(rng.key(self.train.seed), 3)

  def compile_step(self, mesh: jax.sharding.Mesh) -> parallel.CompiledStep:
    """Raises UsageError if the devices do not get equal microbatches."""
    parallel.check_batch_size(self.train.batch_size, mesh, self.train.accumulate)
    step = functools.partial(
      train_step,
      objective=self.objective,
      optimizers=self.optimizers,
      average=self.average,
      accumulate=self.train.accumulate,
      data_size=len(self.source),
    )
    return parallel.compile_step(step, mesh, self.train.strategy, self.frozen_variables)

  @property
  def frozen_variables(self) -> dict[str, Variables]:
    """Variables of other runs, by name."""
    return {name: part.variables for name, part in self.frozen.items()}

  def variables(self, state: TrainState) -> Variables:
    """Variables for `objective.sample`: averaged parameters, and those of frozen networks."""
    params, buffers = state.variables(self.average)
    return Variables(params | self.frozen_variables, buffers)


def build_experiment(config: dict, allow: Collection[str], workdir: Path) -> Experiment:
  """Config -> objects. Nothing behind this function sees a config.

  Args:
    config: sections, as `get_config` of a config file returns them.
    allow: packages other than genjax that the config may import.
    workdir: the run directory, which may contain copies of frozen networks.

  Raises:
    UsageError: unknown sections, options or classes, values out of range, or parts that do not fit together.
  """
  for name in config:
    if name not in (*SECTIONS, *OPTIONAL):
      raise UsageError(unknown('section', name, (*SECTIONS, *OPTIONAL), owner='the config'))
  for name in SECTIONS:
    if name not in config:
      raise UsageError(f'the config has no section {name!r}: start from configs.common.base, add objective and optim.')
    if not isinstance(config[name], dict):
      raise UsageError(f'config.{name}={config[name]!r} must be a section, as configs.common.base and spec() make them.')
  check(TrainConfig, 'config.train', config['train'])
  train = TrainConfig(**config['train'])
  data = {name: value for name, value in config['data'].items() if name != 'flip'}
  check(open_data, 'config.data', {name: value for name, value in data.items() if name != 'source'})
  source = open_section(allow, **data)
  recorded = read_config(workdir) if (workdir / 'config.json').is_file() else {}
  frozen = open_frozen(config.get('frozen') or {}, workdir, recorded, allow)
  config = config | {'objective': config['objective'] | {name: part.objective for name, part in frozen.items()}}
  resolved = config | {
    'data': section_defaults()['data'] | config['data'] | {'name': source.name} | contents.recorded(source),
    'train': section_defaults()['train'] | config['train'],
    **resolve_specs(config, source, allow),
    **({'frozen': {name: part.record for name, part in frozen.items()}} if frozen else {}),
  }
  check_labels(resolved['objective'], source)
  objective, optimizers = build(resolved['objective'], allow), build(resolved['optim'], allow)
  check_fit(objective, optimizers, source)
  transforms = (Flip(),) if config['data'].get('flip', False) else ()
  average = average_of(config['train'], allow)
  return Experiment(train, source, transforms, objective, optimizers, average, frozen, resolved)


def resolve_specs(config: dict, source: Source, allow: Collection[str]) -> dict:
  """The sections `objective` and `optim` with values inferred from the data, and with defaults that spec() does not fill in."""
  specs = {name: with_defaults(config[name], allow) for name in ('objective', 'optim')}
  dtype = config['train'].get('dtype', TrainConfig.dtype)
  inferred = {'image_shape': source.image_shape, 'classes': source.num_classes, 'dtype': dtype}
  return specs | {'objective': fill_inferred(specs['objective'], inferred, allow)}


def check_labels(objective: dict, source: Source) -> None:
  """Raises UsageError if the model is conditioned on a class, and the data have no labels."""
  conditioner = objective.get('conditioner') or {}
  if conditioner.get('cls') == 'conditioners.ClassLabel' and not source.num_classes:
    raise UsageError(
      f'{source.name} has no labels, and the model is conditioned on a class: '
      '--config.objective.conditioner.cls=conditioners.Unconditional trains it without.'
    )


def check_fit(objective: Objective, optimizers: dict, source: Source) -> None:
  """Raises UsageError where objective, optimizers and data do not belong together."""
  if not isinstance(objective, Objective):
    raise UsageError(f'config.objective is {type(objective).__name__}, which is not an objective: use spec("objectives....").')
  if not isinstance(optimizers, dict) or set(optimizers) != set(objective.players):
    have = ', '.join(optimizers) if isinstance(optimizers, dict) else type(optimizers).__name__
    raise UsageError(f'config.optim has {have}; it needs one optimizer for each of {", ".join(objective.players)}.')
  for name, optimizer in optimizers.items():
    if not isinstance(optimizer, optax.GradientTransformation):
      raise UsageError(f'config.optim.{name} is not an optimizer: use spec("optim.adam", ...), or one of optax by its name.')
  try:
    objective.conditioner.check(source.example)
  except UsageError as error:
    raise UsageError(f'{source.name}: {error}') from None
  read = network_fields(objective)
  for field in objective.conditioner.fields:
    if field not in read:
      raise UsageError(
        f'objective.conditioner has the field {field!r}, which no network of {type(objective).__name__} reads: use a network '
        'that has it in its fields, or --config.objective.conditioner.cls=conditioners.Unconditional.'
      )


def network_fields(objective: Objective) -> set[str]:
  """The conditions that an objective's networks read; frozen objectives among its fields have networks, too."""
  fields = set()
  for value in vars(objective).values():
    if isinstance(value, Objective):
      fields |= network_fields(value)
    if isinstance(value, nn.Module):
      fields |= set(getattr(value, 'fields', ()))
  return fields


def bytes_of(like: TrainState) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(like))


def parameter_report(like: TrainState) -> str:
  """The number of parameters of each player."""
  sizes = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in like.params.items()}
  return 'parameters ' + ', '.join(f'{name} {size:,}' for name, size in sizes.items())


def dry_run(experiment: Experiment, like: TrainState, compiled_step: parallel.CompiledStep) -> None:
  """Prints a summary of a run, computed only from shapes."""
  print(json.dumps(experiment.resolved, indent=2))
  print(parameter_report(like))
  batch = jax.eval_shape(lambda: example_batch(experiment.source.example, experiment.train.batch_size))
  key = jax.eval_shape(lambda: rng.key(0))
  step = functools.partial(compiled_step.step, turn=turn_at(experiment.objective, 0))
  lowered = jax.jit(step).lower(like, batch, key, experiment.frozen_variables)
  print(f'FLOPs per step {lowered.cost_analysis()["flops"]:.4g} (before optimization by the compiler; all players)')
  print(f'bytes of state {bytes_of(like):,}')
