"""A trained model: `load(run).sample(key, n)`, for example in a notebook."""

import dataclasses
import functools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from tqdm import tqdm

from genjax import latents, rng
from genjax.build import build, check, parameters
from genjax.checkpoint import Checkpoints, DamagedCheckpoint, first_line
from genjax.conditioners import can_draw, class_label, complete, num_classes, only
from genjax.data.sources.base import Source, numbered
from genjax.degradations.measurement import Degradation, check_measurement
from genjax.degradations.operators import State
from genjax.errors import UsageError, unknown
from genjax.files import check_path
from genjax.logging import on_terminal
from genjax.memory import check_images
from genjax.objectives.common import check_scale
from genjax.objectives.diffusion.denoising import Autoguided, Denoising
from genjax.objectives.gan.gan import AdversarialGame
from genjax.optim import AVERAGE, EMA, Average, PostHoc, gamma_of_std
from genjax.parallel import make_mesh, replicated
from genjax.posthoc import reconstruct
from genjax.samplers.solvers import Solution
from genjax.step import TrainState, init_state
from genjax.types import (
  Batch,
  Cond,
  Example,
  HasLatents,
  HasPreviews,
  HasSampler,
  HasTrajectory,
  Objective,
  Variables,
  example_batch,
)
from genjax.weights import is_export, load_variables, read_copies
from genjax.workdir import read_config, run_id_of


def abstract_state(objective: Objective, example: Example, optimizers=None, average: Average = AVERAGE) -> TrainState:
  """A TrainState of shapes, without computing anything. Without optimizers its `opt_states` are meaningless."""
  optimizers = optimizers or {name: optax.identity() for name in objective.players}
  return jax.eval_shape(lambda: init_state(objective, optimizers, rng.key(0), example_batch(example), average))


def described_state(
  path: Path,
  objective: Objective,
  example: Example,
  optimizers=None,
  average: Average = AVERAGE,
) -> TrainState:
  """`abstract_state` of a run's config. Raises UsageError if its networks cannot be initialized."""
  try:
    return abstract_state(objective, example, optimizers, average)
  except Exception as error:
    raise UsageError(f'{path}/config.json describes a model that cannot be built ({first_line(error)}).') from error


def grid_cond(objective: Objective, n: int, source: Source | None = None) -> dict[str, np.ndarray]:
  """Conditions of a grid that is `grid_columns` wide: classes 0, 1, ..., K - 1, 0, ..., one per column; other fields are drawn.

  Conditions that cannot be drawn are those of the first examples of `source`.
  """
  if source is not None and not can_draw(objective.conditioner):
    return only(objective.conditioner, source.read(np.arange(n) % len(source))[1])
  classes = num_classes(objective.conditioner)
  return {'label': np.arange(n, dtype=np.int32) % classes} if classes else {}


def grid_columns(objective: Objective) -> int:
  """As many columns as classes if there are 2 to 16 of them, else 8."""
  classes = num_classes(objective.conditioner)
  return classes if 2 <= classes <= 16 else 8


