"""A trained model: `load(run).sample(key, n)` in a notebook, without a trainer or a config in hand."""

import dataclasses
import functools
import math
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from genjax import latents, rng
from genjax.build import build, check, parameters
from genjax.checkpoint import Checkpoints, DamagedCheckpoint, first_line
from genjax.errors import UsageError
from genjax.objectives.common import check_scale, labels_or_random
from genjax.objectives.diffusion.diffusion import Autoguided, Denoising
from genjax.objectives.gan.gan import GAN
from genjax.parallel import make_mesh, replicated
from genjax.samplers.solvers import Solution
from genjax.step import TrainState, init_state
from genjax.types import Batch, Objective, Variables, example_batch
from genjax.workdir import read_config, run_id_of


def abstract_state(objective: Objective, image_shape: tuple[int, int, int], optimizers=None) -> TrainState:
  """A TrainState of shapes, nothing computed. Without optimizers its `opt_states` mean nothing."""
  optimizers = optimizers or {name: optax.identity() for name in objective.players}
  init = functools.partial(init_state, objective, optimizers)
  return jax.eval_shape(lambda: init(rng.key(0), example_batch(image_shape)))


def described_state(path: Path, objective: Objective, image_shape: tuple[int, int, int], optimizers=None) -> TrainState:
  """`abstract_state` of a run's config. Raises UsageError for one that classes take and networks cannot work with."""
  try:
    return abstract_state(objective, image_shape, optimizers)
  except Exception as error:
    raise UsageError(f'{path}/config.json describes no model that can be made ({first_line(error)}).') from error


def grid_labels(objective: Objective, n: int) -> np.ndarray | None:
  """Labels 0, 1, ..., K - 1, 0, ...: one class per column of a grid that is `grid_columns` wide."""
  return np.arange(n, dtype=np.int32) % objective.num_classes if objective.num_classes else None


def grid_columns(objective: Objective) -> int:
  """As many columns as classes, if those make a reasonable grid; else 8."""
  return objective.num_classes if 2 <= objective.num_classes <= 16 else 8


