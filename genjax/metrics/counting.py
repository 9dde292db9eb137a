"""Network evaluations per image (NFE)."""

from typing import Any

import jax
import numpy as np

from genjax import rng
from genjax.data.sources.base import Source
from genjax.metrics.evaluation import conditions
from genjax.types import CountsEvaluations, HasTrajectory, Objective, Variables

IMAGES = 16  # number of images to average over, since adaptive solvers take different numbers of steps


def evaluations(
  objective: Objective, variables: Variables, options: dict[str, Any] | None = None, source: Source | None = None
) -> float:
  """Network evaluations per image during sampling, where guidance counts both networks.

  For models with a trajectory the solver counts them. Other models implement `CountsEvaluations`, or use one evaluation.

  Args:
    options: options of `objective.sample`.
    source: examples for conditions that cannot be drawn at random.
  """
  if isinstance(objective, HasTrajectory):
    keys, cond = rng.image_keys(rng.key(0), np.arange(IMAGES)), conditions(objective, source, np.arange(IMAGES))
    # If the number depends only on the options, the compiler removes the rest of the program.
    count = jax.jit(lambda variables: objective.solve(variables, keys, cond, **(options or {})).evaluations)
    mean = round(float(count(variables).mean()), 1)
    return int(mean) if mean.is_integer() else mean
  return objective.evaluations(variables) if isinstance(objective, CountsEvaluations) else 1
