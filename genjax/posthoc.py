"""Post-hoc EMA: averages of parameters of any width, reconstructed after training (2312.02696, section 3.2 and appendix C).

With `train.posthoc_every`, a run tracks two power-function averages (`optim.PostHoc`) and writes them at that interval to

  posthoc/step_00000123.safetensors   '<std>/<player>/...', the averaged parameters alone

All of these files are kept. An average of another width is the linear combination of them whose profile over the training steps
is nearest to the profile of that width. Buffers are not averaged; they are those of the checkpoint.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from genjax import parallel
from genjax.errors import UsageError
from genjax.files import write_whole
from genjax.optim import PowerAverages, gamma_of_std
from genjax.types import Tree
from genjax.weights import flatten

FOLDER = 'posthoc'
LARGEST_ERROR = 0.1  # of a reconstructed profile, relative


class Profile(NamedTuple):
  """The weights s^gamma, normalized, of the steps s in [0, t]."""

  step: int
  std: float  # relative to `step`


def averages_path(workdir: Path, step: int) -> Path:
  return workdir / FOLDER / f'step_{step:08d}.safetensors'


def save_averages(workdir: Path, step: int, ema: Mapping[str, PowerAverages], stds: Sequence[float], mesh: Mesh) -> None:
  """Writes the power-function averages of all players. All hosts must call it; the first one writes."""
  trees = {str(std): {name: average.power[i] for name, average in ema.items()} for i, std in enumerate(stds)}
  whole = jax.jit(lambda x: x, out_shardings=parallel.replicated(mesh))(trees)
  if jax.process_index() == 0:
    arrays = {name: np.asarray(x) for name, x in flatten(jax.device_get(whole)).items()}
    write_whole(averages_path(workdir, step), save(arrays, {'format': 'genjax', 'step': str(step)}))


def reconstruct(
  workdir: Path, step: int, ema: Mapping[str, PowerAverages], stds: Sequence[float], std: float
) -> dict[str, Tree]:
  """The averages of relative standard deviation `std` at `step`, by player.

  Args:
    workdir: the run directory.
    step: the step of a checkpoint.
    ema: its averages, which are used in addition to those of the files.
    stds: the standard deviations of the averages in `ema`.
    std: the standard deviation of the average to reconstruct.

  Raises:
    UsageError: a file is damaged, or the files are too few or too far apart for this width.
  """
  steps = [int(path.stem.removeprefix('step_')) for path in sorted((workdir / FOLDER).glob('step_*.safetensors'))]
  sources = [Profile(s, w) for s in (*(s for s in steps if s < step), step) for w in stds]
  weights, error = fit_weights(sources, Profile(step, std))
  if error > LARGEST_ERROR:
    raise UsageError(
      f'{workdir}: the {len(sources)} averages of {FOLDER}/ up to step {step} approximate the profile of --ema {std} with a '
      f'relative error of {error:.2f}, more than {LARGEST_ERROR}: use another width, or a smaller train.posthoc_every.'
    )
  structure = {name: average.power[0] for name, average in ema.items()}
  shapes = flatten(structure)
  averages = {name: np.zeros(leaf.shape) for name, leaf in shapes.items()}
  newest = {w: flatten({name: average.power[i] for name, average in ema.items()}) for i, w in enumerate(stds)}
  for source, weight in zip(sources, weights, strict=True):
    arrays = newest[source.std] if source.step == step else read_average(workdir, source, shapes)
    for name in averages:
      averages[name] += weight * np.asarray(arrays[name], np.float64)
  leaves = [averages[name].astype(leaf.dtype) for name, leaf in shapes.items()]
  return jax.tree.unflatten(jax.tree.structure(structure), leaves)


def read_average(workdir: Path, source: Profile, names: Collection[str]) -> dict[str, np.ndarray]:
  """The arrays of an average. Raises UsageError if its file is damaged or lacks one."""
  path = averages_path(workdir, source.step)
  try:
    with safe_open(path, 'np') as file:
      return {name: file.get_tensor(f'{source.std}/{name}') for name in names}
  except (OSError, SafetensorError) as error:
    raise UsageError(f'{path} cannot be read ({error}): restore or remove it.') from None


def fit_weights(sources: Sequence[Profile], target: Profile) -> tuple[Float[np.ndarray, 'n'], float]:
  """The weights of the combination of `sources` nearest to `target` in L2, and its relative error (appendix C.3)."""
  gram = np.array([[inner_product(a, b) for b in sources] for a in sources])
  right = np.array([inner_product(a, target) for a in sources])
  weights = np.linalg.lstsq(gram, right, rcond=1e-14)[0]
  norm = inner_product(target, target)
  squared = norm - 2 * weights @ right + weights @ gram @ weights
  return weights, math.sqrt(max(squared, 0) / norm)


def inner_product(a: Profile, b: Profile) -> float:
  """The integral of the product of two profiles, p(s) = (gamma + 1) s^gamma / t^(gamma + 1) on [0, t].

  It is computed in logarithms, because powers of steps overflow.
  """
  (g, h), least = (gamma_of_std(profile.std) for profile in (a, b)), min(a.step, b.step)
  exponent = (g + h + 1) * math.log(least) - (g + 1) * math.log(a.step) - (h + 1) * math.log(b.step)
  return (g + 1) * (h + 1) / (g + h + 1) * math.exp(exponent)
