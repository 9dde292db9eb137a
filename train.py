"""Train a model: python train.py --config configs/fashion_mnist_vae.py --workdir runs/x --config.train.steps=2000

The same command again resumes. On SIGINT (Ctrl-C) or SIGTERM the step is finished and saved. A second signal, or one before the
first step, exits at once.
Status: 0 done, 1 a mistake in what was asked for or a loss that is not finite, 130 or 143 stopped by SIGINT or SIGTERM.
"""

import os
import signal

if __name__ == '__main__':  # Ctrl-C while the modules below are imported
  signal.signal(signal.SIGINT, lambda *_: (os.write(2, b'SIGINT: ended.\n'), os._exit(130)))

import contextlib
import functools
import json
import math
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from genjax import parallel, replay, rng
from genjax.build import build, check, complete, with_defaults, without_leftovers
from genjax.checkpoint import Checkpoints, NotSaved
from genjax.commandline import config_path, parse
from genjax.data import contents
from genjax.data.pipeline import Pipeline
from genjax.data.sources.base import Source
from genjax.data.sources.open import open_data
from genjax.errors import UsageError, did_you_mean
from genjax.files import DISK_FULL, NotWritten
from genjax.images import save_grid, to_float, to_uint8
from genjax.logging import Metrics, Progress, Silent, read_metrics
from genjax.metrics import collapse
from genjax.metrics.reference import test_images
from genjax.metrics.training import judge_of, told
from genjax.objectives.gan.gan import GAN
from genjax.run import abstract_state, grid_columns, grid_labels
from genjax.signals import StopRequest
from genjax.step import TrainState, init_state, playing, train_step
from genjax.types import Batch, Objective, example_batch
from genjax.workdir import (
  SAVED,
  Training,
  keep_background,
  open_workdir,
  read_config,
  run_id_of,
  section_defaults,
  write_environment,
)

