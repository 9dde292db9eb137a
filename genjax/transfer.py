"""Fine-tuning: a new run that starts from the parameters of another, `train.init_from=runs/x`."""

from collections.abc import Callable, Collection

import jax
import numpy as np

from genjax.errors import UsageError
from genjax.experiment import Experiment
from genjax.run import load
from genjax.step import TrainState
from genjax.types import Tree, Variables


def start_from(path: str, like: TrainState, say: Callable[[str], None], allow: Collection[str] = ()) -> Variables:
  """The averaged parameters and the buffers of the run at `path`, for a model of shapes `like`. Prints what was taken.

  Raises:
    UsageError: its arrays are not those of the model; they are listed.
  """
  run = load(path, allow_package=allow)
  wanted = {'params': {name: like.params[name] for name in like.ema}, 'buffers': like.buffers}
  found = {'params': {name: run.variables.params.get(name, {}) for name in like.ema}, 'buffers': run.variables.buffers}
  shapes = [shapes_of(tree) for tree in (wanted, found)]
  problems = [describe(name, *(part.get(name) for part in shapes)) for name in sorted(shapes[0] | shapes[1])]
  if problems := [text for text in problems if text]:
    lines = ''.join(f'\n  {text}' for text in problems)
    raise UsageError(f'train.init_from={path}: its arrays are not those of this model:{lines}')
  for name, tree in found['params'].items():
    leaves = jax.tree.leaves(tree)
    size = sum(np.size(x) for x in leaves)
    say(f'{name}: {len(leaves)} arrays of {size:,} numbers from {path}, step {run.step}: {", ".join(tree)}.')
  return Variables(found['params'], found['buffers'])


def with_variables(state: TrainState, start: Variables, experiment: Experiment) -> TrainState:
  """A new state with these parameters and buffers, and fresh optimizers and averages of them."""
  params = {**state.params, **start.params}
  return state.replace(
    params=params,
    buffers=start.buffers,
    opt_states={name: experiment.optimizers[name].init(params[name]) for name in state.opt_states},
    ema={name: experiment.average.init(params[name]) for name in state.ema},
  )


def shapes_of(tree: Tree) -> dict[str, tuple[int, ...]]:
  """Path -> shape of each array."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator='/'): tuple(leaf.shape) for path, leaf in leaves}


def describe(name: str, wanted: tuple[int, ...] | None, found: tuple[int, ...] | None) -> str:
  """How an array differs; '' if it does not."""
  if found is None:
    return f'{name} is missing'
  if wanted is None:
    return f'{name} is not in this model'
  return '' if wanted == found else f'{name} is {list(found)}, not {list(wanted)}'