@dataclasses.dataclass(frozen=True)
class Run:
  """A trained model. `variables` contains the moving average of the parameters, unless loaded with `ema=False`."""

  path: Path
  config: dict[str, Any]
  objective: Objective
  variables: Variables
  step: int
  ema: bool | float = True  # whether `variables` contains averaged parameters; a number: the width of a post-hoc EMA
  guide: 'Run | None' = None  # see `guided_by`

  def sample(
    self,
    key: jax.Array,
    n: int,
    *,
    batch_size: int = 256,
    progress: bool = False,
    **options,
  ) -> Float[Array, 'n h w c']:
    """`n` images in [-1, 1]. Image i depends only on (key, i), not on `n` or `batch_size`.

    Args:
      key: `jax.random.key(seed)`.
      n: the number of images.
      batch_size: the number of images computed at once. Each batch size and set of options is compiled once; other values of
        float options, such as guidance or truncation, do not recompile.
      progress: show a progress bar, on a terminal and if there are several batches.
      **options: conditions of the model, such as `label='shoes'` (a name, a number, or a list with one per image; drawn if not
        set), and options of the objective, see `run.options`.

    Raises:
      UsageError: an invalid key, an unknown option, a label that the model does not have, or an `n` below 1.
    """
    check_integers(batch_size=batch_size)
    self.check_request(key, n=n)
    cond, options = self.split_request(key, n, options)
    self.check_traced(cond, options)
    size = min(n, batch_size)
    parts, shown = [], progress and n > size and on_terminal()
    with tqdm(total=n, desc='sampling', unit='image', leave=False, disable=not shown) as bar:
      for start in range(0, n, size):
        index = np.arange(start, start + size, dtype=np.int32)  # beyond n: padding, removed below
        part = {name: jnp.asarray(x[np.minimum(index, n - 1)]) for name, x in cond.items()}
        parts.append(_call(self.objective, options, self.variables, key, index, part))
        if shown:
          parts[-1].block_until_ready()
          bar.update(min(size, n - start))
    return jnp.concatenate(parts)[:n]

  def solve(self, key: jax.Array, n: int, **options) -> Solution:
    """Like `sample`, but in one batch and with the trajectory: each x_t that the network received, and the x_0 it predicted.

    Raises UsageError like `sample`, and for a model without a trajectory, such as a GAN.
    """
    if not isinstance(self.objective, HasTrajectory):
      raise UsageError(
        f'{type(self.objective).__name__} generates an image in one evaluation, without a trajectory: use sample(...).'
      )
    self.check_request(key, n=n)
    cond, options = self.split_request(key, n, options)
    return _call(self.objective, options, self.variables, key, np.arange(n, dtype=np.int32), cond, 'solve')

  def restore(
    self,
    key: jax.Array,
    degradation: Degradation,
    measurement: Float[Array, 'p h w c'],
    *,
    state: tuple[State, ...] | None = None,
    n: int = 1,
    method: str = 'mmps',
    batch_size: int = 64,
    **options,
  ) -> Float[Array, 'p n h w c']:
    """`n` images in [-1, 1] for each measurement, sampled from p(image | measurement).

    Image j of measurement i depends only on (key, i, j). For diffusion and flow models that were trained for samples alone.

    Args:
      key: `jax.random.key(seed)`.
      degradation: how the measurements were made, `measurement = A(image) + noise` (genjax/degradations/measurement.py).
      measurement: in units of images in [-1, 1], finite also where a mask hides pixels.
      state: the masks, kernels or marks of the operators, one dict per operator; needed if an operator has a state.
      n: the number of images for each measurement.
      method: mmps, tmpd, pigdm, jacobian_free or ddnm (genjax/samplers/posterior.py).
      batch_size: the number of images computed at once.
      **options: conditions, with one value for all or one per measurement, and options of `sample`, such as `steps`.

    Raises:
      UsageError: a model without a denoiser, a measurement of another shape than the degradation makes, a condition that is not
        set, an unknown method or option.
    """
    if not isinstance(self.objective, Denoising):
      raise UsageError(f'{type(self.objective).__name__} has no denoiser: restore needs a diffusion or flow model.')
    measurement = jnp.asarray(measurement, jnp.float32)
    p = len(measurement) if measurement.ndim else 0
    self.check_request(key, n=n * max(p, 1), batch_size=batch_size)
    for field in self.objective.conditioner.fields:
      if options.get(field) is None:
        raise UsageError(f'{field}: this model is conditioned on it; pass the value of each photo.')
    cond, options = self.split_request(key, p, options)
    state = tuple({} for _ in degradation.operators) if state is None else tuple(state)
    check_measurement(degradation, state, measurement, tuple(self.config['data']['image_shape']))
    images = []
    for start in range(0, p * n, batch_size):
      place = np.arange(start, min(start + batch_size, p * n))
      photo, sample = place // n, place % n
      keys = jax.vmap(jax.random.fold_in)(rng.image_keys(key, photo), sample)
      rows = jax.tree.map(lambda x, photo=photo: x[photo], (cond, state, measurement))
      images.append(_restored(self.objective, options.static, degradation, method, self.variables, keys, *rows, options.traced))
    return jnp.concatenate(images).reshape(p, n, *images[0].shape[1:])

  def walk(
    self, key: jax.Array, stops: int = 8, frames: int = 64, *, truncation: float = 1.0, **cond
  ) -> Float[Array, 'f h w c']:
    """Interpolates in `frames` images through the latents of the first `stops` images of `sample(key, ...)` and back.

    For GANs, VAEs and adversarial autoencoders. `cond` is as in `sample`, one value for all images; without it, all have the
    conditions of the first. Raises UsageError for another model, fewer than two stops or less than one frame.
    """
    check_integers(2, stops=stops)
    self.check_request(key, frames=frames, stops=stops)
    return self.through_latents(latents.walk, key, stops, cond, frames, truncation)

  def mix(self, key: jax.Array, n: int = 6, layer: int = 2, *, truncation: float = 1.0, **cond) -> Float[Array, 'm h w c']:
    """n^2 images, n per row: image n i + j has the coarse styles of i, below `layer`, and the fine styles of j.

    Raises UsageError for a model whose generator has no styles, or a layer that it does not have.
    """
    check_integers(n=n, layer=layer)
    self.check_request(key, **{'n^2': n * n})
    if not isinstance(self.objective, AdversarialGame):
      raise UsageError(f'{type(self.objective).__name__} has no generator: style mixing needs a GAN.')
    return self.through_latents(latents.mix, key, n, cond, layer, truncation)

  def previews(self, key: jax.Array, images: Float[Array, 'n h w c'], **cond) -> dict[str, Float[Array, 'r k h w c']]:
    """Previews of an autoencoder, for images in [-1, 1] and their conditions: name -> rows and columns of images.

    Depending on the model: reconstructions below the images, interpolations between latents, codes in use. Raises UsageError
    for another model, fewer than two images, or images of another shape or type than those it was trained on.
    """
    if not isinstance(self.objective, HasPreviews):
      raise UsageError(f'{type(self.objective).__name__} has no encoder: previews need an autoencoder.')
    self.check_request(key)
    images, shape = jnp.asarray(images), tuple(self.config['data']['image_shape'])
    if images.ndim != 4 or images.shape[1:] != shape or not jnp.issubdtype(images.dtype, jnp.floating) or len(images) < 2:
      raise UsageError(f'images: pass two or more {shape} in [-1, 1] as floats, not {images.dtype} {images.shape}.')
    for field in self.objective.conditioner.fields:
      if cond.get(field) is None:
        raise UsageError(f'{field}: this model is conditioned on it; pass the values of the images.')
    index = jnp.arange(len(images), dtype=jnp.int32)
    batch = Batch(images.astype(jnp.float32), self.cond(cond, len(images), key), index, index)
    return jax.jit(self.objective.previews)(self.variables, batch, rng.image_keys(key, index))

  def through_latents(
    self, function, key: jax.Array, n: int, cond: Mapping[str, Any], number: int, truncation: float
  ) -> Float[Array, 'm h w c']:
    """`latents.walk` or `latents.mix` of n images; `number` is its number of frames or its layer."""
    if not isinstance(self.objective, HasLatents):
      raise UsageError(f'{type(self.objective).__name__} has no latents to interpolate: use a GAN, a VAE or an AAE.')
    check_scale('truncation', truncation)
    encoded = self.cond(cond, n, key)
    for name in cond:
      if name in encoded and (encoded[name] != encoded[name][:1]).any():
        raise UsageError(f'{name} must be one value for all images.')
    first = {name: jnp.asarray(x[:1]) for name, x in encoded.items()}
    args = self.objective, self.variables, latents.keys_of(key, n), first, number
    if truncation == 1:
      return _interpolated(function, *args, truncation=None)
    jax.eval_shape(lambda: function(*args, float(truncation)))  # raises UsageError; traced values are not checked
    return _interpolated(function, *args, truncation=float(truncation))

  def check_request(self, key: Any, **count: int) -> None:
    """Raises UsageError unless `key` is a single key and each `count` of images is a positive integer that fits into memory.

    The keyword is the name of the count in the message.
    """
    check_key(key)
    check_integers(**count)
    for name, n in count.items():
      check_images(n, self.config['data']['image_shape'], name)

  def checked(self, options: dict[str, Any]) -> dict[str, Any]:
    """Checks `options` of `sample` and converts their types. Raises UsageError for an unknown option or an invalid value."""
    for option in options.keys() - self.options.keys():
      raise UsageError(unknown('option', option, [*self.objective.conditioner.fields, *self.options]))
    arrays = (np.generic, np.ndarray, jax.Array)
    options = {k: v.item() if isinstance(v, arrays) and not v.ndim else v for k, v in options.items()}
    for name, value in options.items():
      if isinstance(value, arrays) and isinstance(self.options[name], (int, float, str, tuple)):
        raise UsageError(f'{name} is an array of shape {value.shape}: set one value, such as {self.options[name]!r}.')
    sampler = self.objective.sampler if isinstance(self.objective, HasSampler) else None
    function = functools.partial(self.objective.sample, None, None, {}) if sampler is None else type(sampler)
    check(function, 'sample', {k: v for k, v in options.items() if not isinstance(v, arrays)})
    options = {k: float(v) if isinstance(self.options[k], float) else v for k, v in options.items()}  # 2 for 2.0
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}  # JSON has no tuples
    if sampler is not None:
      dataclasses.replace(sampler, **options).check_timesteps(self.objective.timesteps)  # whether they are compatible
    return options

  def check_traced(self, cond: Mapping[str, np.ndarray], options: 'Options') -> None:
    """Raises UsageError for a traced option that `objective.sample` refuses, which checks only values that are not traced."""
    if options.traced and not isinstance(self.objective, HasSampler):
      sample = functools.partial(self.objective.sample, **dict(options.static), **options.traced)
      keys = rng.image_keys(rng.key(0), np.arange(1))
      jax.eval_shape(sample, self.variables, keys, {name: x[:1] for name, x in cond.items()})

  def guided_by(self, weaker: 'Run') -> 'Run':
    """This diffusion model, guided by a smaller or less trained one instead of the unconditional one (2406.02507).

    `guidance` then extrapolates away from that model. Raises UsageError unless both are diffusion models with the same image
    shape and conditions.
    """
    if not isinstance(weaker, Run):
      raise UsageError(f'guided_by: pass a run, as genjax.load(path) returns it, not {weaker!r}.')
    main, weak = self.objective, weaker.objective
    for run in (self, weaker):
      if not isinstance(run.objective, Denoising):
        raise UsageError(
          f'{weaker.path} cannot guide {self.path}: {run.path} is of {type(run.objective).__name__}, not a diffusion model.'
        )
    for name in ('image_shape', 'conditioner'):
      if getattr(main, name) != getattr(weak, name):
        a, b = getattr(weak, name), getattr(main, name)
        raise UsageError(f'{weaker.path} cannot guide {self.path}: its {name} is {a}, not {b}.')
    params, buffers = ({'main': ours, 'weak': theirs} for ours, theirs in zip(self.variables, weaker.variables, strict=True))
    model = Autoguided(main, weak)
    return dataclasses.replace(self, objective=model, variables=Variables(params, buffers), guide=weaker)

  def export(self, folder: str | Path, stablehlo: bool = False, half: bool = False, **options) -> Path:
    """Writes the model as safetensors and JSON, to copy or to publish: see `genjax.export.export`."""
    from genjax.export import export  # which imports this module

    return export(self, folder, stablehlo, half, **options)

  @property
  def options(self) -> dict[str, Any]:
    """The options that `sample` takes, with their defaults."""
    return sampling_options(self.objective)

  @property
  def example(self) -> Example:
    """Shapes and types of the examples that the model was trained on, and the names of their classes."""
    example, classes = recorded_example(self.config['data'], self.objective), num_classes(self.objective.conditioner)
    return example if len(example.classes) == classes else example._replace(classes=numbered(classes))

  @property
  def classes(self) -> tuple[str, ...]:
    """The names of the classes; empty for a model without class labels."""
    return self.example.classes if class_label(self.objective.conditioner) else ()

  def cond(self, values: Mapping[str, Any], n: int, key: jax.Array) -> dict[str, np.ndarray]:
    """Encodes the conditions [n, ...] that the user set; other fields are drawn from the images' keys.

    Raises:
      UsageError: an unknown field, or an invalid value.
    """
    conditioner = self.objective.conditioner
    for name in values:
      if name not in conditioner.fields:
        raise UsageError(f'{name}: this model was trained without {"labels" if name == "label" else name}.')
    values = {name: value for name, value in values.items() if value is not None}
    keys = rng.image_keys(key, np.arange(n, dtype=np.int32))
    complete_cond = complete(conditioner, conditioner.encode(values, n, self.example), keys)
    return {name: np.asarray(x) for name, x in complete_cond.items()}

  def split_request(self, key: jax.Array, n: int, options: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], 'Options']:
    """Separates the conditions and options of a call. Raises UsageError for an unknown option or an invalid value."""
    fields = {'label', *self.objective.conditioner.fields}
    values = {name: value for name, value in options.items() if name in fields and value is not None}
    options = self.checked({name: value for name, value in options.items() if name not in fields})
    return self.cond(values, n, key), split_options(options, self.options)


