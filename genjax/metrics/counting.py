"""Network evaluations per image (NFE)."""

from typing import Any

import jax
import numpy as np

from genjax import rng
from genjax.data.sources.base import Source
from genjax.metrics.evaluation import conditions
from genjax.types import CountsEvaluations, HasTrajectory, Objective, Variables

IMAGES = 16  # over which the number is averaged where each image has its own, as with adaptive solvers


def evaluations(
  objective: Objective, variables: Variables, options: dict[str, Any] | None = None, source: Source | None = None
) -> float:
  """Network evaluations per image of one sampling, with both networks of guidance counted.

  Models with a trajectory are counted by their solver, others say it themselves; the rest make an image in one evaluation.

  Args:
    options: those of `objective.sample`.
    source: examples for conditions that cannot be drawn.
  """
  if isinstance(objective, HasTrajectory):
    keys, cond = rng.image_keys(rng.key(0), np.arange(IMAGES)), conditions(objective, source, np.arange(IMAGES))
    # Where the number follows from the options alone, nothing else is left of the program.
    count = jax.jit(lambda variables: objective.solve(variables, keys, cond, **(options or {})).evaluations)
    mean = round(float(count(variables).mean()), 1)
    return int(mean) if mean.is_integer() else mean
  return objective.evaluations(variables) if isinstance(objective, CountsEvaluations) else 1
