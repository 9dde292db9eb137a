"""What is kept of a step that was not finite, and what is found out from it: the player, and the module where it began.

nan/step_N/ holds the state before step N (the step keeps it, see genjax/step.py) as a checkpoint, and in step.npz the
batch, the run's key and the scalars of that step.
"""

import functools
import io
from collections.abc import Collection
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.experimental import multihost_utils

from genjax import rng
from genjax.build import build
from genjax.checkpoint import Checkpoints
from genjax.errors import UsageError
from genjax.files import write_whole
from genjax.parallel import make_mesh, put_everywhere, replicated
from genjax.run import described_state
from genjax.step import TrainState, player_keys, playing, train_step
from genjax.types import Batch, Context
from genjax.workdir import read_config


def dump(folder: Path, state: TrainState, batch: Batch, key: jax.Array, metrics: dict[str, float]) -> None:
  """Writes what `load` reads. `state` is the one that the step halted at."""
  checkpoints = Checkpoints(folder)
  checkpoints.save(state.replace(step=~state.step))
  checkpoints.close()
  if jax.process_count() > 1:
    batch = multihost_utils.process_allgather(batch, tiled=True)
  if jax.process_index():
    return
  arrays = {name: np.asarray(value) for name, value in batch._asdict().items()}
  names = np.array(list(metrics))
  file = io.BytesIO()
  np.savez(file, key=jax.random.key_data(key), names=names, values=list(metrics.values()), **arrays)
  write_whole(folder / 'step.npz', file.getvalue())


def load(folder: Path, objective, optimizers) -> tuple[TrainState, Batch, jax.Array, dict[str, float]]:
  """State, batch, key and scalars of a step that was not finite, on the first device.

  Raises:
    UsageError: the folder does not hold such a step.
  """
  if not (folder / 'step.npz').is_file():
    raise UsageError(f'{folder} holds no step to replay (no step.npz): give a folder like runs/x/nan/step_00000123.')
  try:
    with open(folder / 'step.npz', 'rb') as raw, np.load(raw, allow_pickle=False) as file:
      batch = Batch(*(jnp.asarray(file[name]) for name in Batch._fields))
      key = jax.random.wrap_key_data(file['key'], impl=rng.IMPL)
      metrics = dict(zip(map(str, file['names'].tolist()), map(float, file['values']), strict=True))
    n = batch.image.shape[:1]
    if key.shape or batch.image.ndim != 4 or not n[0] or not batch.label.shape == batch.index.shape == n:
      raise ValueError('its arrays are not a batch and a key')
    if [x.dtype for x in batch] != [jnp.float32, jnp.int32, jnp.int32]:
      raise ValueError('its arrays have other types')
  except Exception as error:  # NumPy, zipfile and JAX each have their own for bytes that make no sense
    raise UsageError(f'{folder / "step.npz"} is not what train.py wrote ({error}).') from None
  like = described_state(folder.parent.parent, objective, batch.image.shape[1:], optimizers)
  mesh = make_mesh(jax.local_devices()[:1])
  checkpoints = Checkpoints(folder, read_only=True)
  try:
    if not checkpoints.steps():
      raise UsageError(f'{folder} holds no state to replay the step from: its checkpoint is gone.')
    state = TrainState(**checkpoints.restore(checkpoints.steps()[-1], like, replicated(mesh)))
  finally:
    checkpoints.close()
  return state, put_everywhere(batch, mesh), put_everywhere(key, mesh), metrics


def diagnose(objective, optimizers, state: TrainState, batch: Batch, key: jax.Array, turn: tuple[str, ...]) -> str:
  """Which player's loss or gradient is not finite at this step, and the first module whose output is not; '' if none.

  Runs op by op, where all arrays are at hand: on one host.
  """
  step = functools.partial(train_step, objective=objective, optimizers=optimizers, ema_halflife=1.0)
  for i, (name, player) in enumerate(objective.players.items()):
    if name not in turn:
      continue
    keys, found = player_keys(key, state.step, batch.index, i), []

    def watch(call, args, kwargs, context, found=found):
      out = call(*args, **kwargs)
      if not found and not all(_finite(x) for x in jax.tree.leaves(out)):  # the innermost module returns first
        found.append('/'.join((type(root_of(context.module)).__name__, *context.module.path)))
      return out

    def loss(params, name=name, player=player, keys=keys):
      everyone = {**state.params, name: params}
      return player.loss(everyone, Context(state.step, state.ema, state.buffers, len(batch.index), turn), batch, keys)

    with nn.intercept_methods(watch):
      value, aux = loss(state.params[name])
    if found:
      return f'player {name}: first in the module {found[0]}'
    bad = [what for what, x in {'its loss': value, **aux.metrics}.items() if not _finite(x)]
    if bad:
      return f'player {name}: in {bad[0]}, after finite modules'
    grads, _ = jax.jit(jax.grad(loss, has_aux=True))(state.params[name])
    bad = [path for path, x in jax.tree_util.tree_leaves_with_path(grads) if not _finite(x)]
    if bad:
      return f'player {name}: activations are finite, the gradient of {jax.tree_util.keystr(bad[0])} is not'
    if not _finite(optax.tree.norm(grads)):
      return f'player {name}: all gradients are finite, their norm is too large for a float'
    after, _ = jax.jit(functools.partial(step, playing=tuple(n for n in turn if n.split('/')[0] == name)))(state, batch, key)
    state = after.replace(step=state.step)
  return ''


def replay(folder: Path, allow: Collection[str] = ()) -> None:
  """Takes a step that was not finite again, on the first device, and says what it finds."""
  config = read_config(folder.parent.parent)
  objective, optimizers = build(config['objective'], allow), build(config['optim'], allow)
  state, batch, key, then = load(folder, objective, optimizers)
  turn = playing(objective, int(state.step))
  step = functools.partial(train_step, objective=objective, optimizers=optimizers, playing=turn, ema_halflife=1.0)
  _, now = jax.jit(step)(state, batch, key)
  if strange := sorted(then.keys() - now.keys()):
    raise UsageError(f'{folder / "step.npz"} holds values of {strange[0]!r}, which this objective does not log.')
  print(f'step {int(state.step) + 1}, players {", ".join(turn)}; in training, and here on {jax.devices()[0].device_kind}:')
  for name, value in then.items():
    print(f'  {name:30} {value:12.6g} {float(now[name]):12.6g}')
  print(diagnose(objective, optimizers, state, batch, key, turn) or 'Taken again here, the step is finite.')


def root_of(module: nn.Module) -> nn.Module:
  """The module that was called from outside of all modules."""
  while isinstance(module.parent, nn.Module):
    module = module.parent
  return module


def _finite(x) -> bool:
  return not jnp.issubdtype(jnp.result_type(x), jnp.inexact) or bool(jnp.isfinite(x).all())