def check_integers(minimum: int = 1, **values: Any) -> None:
  """Raises UsageError for a value that is not an integer, or is below `minimum`."""
  for name, value in values.items():
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < minimum:
      raise UsageError(f'{name}={value!r} must be an integer of at least {minimum}.')


def check_key(key: Any) -> None:
  """Raises UsageError unless `key` is a single key of the generator that genjax uses."""
  rng.check_key(key)
  if np.shape(key):
    raise UsageError(f'key is an array of {np.shape(key)} keys: pass a single key, such as key[0].')


class Options(NamedTuple):
  """Options of `sample`: those that decide what is compiled, and numbers that may vary without another compilation."""

  static: tuple[tuple[str, Any], ...]
  traced: dict[str, Any]


def split_options(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> Options:
  """Arrays are traced, and floats and intervals that differ from their defaults.

  A default may turn a feature off, such as guidance, and is therefore static.
  """

  def is_traced(name):
    value = options[name]
    if isinstance(value, (np.ndarray, jax.Array)):
      return True
    floats = value if isinstance(value, tuple) else (value,)
    return bool(floats) and all(isinstance(x, float) for x in floats) and value != defaults[name]

  static = tuple(sorted((name, value) for name, value in options.items() if not is_traced(name)))
  return Options(static, {name: value for name, value in options.items() if is_traced(name)})


def _call(objective, options: Options, variables, key, index, cond: Cond, method: str = 'sample'):
  return _compiled(objective, options.static, method, variables, key, index, cond, options.traced)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _compiled(objective, static, method, variables, key, index, cond, traced):
  return getattr(objective, method)(variables, rng.image_keys(key, index), cond, **dict(static), **traced)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _restored(objective, static, degradation, method, variables, keys, cond, state, measurement, traced):
  options = {**dict(static), **traced}
  return objective.restore(variables, keys, cond, degradation, state, measurement, method=method, **options)


@functools.partial(jax.jit, static_argnums=(0, 1, 5))
def _interpolated(function, objective, variables, keys, cond, number, truncation):
  return function(objective, variables, keys, cond, number, 1.0 if truncation is None else truncation)


def recorded_example(data: Mapping[str, Any], objective: Objective) -> Example:
  """The `Example` that the section `data` of a run's config records. Runs of earlier versions do not record class names."""
  names = tuple(map(str, data.get('classes') or ()))
  shapes = recorded_shapes(data.get('cond'), num_classes(objective.conditioner))
  image = jax.ShapeDtypeStruct(tuple(data['image_shape']), np.float32)
  return Example(image, shapes, names, int(data.get('size') or 0))


def recorded_shapes(cond: Any, classes: int) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes and types of conditions, recorded as name -> [type, shape]; only a class label if nothing is recorded."""
  if cond is None:
    return {'label': jax.ShapeDtypeStruct((), np.int32)} if classes else {}
  return {name: jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype)) for name, (dtype, shape) in cond.items()}


def sampling_options(objective: Objective) -> dict[str, Any]:
  """The options that an objective's `sample` takes, with their defaults."""
  if isinstance(objective, HasSampler):
    options = {field.name: getattr(objective.sampler, field.name) for field in dataclasses.fields(objective.sampler)}
    return options | {'timesteps': options['timesteps'] or objective.timesteps}
  return {p.name: p.default for p in parameters(objective.sample).values() if p.kind is p.KEYWORD_ONLY}


def average_of(train: Mapping[str, Any], allow: Collection[str] = ()) -> Average:
  """The average of the parameters that the section `train` of a config specifies."""
  average = build(train['average'], allow) if train.get('average') else EMA(train.get('ema_halflife', EMA.halflife))
  return PostHoc(average) if train.get('posthoc_every') else average


def load(
  path: str | Path, step: int | None = None, ema: bool | float = True, allow_package: Collection[str] = (), best: bool = False
) -> Run:
  """Opens a run directory or an export (genjax/export.py) for sampling, on the first device.

  Args:
    path: the run directory, or an export.
    step: the step of the checkpoint; the newest if None.
    ema: load the moving average of the parameters instead of the parameters. A number such as 0.1 reconstructs an average of
      this relative standard deviation, if the run was trained with `train.posthoc_every` (genjax/posthoc.py).
    allow_package: packages other than genjax whose classes the config may name; it can then run any code in them.
    best: load the checkpoint with the lowest FID in training (`train.evaluate_every`) instead of the newest.

  Raises:
    UsageError: not a run directory, no checkpoint yet, a damaged checkpoint, or a config with names of other packages.
  """
  if step is not None:
    check_integers(0, step=step)
  if not isinstance(path, str | Path):
    raise UsageError(f'path={path!r} must be the path of a run directory.')
  check_path('path', path)
  path = Path(path)
  allow_package = [allow_package] if isinstance(allow_package, str) else allow_package
  config = read_config(path)
  objective, image_shape = build(config['objective'], allow_package), config['data'].get('image_shape')
  if not isinstance(objective, Objective) or not isinstance(image_shape, list) or len(image_shape) != 3:
    raise UsageError(f"{path}/config.json: 'objective' is not an objective, or data.image_shape is missing.")
  folder = path / ('best' if best else 'checkpoints')
  if not is_export(path) and not folder.is_dir():
    remedy = 'train it with train.evaluate_every' if best else 'train it first'
    raise UsageError(f'{path} has no {"best " if best else ""}checkpoint yet: {remedy}.')
  try:
    example = recorded_example(config['data'], objective)
  except Exception as error:
    raise UsageError(f"{path}/config.json: the section 'data' is invalid ({first_line(error)}).") from error
  average = average_of(config['train'], allow_package)
  like = described_state(path, objective, example, average=average)
  if not isinstance(ema, bool):
    gamma_of_std(ema)  # whether it is a width
    if not isinstance(average, PostHoc):
      raise UsageError(f'{path} was trained without train.posthoc_every, so that it has no other averages: use its own.')
  if is_export(path):
    return open_export(path, config, objective, like, average, step, ema, best)
  for _ in range(20):
    try:
      state = _restore(folder, step, like, run_id_of(config))
      break
    except (DamagedCheckpoint, OSError) as error:
      deleted = isinstance(error, OSError) or not error.path.exists()  # by a training in progress
      if not deleted:
        raise
  else:
    raise UsageError(f'{path}: its checkpoints are deleted faster than they are read: raise train.keep.')
  params, buffers = state.variables(average if ema else None)
  if not isinstance(ema, bool):
    params = params | reconstruct(path, int(state.step), state.ema, average.stds, ema)
  params = params | read_copies(path, config)
  return Run(path, config, objective, Variables(params, buffers), int(state.step), ema)


def open_export(
  path: Path,
  config: dict[str, Any],
  objective: Objective,
  like: TrainState,
  average: Average,
  step: int | None,
  ema: bool,
  best: bool,
) -> Run:
  """The model of an export. Raises UsageError for a step or parameters that it does not contain."""
  record = config.get('export') or {}
  for wrong, what in (
    (step not in (None, record.get('step')), f'step {step}'),
    (ema not in (record.get('ema'), bool(record.get('ema', True))), f'parameters with ema={ema}'),
    (best, 'best checkpoint'),
  ):
    if wrong:
      raise UsageError(f'{path} is an export, which contains no {what}: open the run that it was exported from.')
  params, buffers = jax.eval_shape(lambda state: state.variables(average if ema else None), like)
  example = recorded_example(config['data'], objective)
  for name in config.get('frozen') or {}:
    params[name] = described_state(path, getattr(objective, name), example).variables(None)
  variables = load_variables(path, config, Variables(params, buffers))
  return Run(path, config, objective, variables, record['step'], record['ema'])


def _restore(folder: Path, step: int | None, like: TrainState, run_id: str) -> TrainState:
  """The state at `step` (None: the newest) without its optimizer, on the first device."""
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
