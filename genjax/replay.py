"""Diagnoses a step that was not finite: the player, and the module in which the first value that is not finite occurred.

nan/step_N/ contains a checkpoint of the state before step N, which the step leaves unchanged (see genjax/step.py), and
step.npz with the batch, the run's key and the scalars of that step.
"""

import functools
import io
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.experimental import multihost_utils

from genjax import parallel, rng
from genjax.build import build
from genjax.checkpoint import Checkpoints
from genjax.errors import UsageError
from genjax.experiment import Experiment
from genjax.files import write_whole
from genjax.optim import AVERAGE, Average
from genjax.parallel import make_mesh, replicate, replicated
from genjax.run import average_of, described_state
from genjax.step import TrainState, Turn, player_keys, train_step, turn_at
from genjax.types import Batch, Context, Example
from genjax.weights import read_copies
from genjax.workdir import read_config


def dump(folder: Path, state: TrainState, batch: Batch, key: jax.Array, metrics: dict[str, float]) -> None:
  """Writes the files that `load` reads. `state` is the halted state."""
  checkpoints = Checkpoints(folder)
  checkpoints.save(state.replace(step=~state.step))
  checkpoints.close()
  if jax.process_count() > 1:
    batch = multihost_utils.process_allgather(batch, tiled=True)
  if jax.process_index():
    return
  arrays = {'image': batch.image, 'index': batch.index, 'row': batch.row} | {f'cond/{k}': v for k, v in batch.cond.items()}
  arrays = {name: np.asarray(value) for name, value in arrays.items()}
  names = np.array(list(metrics))
  file = io.BytesIO()
  np.savez(file, key=jax.random.key_data(key), names=names, values=list(metrics.values()), **arrays)
  write_whole(folder / 'step.npz', file.getvalue())


def load(
  folder: Path, objective, optimizers, average: Average = AVERAGE
) -> tuple[TrainState, Batch, jax.Array, dict[str, float]]:
  """State, batch, key and scalars of a step that was not finite, on the first device.

  Raises:
    UsageError: the folder does not contain such a step.
  """
  if not (folder / 'step.npz').is_file():
    raise UsageError(f'{folder} contains no step to replay (no step.npz): use a folder such as runs/x/nan/step_00000123.')
  try:
    with open(folder / 'step.npz', 'rb') as raw, np.load(raw, allow_pickle=False) as file:
      batch = read_batch(file)
      key = jax.random.wrap_key_data(file['key'], impl=rng.IMPL)
      metrics = dict(zip(map(str, file['names'].tolist()), map(float, file['values']), strict=True))
    n = batch.image.shape[:1]
    lengths = {x.shape[:1] for x in jax.tree.leaves(batch)}
    integers = (batch.index, batch.row, batch.cond.get('label', batch.index))
    if key.shape or batch.image.ndim != 4 or not n[0] or lengths != {n} or {x.shape for x in integers} != {n}:
      raise ValueError('its arrays are not a batch and a key')
    if batch.image.dtype != jnp.float32 or {x.dtype for x in integers} != {jnp.dtype(jnp.int32)}:
      raise ValueError('its arrays have other types')
    if missing := sorted(set(objective.conditioner.fields) - set(batch.cond)):
      raise ValueError(f'its arrays have no {missing[0]}')
  except Exception as error:  # NumPy, zipfile and JAX raise different exceptions for invalid files
    raise UsageError(f'{folder / "step.npz"} was not written by train.py or is damaged ({error}).') from None
  like = described_state(folder.parent.parent, objective, example_of_batch(batch), optimizers, average)
  mesh = make_mesh(jax.local_devices()[:1])
  checkpoints = Checkpoints(folder, read_only=True)
  try:
    if not checkpoints.steps():
      raise UsageError(f'{folder} contains no checkpoint to replay the step from: restore it.')
    state = TrainState(**checkpoints.restore(checkpoints.steps()[-1], like, replicated(mesh)))
  finally:
    checkpoints.close()
  return state, replicate(batch, mesh), replicate(key, mesh), metrics


def example_of_batch(batch: Batch) -> Example:
  """Shapes and types of the examples of a batch."""
  shape = lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype)  # noqa: E731
  return Example(shape(batch.image), {name: shape(x) for name, x in batch.cond.items()})


def read_batch(file) -> Batch:
  """The batch in a step.npz. Files of schema 1 have no `row`, and `label` instead of `cond/label`."""
  cond = {name.removeprefix('cond/'): jnp.asarray(file[name]) for name in file.files if name.startswith('cond/')}
  cond |= {'label': jnp.asarray(file['label'])} if 'label' in file.files else {}
  row = file['row'] if 'row' in file.files else np.zeros_like(file['index'])
  return Batch(jnp.asarray(file['image']), cond, jnp.asarray(file['index']), jnp.asarray(row))


