"""The files that one opens to follow a training step and a sample: those whose functions are called while each is traced.

python -m benchmarks.reading --config configs/digits_flow.py
"""

import argparse
import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

import genjax
from genjax import rng
from genjax.experiment import build_experiment
from genjax.step import init_state, train_step, turn_at
from genjax.types import example_batch

ROOT = Path(genjax.__file__).parent.parent


def files_of(function: Callable[[], object]) -> list[str]:
  """The files of this repository whose functions `function` calls, in the order of the first calls."""
  files = {}

  def note(frame, event, arg):
    path = Path(frame.f_code.co_filename)
    if event == 'call' and path.is_relative_to(ROOT / 'genjax'):
      files.setdefault(str(path.relative_to(ROOT)))

  sys.setprofile(note)
  try:
    function()
  finally:
    sys.setprofile(None)
  return list(files)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--config', default='configs/digits_flow.py')
  args = parser.parse_args()
  module = importlib.util.spec_from_file_location('config', args.config)
  config = importlib.util.module_from_spec(module)
  module.loader.exec_module(config)
  experiment = build_experiment(config.get_config().to_dict(), [], Path('runs/none'))
  objective, optimizers = experiment.objective, experiment.optimizers
  batch, key = example_batch(experiment.source.example, 8), jax.random.key(0)
  state = jax.eval_shape(functools.partial(init_state, objective, optimizers), key, batch)
  step = functools.partial(train_step, objective=objective, optimizers=optimizers, turn=turn_at(objective, 0))
  variables = experiment.variables(state)
  sample = lambda variables, key: objective.sample(variables, rng.image_keys(key, jnp.arange(8)), {})  # noqa: E731
  calls = {
    'a training step': lambda: jax.eval_shape(step, state, batch, key),
    'a sample': lambda: jax.eval_shape(sample, variables, key),
  }
  for name, call in calls.items():
    files = files_of(call)
    sizes = [len((ROOT / file).read_text().splitlines()) for file in files]
    print(f'{name}: {len(files)} files, {sum(sizes):,} lines')
    for file, size in zip(files, sizes, strict=True):
      print(f'  {size:5,} {file}')


if __name__ == '__main__':
  main()
