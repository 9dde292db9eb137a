"""Describes a training run before it starts, and summarizes it when it ends (train.py)."""

import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn

from genjax.build import defaults, parameters, resolve
from genjax.config import TrainConfig
from genjax.data.sources.base import Arrays
from genjax.experiment import Experiment, parameter_report
from genjax.logging import duration, losses_of, read_metrics
from genjax.step import TrainState


def overview(experiment: Experiment, like: TrainState, mesh: jax.sharding.Mesh, first: int, allow: Collection[str] = ()) -> str:
  """Describes the model, data, length, devices and optimizers of a training run, one per line.

  Args:
    experiment: the experiment to train.
    like: the shapes of its state.
    mesh: the devices.
    first: the step at which training starts.
    allow: packages other than genjax that the config may import.
  """
  train, source, objective = experiment.train, experiment.source, experiment.objective
  networks = {name: type(value).__name__ for name, value in vars(objective).items() if isinstance(value, nn.Module)}
  specs = {name: value for name, value in experiment.resolved['objective'].items() if is_spec(value)}
  hidden = {'conditioner', 'sampler', *networks}
  parts = ', '.join(f'{name} {class_name(value)}' for name, value in specs.items() if name not in hidden)
  fields = ' and '.join(objective.conditioner.fields)
  classes = f', {source.num_classes} classes' if source.num_classes else ''
  place = 'in memory' if isinstance(source, Arrays) else 'read from disk'
  hosts = f' on {jax.process_count()} hosts' if jax.process_count() > 1 else ''
  remaining = f', beginning with step {first:,}' if first else ''
  accumulate = f' in {train.accumulate} parts' if train.accumulate > 1 else ''
  evaluations = f', evaluations every {train.evaluate_every:,} kimg' if train.evaluate_every else ''
  chains: dict[str, list[str]] = {}
  for player, spec in experiment.resolved['optim'].items():
    chains.setdefault(format_spec(spec, allow), []).append(player)
  optimizers = [text if len(chains) == 1 else f'{", ".join(names)}: {text}' for text, names in chains.items()]
  return table(
    {
      'objective': f'{type(objective).__name__}{parts and f" ({parts})"}{fields and f", conditioned on {fields}"}',
      'networks': ', '.join(f'{name} {kind}' for name, kind in networks.items()),
      'parameters': parameter_report(like).removeprefix('parameters '),
      'data': f'{source.name}: {len(source):,} images of {" x ".join(map(str, source.image_shape))}{classes}, {place}',
      'training': f'{train.steps:,} steps of {train.batch_size} images{accumulate}, {kimg(train)} kimg{remaining}',
      'optimizer': optimizers,
      'devices': f'{mesh.size} {mesh.devices.flat[0].device_kind}{hosts}, strategy {train.strategy}, {train.dtype}',
      'writes': f'metrics every {train.log_every:,} steps, samples every {train.sample_every:,}, checkpoints every '
      f'{train.checkpoint_every:,}{evaluations}',
    }
  )


def summary(train: TrainConfig, workdir: Path, picture: Path, first: int, seconds: float, allow: Collection[str] = ()) -> str:
  """Summarizes a finished training run, from its metrics.jsonl, with commands for the next steps.

  Args:
    train: the section `train` of the config.
    workdir: the run directory.
    picture: the last grid of samples.
    first: the step at which this session started.
    seconds: the duration of this session.
    allow: packages other than genjax that the config imports.
  """
  lines = read_metrics(workdir)
  losses = next((losses_of(line) for line in reversed(lines) if losses_of(line)), '')
  best = min((line for line in lines if line.get('evaluation/fid')), key=lambda line: line['evaluation/fid'], default=None)
  run, out = shlex.quote(str(workdir)), shlex.quote(f'exports/{workdir.resolve().name}')
  packages = ''.join(f' --allow_package {name}' for name in allow)
  steps = train.steps - first
  session = f'{f", the last {steps:,}" if first else ""} in {duration(seconds)}' if steps else ''
  return f'{workdir}: done, {train.steps:,} steps ({kimg(train)} kimg){session}.\n' + table(
    {
      'losses': losses,
      'lowest FID': f'{best["evaluation/fid"]:.4g} at step {best["step"]:,}: {workdir}/best' if best else '',
      'samples': str(picture),
      'next': [
        f'python sample.py --run {run}{packages}',
        f'python evaluate.py --run {run}{packages}',
        f'python export.py --run {run}{packages} --out {out}',
        f'tensorboard --logdir {run}  # pip install tensorboard',
      ],
    }
  )


def table(rows: Mapping[str, str | list[str]]) -> str:
  """Indented lines, with a heading at the first line of each row. Rows without text are omitted."""
  lines = []
  for heading, text in rows.items():
    for part in filter(None, [text] if isinstance(text, str) else text):
      lines.append(f'  {heading:12}{part}')
      heading = ''
  return '\n'.join(lines)


def kimg(train: TrainConfig) -> str:
  """The number of training images, in thousands."""
  thousands = train.steps * train.batch_size / 1000
  return f'{thousands:,.0f}' if thousands >= 1000 else f'{thousands:.4g}'


def is_spec(value: Any) -> bool:
  """Whether a value is a spec, or several."""
  if isinstance(value, (list, tuple)):
    return bool(value) and all(map(is_spec, value))
  return isinstance(value, Mapping) and 'cls' in value


def class_name(value: Any) -> str:
  """The name of the class of a spec, or of each of several."""
  return ' + '.join(map(class_name, value)) if isinstance(value, (list, tuple)) else value['cls'].rpartition('.')[2]


def format_spec(value: Any, allow: Collection[str] = ()) -> str:
  """A spec as a call with the arguments that differ from their defaults: 'adam(learning_rate=0.0002, b1=0.5)'."""
  if isinstance(value, (list, tuple)):
    return f'({", ".join(format_spec(item, allow) for item in value)})'
  if not isinstance(value, Mapping):
    return f'{value:g}' if isinstance(value, float) else str(value)
  if 'cls' not in value:
    return '{' + ', '.join(f'{key}: {format_spec(item, allow)}' for key, item in value.items()) + '}'
  function = resolve(value['cls'], allow)
  usual, order = defaults(function), list(parameters(function))
  arguments = {key: item for key, item in value.items() if key != 'cls' and not (key in usual and item == usual[key])}
  names = sorted(arguments, key=lambda key: order.index(key) if key in order else len(order))
  return f'{class_name(value)}({", ".join(f"{key}={format_spec(arguments[key], allow)}" for key in names)})'