AHEAD = 2  # steps dispatched before the one before them is done
AGREE = 10  # steps after which several hosts ask one another whether to stop
SECTIONS = ('data', 'train', 'objective', 'optim')
DEFAULT = str(Path(__file__).parent / 'configs' / 'digits_flow.py')
CONFIG = config_flags.DEFINE_config_file('config', None, f'The config file; its values are --config.x.y=z. Default: {DEFAULT}.')
WORKDIR = flags.DEFINE_string('workdir', '', 'The run directory. Default: runs/<name of the config file>.')
DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Print the resolved config, parameters, FLOPs and bytes, and exit.')
STRICT = flags.DEFINE_bool('strict', False, 'Stop at a damaged checkpoint instead of going back to the one before.')
REPLAY = flags.DEFINE_string('replay', '', 'Take a step that was not finite again: runs/x/nan/step_00000123.')
ALLOW_PACKAGE = flags.DEFINE_multi_string('allow_package', [], 'A package beside genjax whose classes the config may name.')
COORDINATOR = flags.DEFINE_string('coordinator', None, 'Several hosts: host:port of process 0, or auto on a cluster.')
NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'Several hosts: how many.')
PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Several hosts: which one this is.')
WANDB = flags.DEFINE_string('wandb', '', 'Mirror the metrics to this Weights & Biases project.')


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UsageError(f'{argv[1]!r} is not an option; options look like --config.train.steps=100.')
  stop_request = StopRequest()
  parallel.use_compilation_cache()
  logging.set_verbosity(logging.FATAL)  # what goes wrong is raised, too
  parallel.start_hosts(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
  stop_request.reinstall()
  first_process = jax.process_index() == 0
  say = print if first_process else lambda text: None
  if REPLAY.value:
    return replay.replay(Path(REPLAY.value).resolve(), ALLOW_PACKAGE.value)
  overridden = config_flags.get_override_values(flags.FLAGS['config'])
  replaced = [name.removesuffix('.cls') for name in overridden if name.endswith('.cls')]
  config, left_out = without_leftovers(CONFIG.value.to_dict(), replaced, ALLOW_PACKAGE.value)
  if left_out:
    say(f'{", ".join(left_out)}: left out, as the class given on the command line has none.')
  workdir = Path(WORKDIR.value or Path('runs') / Path(DEFAULT if config_path(sys.argv) is None else config_path(sys.argv)).stem)
  made = objects(keep_background(workdir, config, overridden), ALLOW_PACKAGE.value)
  refuse_shared_steps(CONFIG.value, overridden)
  train, source, objective, optimizers = made.train, made.source, made.objective, made.optimizers

  def config_at(steps):
    """The resolved config for another train.steps, with all values that the config file computes from it."""
    CONFIG.value.train.steps = steps
    other, _ = without_leftovers(CONFIG.value.to_dict(), replaced, ALLOW_PACKAGE.value)
    CONFIG.value.train.steps = train.steps
    return other | {'data': made.resolved['data']} | resolve_specs(other, source, ALLOW_PACKAGE.value)

  # What is computed where.
  mesh = parallel.make_mesh()

  def keys():  # of init, training and sampling; called under jit, so that they are on all devices
    return jax.random.split(rng.key(train.seed), 3)

  key = parallel.put_everywhere(keys()[1], mesh)
  compiled_step = made.compile_step(mesh)
  pipeline = Pipeline(source, train.batch_size, key, train.seed, mesh, made.flip)
  like = abstract_state(objective, source.image_shape, optimizers)
  grown_at = getattr(objective, 'grown_at', 0)
  if train.steps < grown_at:
    say(
      f'train.steps={train.steps}: images are whole from step {grown_at} only. '
      'Raise it, or lower objective.hold_steps and fade_steps.'
    )
  if DRY_RUN.value:
    return dry_run(made.resolved, objective, like, compiled_step, train.batch_size)

  # The run directory, and the state: from the newest checkpoint, or new.
  parallel.refuse_differences(json.dumps(made.resolved), 'the hosts were given different configs: give all the same command.')
  if first_process:
    open_workdir(workdir, made.resolved, ALLOW_PACKAGE.value, config_at)
    write_environment(workdir)
  parallel.wait_for_all('run directory')
  seen = (workdir / 'environment.json').read_text() if (workdir / 'environment.json').exists() else ''
  parallel.refuse_differences(seen, f'{workdir} is not the same folder on all hosts: put it on storage that they share.')
  run_id = run_id_of(read_config(workdir))
  checkpoints = Checkpoints(workdir / 'checkpoints', train.keep, train.keep_every, saved=workdir / SAVED, run_id=run_id)
  sharding = parallel.state_sharding(like, mesh, train.strategy)
  state = checkpoints.restore_newest(like, sharding, STRICT.value)
  first = int(state.step) if state else 0
  if state:
    say(f'{workdir}: resuming from step {first}.')
  else:
    init = lambda: init_state(objective, optimizers, keys()[0], example_batch(source.image_shape))  # noqa: E731
    once = {'xla_backend_optimization_level': 0} if jax.default_backend() == 'cpu' else {}  # compiling is what takes time
    state = jax.jit(init, out_shardings=sharding, compiler_options=once)()  # born where it will live
    say(f'{workdir}: {parameter_report(like)}; {len(source)} images {source.image_shape}.')

  # What is made of the state at some steps: a picture, an evaluation. Those of the step resumed from are owed if the run was
  # ended between its save and them.
  picture = lambda step: workdir / 'samples' / f'step_{step:08d}.png'  # noqa: E731
  logged = read_metrics(workdir, first)

  def due(step):
    last, every = step == train.steps, 1000 * train.evaluate_every
    crossed = every and step * train.batch_size // every > (step - 1) * train.batch_size // every
    return step % train.sample_every == 0 or last, bool(every) and (crossed or last)

  def owed(step):
    found = {name.split('/')[0] for line in logged if line['step'] == step for name in line}
    shown = picture(step).exists() and ('collapse' in found or not isinstance(objective, GAN))
    show, evaluate = due(step) if 0 < step <= train.steps else (False, False)
    return [parallel.any_process(missing) for missing in (show and not shown, evaluate and 'evaluation' not in found)]

  remaining = owed(first)
  if first >= train.steps and not any(remaining):
    checkpoints.close()
    say(f'{workdir} is at step {first} of {train.steps}: nothing to do. Raise train.steps to go on.')
    return

  judge = judge_of(workdir, train, objective, source, made.data, mesh, ALLOW_PACKAGE.value) if train.evaluate_every else None
  best_checkpoints = Checkpoints(workdir / 'best', keep=1, run_id=run_id) if judge else Silent()
  best = min((line['evaluation/fid'] for line in logged if line.get('evaluation/fid')), default=math.inf)

  # The same latents each time, one class a column.
  columns = grid_columns(objective)
  labels = grid_labels(objective, 8 * columns)

  def sample(variables):
    return to_uint8(objective.sample(variables, rng.image_keys(keys()[2], np.arange(8 * columns)), labels))

  sample = jax.jit(sample, out_shardings=parallel.replicated(mesh))
  held_out = test_images(source, **made.data) if isinstance(objective, GAN) or hasattr(objective, 'pictures') else None
  watch = collapse.watcher(objective, source, held_out, mesh) if isinstance(objective, GAN) else None
  noticed = False

  def pictures(variables):
    images, classes = (held_out or source).read(np.arange(min(10, len(held_out or source))))
    batch = Batch(to_float(images), classes, np.arange(len(images), dtype=np.int32))
    found = objective.pictures(variables, batch, rng.image_keys(keys()[2], batch.index))
    return {name: to_uint8(rows) for name, rows in found.items()}

  pictures = jax.jit(pictures, out_shardings=parallel.replicated(mesh)) if hasattr(objective, 'pictures') else lambda _: {}

  def look(step, show, evaluate):
    nonlocal best, noticed
    variables = state.variables()
    if evaluate:
      found = judge(variables, step)
      fid = found['metrics']['fid']
      if fid < best:
        best = fid
        best_checkpoints.save(state)
        best_checkpoints.wait()  # before its line is written: what is logged is kept
      metrics.write(step, {f'evaluation/{name}': value for name, value in found['metrics'].items()})
      say(f'step {step}: FID {fid:.4g}, lowest {best:.4g} ({told(found)})')
    if show:
      images, more = np.asarray(sample(variables)), jax.device_get(pictures(variables))
      if first_process:
        for name, rows in more.items():
          save_grid(workdir / 'pictures' / name / picture(step).name, rows.reshape(-1, *rows.shape[2:]), rows.shape[1])
        save_grid(picture(step), images, columns)
    if show and watch:
      found = watch(variables)
      metrics.write(step, {f'collapse/{name}': value for name, value in found.items()})
      said = collapse.flags(found)
      if not noticed and (notice := collapse.notice(found)):  # once: it holds for long
        said, noticed = [*said, notice], True
      for text in said:
        say(f'step {step}: {text}.')

  # The loop. Steps are dispatched a few ahead, so that the device does not wait for the host. Their metrics are read when
  # something is due, before it is written, so that no checkpoint holds what is not finite; a step that was not has halted
  # the state (genjax/step.py).
  metrics = progress = Silent()
  if first_process:
    metrics = Metrics(workdir, first, train.batch_size, made.resolved, WANDB.value)
    progress = Progress(first, train.steps, train.batch_size)
  window, pending, logged_compile, stopping = [], [], 0.0, False
  with contextlib.ExitStack() as closing:  # each is closed whatever happens to the others, the checkpoints last
    for part in (checkpoints, best_checkpoints, metrics, pipeline, progress):
      closing.callback(part.close)
    look(first, *remaining)
    start = time.perf_counter()
    for t in range(first, train.steps):
      try:
        batch = pipeline(t)
      except UsageError:  # an image that cannot be read: nothing of what came before is lost
        if jax.process_count() == 1:  # others have no reason to save now
          checkpoints.save(state)
        raise
      state, scalars = compiled_step(state, batch, key, playing(objective, t))
      stop_request.started = True
      pending.append(scalars)
      done = t + 1
      # Asked once: a signal that comes later is for the next step. Several hosts agree every few steps.
      stopping = (jax.process_count() == 1 or done % AGREE == 0) and parallel.any_process(bool(stop_request.signal))
      last = done == train.steps or stopping
      log, save = (done % every == 0 or last for every in (train.log_every, train.checkpoint_every))
      show, evaluate = due(done)
      progress.advance()
      if not (log or save or show or evaluate):
        if len(pending) > AHEAD:
          jax.block_until_ready(pending[-AHEAD])
        continue
      for number, scalars in enumerate(jax.device_get(pending), start=done + 1 - len(pending)):
        window.append({name: float(value) for name, value in scalars.items()})
        if not all(map(math.isfinite, window[-1].values())):
          turn = playing(objective, number - 1)
          raise UsageError(not_finite(workdir, number, made, state, pipeline(number - 1), key, window[-1], turn))
      pending.clear()
      if log:
        compiling = compiled_step.compile_seconds - logged_compile
        seconds = time.perf_counter() - start - compiling
        values = averages(window) | {'images_per_second': len(window) * train.batch_size / seconds}
        metrics.write(done, values | ({'compile_seconds': compiling} if compiling else {}))
        progress.show(done, values)
        window, start, logged_compile = [], time.perf_counter(), compiled_step.compile_seconds
      if save:
        checkpoints.save(state)
      if stopping:
        break
      began = time.perf_counter()
      look(done, show, evaluate)
      start += time.perf_counter() - began  # judging and sampling are not training
  if stopping:
    number = stop_request.signal or signal.SIGTERM  # another host received it
    say(f'{workdir}: stopped by {signal.Signals(number).name} and saved at step {done}. The same command resumes.')
    sys.exit(128 + number)
  say(f'{workdir}: done. {picture(train.steps)}')


def refuse_shared_steps(config: ConfigDict, overridden: Collection[str]) -> None:
  """Raises UsageError if an overridden value shares a reference with `train.steps`: ml_collections would change both."""
  for name in set(overridden) - {'train.steps'}:
    *path, last = name.split('.')
    section = config
    for part in path:
      section = section.get(part) if isinstance(section, ConfigDict) else None
    known = isinstance(section, ConfigDict) and last in section
    if known and section.get_ref(last) is config.train.get_ref('steps'):
      raise UsageError(
        f'--config.{name} shares its value with train.steps in the config file, so the override would change both: '
        'override train.steps, or set a separate value in the file.'
      )


class Objects(NamedTuple):
  """What a config says, as objects, and the config itself with every default and given value written out."""

  train: Training
  source: Source
  flip: bool
  objective: Objective
  optimizers: dict[str, optax.GradientTransformation]
  resolved: dict

  @property
  def data(self) -> dict:
    """The options of `open_data`."""
    return contents.options(self.resolved['data'])

  def compile_step(self, mesh: jax.sharding.Mesh) -> parallel.CompiledStep:
    """Raises UsageError if the devices do not get equal microbatches."""
    parallel.check_batch_size(self.train.batch_size, mesh, self.train.accumulate)
    step = functools.partial(
      train_step,
      objective=self.objective,
      optimizers=self.optimizers,
      ema_halflife=self.train.ema_halflife,
      accumulate=self.train.accumulate,
    )
    return parallel.compile_step(step, mesh, self.train.strategy)


def objects(config: dict, allow: list[str]) -> Objects:
  """Config -> objects; `allow` names packages beside genjax. Nothing behind this function sees a config."""
  for name in config:
    if name not in SECTIONS:
      raise UsageError(f'config.{name} is not an option.' + did_you_mean(name, SECTIONS))
  for name in SECTIONS:
    if name not in config:
      raise UsageError(f'the config has no section {name!r}: start from configs.common.base, add objective and optim.')
    if not isinstance(config[name], dict):
      raise UsageError(f'config.{name}={config[name]!r} must be a section, as configs.common.base and spec() make them.')
  check(Training, 'config.train', config['train'])
  train = Training(**config['train'])
  data = {name: value for name, value in config['data'].items() if name != 'flip'}
  check(open_data, 'config.data', data)
  source = open_data(**data)
  resolved = config | {
    'data': section_defaults()['data'] | config['data'] | contents.recorded(source),
    **resolve_specs(config, source, allow),
  }
  objective, optimizers = build(resolved['objective'], allow), build(resolved['optim'], allow)
  check_fit(objective, optimizers, source)
  return Objects(train, source, config['data'].get('flip', False), objective, optimizers, resolved)


def resolve_specs(config: dict, source: Source, allow: list[str]) -> dict:
  """The sections `objective` and `optim` with values inferred from the data, and with defaults that spec() does not fill in."""
  specs = {name: with_defaults(config[name], allow) for name in ('objective', 'optim')}
  inferred = {'image_shape': source.image_shape, 'dtype': config['train'].get('dtype', Training.dtype)}
  return specs | {'objective': complete(specs['objective'], inferred, allow)}


def check_fit(objective, optimizers, source) -> None:
  """Raises UsageError where objective, optimisers and data do not belong together."""
  if not isinstance(objective, Objective):
    raise UsageError(f'config.objective is {type(objective).__name__}, which is no objective: give spec("objectives....").')
  if not isinstance(optimizers, dict) or set(optimizers) != set(objective.players):
    have = ', '.join(optimizers) if isinstance(optimizers, dict) else type(optimizers).__name__
    raise UsageError(f'config.optim has {have}; it needs one optimiser for each of {", ".join(objective.players)}.')
  if objective.num_classes and not source.num_classes:
    raise UsageError(f'{source.name} has no labels: set config.objective.num_classes=0.')
  if objective.num_classes and source.num_classes != objective.num_classes:
    raise UsageError(
      f'{source.name} has {source.num_classes} classes, config.objective.num_classes={objective.num_classes}: '
      f'set it to {source.num_classes}, or to 0 for a model without labels.'
    )


def not_finite(workdir: Path, step: int, made: Objects, state, batch, key, metrics: dict[str, float], playing) -> str:
  """Keeps what is needed to take the step again, finds out where it went wrong, and says so."""
  folder = workdir / 'nan' / f'step_{step:08d}'
  replay.dump(folder, state, batch, key, metrics)
  parallel.wait_for_all('dump')
  state, batch, key, _ = replay.load(folder, made.objective, made.optimizers)  # whole, on this host's first device
  where = 'the first host says where'
  if jax.process_index() == 0:
    where = replay.diagnose(made.objective, made.optimizers, state, batch, key, playing)
  parallel.wait_for_all('diagnosis')
  bad = ', '.join(name for name, value in metrics.items() if not math.isfinite(value))
  return (
    f'{workdir}: {bad} not finite at step {step}; {where or "not so when taken again"}. To see it: --replay {folder}\n'
    'Train anew in another --workdir with a lower learning rate or with clip; checkpoints, if any, are of the steps before.'
  )


def averages(window: list[dict[str, float]]) -> dict[str, float]:
  """Of each scalar over the steps that have it."""
  names = dict.fromkeys(name for values in window for name in values)
  return {name: float(np.mean([values[name] for values in window if name in values])) for name in names}


def parameter_report(like: TrainState) -> str:
  sizes = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in like.params.items()}
  return 'parameters ' + ', '.join(f'{name} {size:,}' for name, size in sizes.items())