def diagnose(objective, optimizers, state: TrainState, batch: Batch, key: jax.Array, turn: Turn, **options: Any) -> str:
  """Describes which player's loss or gradient is not finite at this step, and in which module first; '' if all are finite.

  `options`: `data_size`, `average` and `frozen` of `train_step`.

  Runs op by op, and therefore needs all arrays on one host.
  """
  step = functools.partial(train_step, objective=objective, optimizers=optimizers, **options)
  plans, frozen = dict(turn), options.get('frozen', {})
  for i, (name, player) in enumerate(objective.players.items()):
    if name not in plans:
      continue
    keys, modules = player_keys(key, state.step, batch.index, i), []

    def watch(call, args, kwargs, context, modules=modules):
      out = call(*args, **kwargs)
      if not modules and not all(_finite(x) for x in jax.tree.leaves(out)):  # the innermost module returns first
        modules.append('/'.join((type(root_of(context.module)).__name__, *context.module.path)))
      return out

    def loss(params, name=name, player=player, keys=keys):
      all_params = {**state.params, **frozen, name: params}
      context = Context(state.step, state.ema, state.buffers, len(batch.index), options.get('data_size', 0), plans[name])
      return player.loss(all_params, context, batch, keys)

    with nn.intercept_methods(watch):
      value, aux = loss(state.params[name])
    if modules:
      return f'player {name}: first in the module {modules[0]}'
    bad = [what for what, x in {'its loss': value, **aux.metrics}.items() if not _finite(x)]
    if bad:
      return f'player {name}: in {bad[0]}, after finite modules'
    grads, _ = jax.jit(jax.grad(loss, has_aux=True))(state.params[name])
    bad = [path for path, x in jax.tree_util.tree_leaves_with_path(grads) if not _finite(x)]
    if bad:
      return f'player {name}: activations are finite, the gradient of {jax.tree_util.keystr(bad[0])} is not'
    if not _finite(optax.tree.norm(grads)):
      return f'player {name}: all gradients are finite, their norm is too large for a float'
    after, _ = jax.jit(functools.partial(step, turn=((name, plans[name]),)))(state, batch, key)
    state = after.replace(step=state.step)
  return ''


def report(
  folder: Path, experiment: Experiment, state: TrainState, batch: Batch, key: jax.Array, metrics: dict[str, float]
) -> str:
  """Saves a step that was not finite to `folder`, and returns a diagnosis.

  `state` is halted: it is the state before the step.
  """
  dump(folder, state, batch, key, metrics)
  parallel.wait_for_all('dump')
  objective, optimizers, average = experiment.objective, experiment.optimizers, experiment.average
  options = {'data_size': len(experiment.source), 'average': average, 'frozen': experiment.frozen_variables}
  state, batch, key, _ = load(folder, objective, optimizers, average)  # unsharded, on this host's first device
  step, where = int(state.step), 'the first host reports where'
  if jax.process_index() == 0:
    where = diagnose(objective, optimizers, state, batch, key, turn_at(objective, step), **options)
  parallel.wait_for_all('diagnosis')
  bad = ', '.join(name for name, value in metrics.items() if not math.isfinite(value))
  return (
    f'{bad} not finite at step {step + 1}; {where or "finite when repeated"}. To reproduce it: --replay {folder}\n'
    'Train a new run in another --workdir with a lower learning rate or with clip. Checkpoints, if any, are of earlier steps.'
  )


def replay(folder: Path, allow: Collection[str] = ()) -> None:
  """Repeats a step that was not finite, on the first device, and prints a diagnosis."""
  config = read_config(folder.parent.parent)
  objective, optimizers = build(config['objective'], allow), build(config['optim'], allow)
  average = average_of(config['train'], allow)
  state, batch, key, logged = load(folder, objective, optimizers, average)
  turn = turn_at(objective, int(state.step))
  options = {'data_size': int(config['data'].get('size', 0)), 'average': average}
  options['frozen'] = read_copies(folder.parent.parent, config)
  step = functools.partial(train_step, objective=objective, optimizers=optimizers, turn=turn, **options)
  _, repeated = jax.jit(step)(state, batch, key)
  if unknown := sorted(logged.keys() - repeated.keys()):
    raise UsageError(f'{folder / "step.npz"} contains values of {unknown[0]!r}, which this objective does not log.')
  print(
    f'step {int(state.step) + 1}, players {", ".join(dict(turn))}; in training, and repeated on {jax.devices()[0].device_kind}:'
  )
  for name, value in logged.items():
    print(f'  {name:30} {value:12.6g} {float(repeated[name]):12.6g}')
  print(diagnose(objective, optimizers, state, batch, key, turn, **options) or 'Repeated here, the step is finite.')


def root_of(module: nn.Module) -> nn.Module:
  """The outermost module that contains `module`."""
  while isinstance(module.parent, nn.Module):
    module = module.parent
  return module


def _finite(x) -> bool:
  return not jnp.issubdtype(jnp.result_type(x), jnp.inexact) or bool(jnp.isfinite(x).all())