@dataclasses.dataclass(frozen=True)
class Run:
  """A trained model. `variables` holds the moving average of the parameters, unless loaded with `ema=False`."""

  path: Path
  config: dict[str, Any]
  objective: Objective
  variables: Variables
  step: int

  def sample(
    self,
    key: jax.Array,
    n: int,
    label: int | list[int] | None = None,
    batch_size: int = 256,
    **options,
  ) -> Float[Array, 'n h w c']:
    """`n` images in [-1, 1]. Image i depends on (key, i) alone: not on `n` nor on `batch_size`.

    Args:
      key: `jax.random.key(seed)`.
      n: how many.
      label: one class for all, or one for each; None draws them uniformly if the model has classes.
      batch_size: images computed at a time; one compilation per size and options.
      **options: the objective's own, see `run.options`.

    Raises:
      UsageError: no key, an unknown option, a label out of range, an `n` below 1.
    """
    check_integers(batch_size=batch_size)
    self.check_request(key, n=n)
    options = self.checked(options)
    labels = self.labels(label, n, key)
    size = min(n, batch_size)
    parts = []
    for start in range(0, n, size):
      index = np.arange(start, start + size, dtype=np.int32)  # past n: padding, cut below
      part = None if labels is None else jnp.asarray(labels[np.minimum(index, n - 1)])
      parts.append(_sample(self.objective, tuple(sorted(options.items())), self.variables, key, index, part))
    return jnp.concatenate(parts)[:n]

  def solve(self, key: jax.Array, n: int, label: int | list[int] | None = None, **options) -> Solution:
    """As `sample`, in one batch, with the way there: each x_t that the network saw, the x_0 it predicted, how many those were.

    Raises UsageError as `sample`, and for a model that has no way, such as a GAN.
    """
    if not hasattr(self.objective, 'solve'):
      raise UsageError(f'{type(self.objective).__name__} has no way to its images but one evaluation: take sample(...).')
    self.check_request(key, n=n)
    options, labels = self.checked(options), self.labels(label, n, key)
    index = np.arange(n, dtype=np.int32)
    return _sample(self.objective, tuple(sorted(options.items())), self.variables, key, index, labels, 'solve')

  def walk(
    self, key: jax.Array, stops: int = 8, frames: int = 64, label: int | None = None, truncation: float = 1.0
  ) -> Float[Array, 'f h w c']:
    """`frames` images on a way through the latents of the first `stops` images of `sample(key, ...)`, and back to the first.

    Of GANs, VAEs and adversarial autoencoders; without `label`, all have the class of the first. Raises UsageError for
    another model, fewer than two stops or than one frame.
    """
    check_integers(2, stops=stops)
    self.check_request(key, frames=frames, stops=stops)
    return self.through_latents(latents.walk, key, stops, label, frames, truncation)

  def mix(
    self, key: jax.Array, n: int = 6, layer: int = 2, label: int | None = None, truncation: float = 1.0
  ) -> Float[Array, 'm h w c']:
    """n^2 images, n in a row: image n i + j has the coarse styles, below `layer`, of i, and the fine ones of j.

    Raises UsageError for a model whose generator has no styles, or a layer that it does not have.
    """
    check_integers(n=n, layer=layer)
    self.check_request(key, **{'n^2': n * n})
    if not isinstance(self.objective, GAN):
      raise UsageError(f'{type(self.objective).__name__} has no generator: mixes are of GANs.')
    return self.through_latents(latents.mix, key, n, label, layer, truncation)

  def pictures(
    self, key: jax.Array, images: Float[Array, 'n h w c'], label: int | list[int] | None = None
  ) -> dict[str, Float[Array, 'r k h w c']]:
    """What an autoencoder shows of images in [-1, 1] and their classes: name -> rows and columns of images.

    Reconstructions below the images, ways from latent to latent, codes in use: what the model has. Raises UsageError for
    another model, or images that are not like those it was trained on.
    """
    if not hasattr(self.objective, 'pictures'):
      raise UsageError(f'{type(self.objective).__name__} encodes no images: pictures are of autoencoders.')
    self.check_request(key)
    images, shape = jnp.asarray(images), tuple(self.config['data']['image_shape'])
    if images.ndim != 4 or images.shape[1:] != shape or not jnp.issubdtype(images.dtype, jnp.floating) or len(images) < 2:
      raise UsageError(f'images: give two or more {shape} in [-1, 1] as floats, not {images.dtype} {images.shape}.')
    if label is None and self.objective.num_classes:
      raise UsageError('label: this model knows classes, give those of the images.')
    index = jnp.arange(len(images), dtype=jnp.int32)
    labels = self.labels(label, len(images), key) if self.objective.num_classes else np.zeros(len(images), np.int32)
    batch = Batch(images.astype(jnp.float32), jnp.asarray(labels), index)
    return jax.jit(self.objective.pictures)(self.variables, batch, rng.image_keys(key, index))

  def through_latents(
    self, function, key: jax.Array, n: int, label: int | None, given: int, truncation: float
  ) -> Float[Array, 'm h w c']:
    """`latents.walk` or `latents.mix` of n images, `given` its frames or its layer."""
    if getattr(self.objective, 'from_latents', None) is None:
      raise UsageError(f'{type(self.objective).__name__} has no latent to walk through: GANs, VAEs and AAEs have.')
    if label is not None and np.ndim(label):
      raise UsageError('label: give one class for the whole of it.')
    check_scale('truncation', truncation)
    labels = self.labels(label, n, key)
    chosen = None if labels is None else jnp.asarray(labels[0])
    compiled = jax.jit(function, static_argnums=(0, 4, 5))
    return compiled(self.objective, self.variables, latents.keys_of(key, n), chosen, given, float(truncation))

  def check_request(self, key: Any, **count: int) -> None:
    """Raises UsageError unless `key` is a single key and each `count` of images is a positive integer that fits into memory.

    The keyword is the name of the count in the message.
    """
    check_key(key)
    check_integers(**count)
    for name, n in count.items():
      check_memory(n, self.config['data']['image_shape'], name)

  def checked(self, options: dict[str, Any]) -> dict[str, Any]:
    """`options` of `sample` as it takes them. Raises UsageError for an unknown one or a value of another type."""
    for option in options.keys() - self.options.keys():
      raise UsageError(f'this model has no option {option!r}; it has {", ".join(self.options) or "none"}.')
    options = {k: v.item() if isinstance(v, (np.generic, np.ndarray)) and v.ndim == 0 else v for k, v in options.items()}
    sampler = getattr(self.objective, 'sampler', None)
    check(functools.partial(self.objective.sample, None, None, None) if sampler is None else type(sampler), 'sample', options)
    options = {k: float(v) if isinstance(self.options[k], float) else v for k, v in options.items()}  # 2 is 2.0
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}  # as from JSON
    if sampler is not None:
      dataclasses.replace(sampler, **options)  # whether they go together
    return options

  def guided_by(self, weaker: 'Run') -> 'Run':
    """This diffusion model with another, smaller or less trained, in the place of the unconditional one (2406.02507).

    `guidance` then leads away from it. Raises UsageError if one of them is no diffusion model, or they do not fit.
    """
    if not isinstance(weaker, Run):
      raise UsageError(f'guided_by: give a run, as genjax.load(path) returns it, not {weaker!r}.')
    main, weak = self.objective, weaker.objective
    for run in (self, weaker):
      if not isinstance(run.objective, Denoising):
        raise UsageError(
          f'{weaker.path} cannot guide {self.path}: {run.path} is of {type(run.objective).__name__}, not a diffusion model.'
        )
    for name in ('image_shape', 'num_classes'):
      if getattr(main, name) != getattr(weak, name):
        a, b = getattr(weak, name), getattr(main, name)
        raise UsageError(f'{weaker.path} cannot guide {self.path}: its {name} is {a}, not {b}.')
    params, buffers = ({'main': ours, 'weak': theirs} for ours, theirs in zip(self.variables, weaker.variables, strict=True))
    return dataclasses.replace(self, objective=Autoguided(main, weak), variables=Variables(params, buffers))

  @property
  def options(self) -> dict[str, Any]:
    """The options that `sample` takes, with their defaults."""
    return sampling_options(self.objective)

  def labels(self, label: int | list[int] | None, n: int, key: jax.Array) -> np.ndarray | None:
    """Labels int32 [n] for what the user said, checked; drawn from the images' keys if that was None."""
    classes = self.objective.num_classes
    if label is None:
      keys = rng.image_keys(key, np.arange(n, dtype=np.int32))
      return np.asarray(labels_or_random(None, keys, classes)) if classes else None
    if not classes:
      raise UsageError('label: this model was trained without labels.')
    labels = np.atleast_1d(np.asarray(label))  # int64: checked before it is narrowed
    if labels.dtype.kind not in 'iu' or labels.ndim != 1 or labels.size not in (1, n):
      raise UsageError(f'label: give one whole number, or one for each of the {n} images.')
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.size:
      raise UsageError(f'label={wrong[0]}: this model has the classes 0 to {classes - 1}.')
    return np.broadcast_to(labels.astype(np.int32), (n,))