def dry_run(resolved: dict, objective, like: TrainState, compiled_step, batch_size: int) -> None:
  """What a run would be, from shapes alone."""
  print(json.dumps(resolved, indent=2))
  print(parameter_report(like))
  batch = jax.eval_shape(lambda: example_batch(resolved['data']['image_shape'], batch_size))
  key = jax.eval_shape(lambda: rng.key(0))
  lowered = jax.jit(functools.partial(compiled_step.step, playing=tuple(objective.players))).lower(like, batch, key)
  print(f'FLOPs per step {lowered.cost_analysis()["flops"]:.4g} (before optimisation by the compiler; all players)')
  print(f'bytes of state {sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(like)):,}')


if __name__ == '__main__':
  try:
    app.run(main, flags_parser=functools.partial(parse, default=DEFAULT))
  except (UsageError, OSError) as error:
    if not isinstance(error, UsageError) and error.errno not in DISK_FULL:
      raise
    remedy = '' if isinstance(error, UsageError) else '\nMake room, then give the same command again: it resumes.'
    print(f'error: {error}{remedy}', file=sys.stderr, flush=True)
    # A proper exit waits for the other hosts, which wait for this one; after a failed save its threads print tracebacks.
    if jax.distributed.is_initialized() or remedy or isinstance(error, (NotSaved, NotWritten)):
      sys.stdout.flush()
      os._exit(1)
    sys.exit(1)
