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
  """The averaged parameters and the buffers of the run at `path`, for a model of shapes `like`. Prints what was loaded.

  Raises:
    UsageError: its arrays differ from those of the model; the message lists the differences.
  """
  run = load(path, allow_package=allow)
  expected = {'params': {name: like.params[name] for name in like.ema}, 'buffers': like.buffers}
  loaded = {'params': {name: run.variables.params.get(name, {}) for name in like.ema}, 'buffers': run.variables.buffers}
  shapes = [shapes_of(tree) for tree in (expected, loaded)]
  problems = [describe_difference(name, *(part.get(name) for part in shapes)) for name in sorted(shapes[0] | shapes[1])]
  if problems := [text for text in problems if text]:
    lines = ''.join(f'\n  {text}' for text in problems)
    raise UsageError(f'train.init_from={path}: its arrays do not match this model:{lines}')
  for name, tree in loaded['params'].items():
    leaves = jax.tree.leaves(tree)
    size = sum(np.size(x) for x in leaves)
    say(f'{name}: {len(leaves)} arrays of {size:,} numbers from {path}, step {run.step}: {", ".join(tree)}.')
  return Variables(loaded['params'], loaded['buffers'])


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


def describe_difference(name: str, expected: tuple[int, ...] | None, actual: tuple[int, ...] | None) -> str:
  """Describes how an array differs; '' if it does not."""
  if actual is None:
    return f'{name} is missing'
  if expected is None:
    return f'{name} is not in this model'
  return '' if expected == actual else f'{name} is {list(actual)}, not {list(expected)}'