def check_integers(minimum: int = 1, **values: Any) -> None:
  """Raises UsageError for a value that is not an integer, or is below `minimum`."""
  for name, value in values.items():
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < minimum:
      raise UsageError(f'{name}={value!r} must be an integer of at least {minimum}.')


def check_memory(n: int, image_shape: Sequence[int], name: str) -> None:
  """Raises UsageError if `n` float32 images and a copy of them exceed the memory of the device or the machine."""
  needed = 2 * 4 * n * math.prod(image_shape)
  limit = (jax.local_devices()[0].memory_stats() or {}).get('bytes_limit', math.inf)
  available = min(limit, os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'))
  if needed > available or n >= 2**31:  # indices of images have 32 bits
    raise UsageError(
      f'{name}={n}: the images take {needed // 10**9:,} GB of {available // 10**9:,} GB available. Request fewer at a time.'
    )


def check_key(key: Any) -> None:
  """Raises UsageError unless `key` is a single key of the generator that genjax uses."""
  rng.check_key(key)
  if np.shape(key):
    raise UsageError(f'key is an array of {np.shape(key)} keys: pass a single key, such as key[0].')


@functools.partial(jax.jit, static_argnums=(0, 1, 6))
def _sample(objective, options, variables, key, index, labels, how='sample'):
  return getattr(objective, how)(variables, rng.image_keys(key, index), labels, **dict(options))


def sampling_options(objective: Objective) -> dict[str, Any]:
  """The options that an objective's `sample` takes, with their defaults."""
  if hasattr(objective, 'sampler'):
    options = dataclasses.asdict(objective.sampler)
    return options | {'grid': options['grid'] or objective.path.grid}
  return {p.name: p.default for p in parameters(objective.sample).values() if p.kind is p.KEYWORD_ONLY}


def load(
  path: str | Path, step: int | None = None, ema: bool = True, allow_package: Collection[str] = (), best: bool = False
) -> Run:
  """Opens a run directory for sampling, on the first device.

  Args:
    path: the run directory.
    step: which checkpoint; the newest if None.
    ema: the moving average of the parameters rather than the parameters.
    allow_package: packages beside genjax whose classes the run may name; it can then run any code in them.
    best: the checkpoint of the lowest FID in training (`train.evaluate_every`) instead of the newest.

  Raises:
    UsageError: not a run directory, no checkpoint yet, a damaged one, or names in it that are not genjax's.
  """
  if step is not None:
    check_integers(0, step=step)
  if not isinstance(path, str | Path):
    raise UsageError(f'path={path!r}: give the path of a run directory.')
  path = Path(path)
  config = read_config(path)
  objective, image_shape = build(config['objective'], allow_package), config['data'].get('image_shape')
  if not isinstance(objective, Objective) or not isinstance(image_shape, list) or len(image_shape) != 3:
    raise UsageError(f"{path}/config.json: 'objective' is not an objective, or data.image_shape is missing.")
  folder = path / ('best' if best else 'checkpoints')
  if not folder.is_dir():
    remedy = 'train it with train.evaluate_every' if best else 'train it first'
    raise UsageError(f'{path} has no {"best " if best else ""}checkpoint yet: {remedy}.')
  like = described_state(path, objective, tuple(image_shape))
  for _ in range(20):
    try:
      state = _restore(folder, step, like, run_id_of(config))
      break
    except (DamagedCheckpoint, OSError) as error:
      gone = isinstance(error, OSError) or not error.path.exists()
      if not gone:
        raise  # else a training in progress went on and deleted it meanwhile
  else:
    raise UsageError(f'{path}: its checkpoints are deleted faster than they are read: raise train.keep.')
  return Run(path, config, objective, state.variables(ema), int(state.step))


def _restore(folder: Path, step: int | None, like: TrainState, run_id: str) -> TrainState:
  """The state at `step` (None: the newest) without its optimiser, on the first device."""
  checkpoints = Checkpoints(folder, read_only=True, run_id=run_id)
  try:
    steps = checkpoints.steps()
    if not steps:
      raise UsageError(f'{folder.parent} has no checkpoint yet: train it first.')
    step = steps[-1] if step is None else step
    if step not in steps:
      raise UsageError(f'{folder.parent} has no checkpoint of step {step}; it has {", ".join(map(str, steps))}.')
    sharding = replicated(make_mesh(jax.local_devices()[:1]))
    restored = checkpoints.restore(step, like, sharding, ('step', 'params', 'buffers', 'ema'))
  finally:
    checkpoints.close()
  return TrainState(restored['step'], restored['params'], restored['buffers'], {}, restored['ema'])
