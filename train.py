"""Train a model: python train.py --config configs/fashion_mnist_vae.py --workdir runs/x --config.train.steps=2000

Repeating the command resumes the run, and so does `python train.py --resume runs/x`. On SIGINT (Ctrl-C) or SIGTERM the current
step is finished and saved. A second signal, or one before the first step, exits at once.
Exit status: 0 if done, 1 after an error or a loss that is not finite, 130 or 143 if stopped by SIGINT or SIGTERM.

--config.SECTION.OPTION=VALUE overrides an option of the config; --dry_run shows all of them.
"""

import os
import signal

if __name__ == '__main__':  # Ctrl-C while the modules below are imported
  signal.signal(signal.SIGINT, lambda *_: (os.write(2, b'SIGINT: ended.\n'), os._exit(130)))

import contextlib
import json
import math
import sys
import time
from pathlib import Path

import jax
from absl import logging

from genjax import parallel, replay
from genjax.checkpoint import Checkpoints, NotSaved
from genjax.commandline import Parser, config_of_run, load_config, split_overrides
from genjax.data.pipeline import Pipeline
from genjax.environment import write_environment
from genjax.errors import UsageError
from genjax.experiment import Experiment, build_experiment, bytes_of, dry_run, resolve_specs
from genjax.files import NotWritten, remedy_of
from genjax.frozen import write_copies
from genjax.logging import MetricWriter, NullWriter, Progress, StepMetrics, say
from genjax.memory import check_images, check_state
from genjax.overview import overview, summary
from genjax.preview import Previews
from genjax.run import abstract_state
from genjax.signals import EVALUATION, SAMPLES, STEP, StopRequest
from genjax.step import TrainState, init_state, turn_at
from genjax.transfer import start_from, with_variables
from genjax.types import Grows, example_batch
from genjax.workdir import SAVED, keep_background, open_workdir, read_config, run_id_of

AGREE = 10  # steps after which several hosts agree whether to stop
DEFAULT = str(Path(__file__).parent / 'configs' / 'digits_flow.py')


def main(argv: list[str]) -> None:
  args, overrides = parse(argv)
  stop_request = StopRequest()
  parallel.use_compilation_cache()
  logging.set_verbosity(logging.FATAL)  # errors are also raised
  parallel.initialize_distributed(args.coordinator, args.num_processes, args.process_id)
  stop_request.reinstall()
  if args.replay:
    return replay.replay(Path(args.replay).resolve(), args.allow_package)

  # The experiment: objects from the config, the devices, and the compiled step.
  if args.resume:
    loaded = config_of_run(args.resume, overrides, DEFAULT, args.allow_package)
  else:
    loaded = load_config(args.config, overrides, args.allow_package)
  if loaded.dropped:
    say(f'{", ".join(loaded.dropped)}: dropped, because the class on the command line has no such option.')
  workdir = Path(args.resume or args.workdir or Path('runs') / loaded.name)
  experiment = build_experiment(keep_background(workdir, loaded.config, overrides), args.allow_package, workdir)
  train, source, objective = experiment.train, experiment.source, experiment.objective
  mesh = parallel.make_mesh()
  check_images(train.batch_size, source.image_shape, 'train.batch_size', mesh.size)
  key = parallel.replicate(experiment.keys()[1], mesh)
  compiled_step = experiment.compile_step(mesh)
  pipeline = Pipeline(source, train.batch_size, key, train.seed, mesh, experiment.transforms)
  like = abstract_state(objective, source.example, experiment.optimizers, experiment.average)
  if isinstance(objective, Grows) and train.steps < objective.grown_at:
    say(
      f'train.steps={train.steps}: all levels are used only from step {objective.grown_at} on. '
      'Raise it, or lower objective.hold_steps and fade_steps.'
    )
  if args.dry_run:
    if train.init_from:
      start_from(train.init_from, like, say, args.allow_package)
    return dry_run(experiment, like, compiled_step)
  check_state(bytes_of(like), mesh.size if train.strategy == 'fsdp' else 1)

  # The run directory, and the state: from the newest checkpoint, or new.
  def config_at(steps):
    config = loaded.at(steps, args.allow_package)
    fixed = {name: experiment.resolved[name] for name in ('data', 'frozen') if name in experiment.resolved}
    return config | fixed | resolve_specs(config, source, args.allow_package)

  parallel.refuse_differences(json.dumps(experiment.resolved), 'the hosts have different configs: use the same command on all.')
  if jax.process_index() == 0:
    open_workdir(workdir, experiment.resolved, args.allow_package, config_at)
    write_environment(workdir)
    write_copies(workdir, experiment.frozen)
  parallel.wait_for_all('run directory')
  environment = workdir / 'environment.json'
  written = environment.read_text() if environment.exists() else ''
  parallel.refuse_differences(written, f'{workdir} is not the same folder on all hosts: put it on storage that they share.')
  run_id = run_id_of(read_config(workdir))
  checkpoints = Checkpoints(workdir / 'checkpoints', train.keep, train.keep_every, saved=workdir / SAVED, run_id=run_id)
  sharding = parallel.state_sharding(like, mesh, train.strategy)
  state = checkpoints.restore_newest(like, sharding, args.strict)
  first = int(state.step) if state else 0
  previews = Previews(experiment, workdir, mesh, first, run_id, args.allow_package)
  overdue = previews.overdue(first)
  if first >= train.steps and not any(overdue):
    checkpoints.close()
    say(f'{workdir} is at step {first} of {train.steps}: nothing to do. Raise train.steps to continue.')
    return
  say(f'{workdir}: resuming from step {first}.' if state else f'{workdir}: a new run.')
  say(overview(experiment, like, mesh, first, args.allow_package))
  say('compiling ...')
  state = state or new_state(experiment, like, sharding, args.allow_package)

  # The loop. Steps are dispatched a few ahead, so that the device does not wait for the host. Their metrics are read before
  # anything is written, so that checkpoints contain only finite values. After a step that is not finite, the state no longer
  # changes (genjax/step.py).
  metrics = progress = NullWriter()
  if jax.process_index() == 0:
    metrics = MetricWriter(workdir, first, train.batch_size, experiment.resolved, args.wandb)
    progress = Progress(first, train.steps, train.batch_size)
  previews.open(metrics)
  stopping, began = False, time.perf_counter()
  with contextlib.ExitStack() as closing:  # closes each even if closing another fails, the checkpoints last
    for part in (checkpoints, previews, metrics, pipeline, progress):
      closing.callback(part.close)
    previews(state, first, overdue)
    step_metrics = StepMetrics(train.batch_size)
    for t in range(first, train.steps):
      try:
        batch = pipeline(t)
      except UsageError:  # an image cannot be read: save the previous steps
        if jax.process_count() == 1:  # saving needs all hosts
          checkpoints.save(state)
        raise
      state, scalars = compiled_step(state, batch, key, turn_at(objective, t))
      stop_request.started = True
      step_metrics.add(scalars)
      progress.advance()
      done = t + 1
      # Checked once per step: a later signal applies to the next step. Several hosts agree every few steps.
      stopping = (jax.process_count() == 1 or done % AGREE == 0) and parallel.any_process(bool(stop_request.signal))
      last = done == train.steps or stopping
      log, save = (done % every == 0 or last for every in (train.log_every, train.checkpoint_every))
      due = previews.due(done)
      if any(due) and not stopping:
        stop_request.after = EVALUATION if due.evaluate else SAMPLES
      if not (log or save or any(due)):
        step_metrics.wait()
        continue
      for number, values in step_metrics.read(done):
        if not all(map(math.isfinite, values.values())):
          folder = workdir / 'nan' / f'step_{number:08d}'
          raise UsageError(f'{workdir}: ' + replay.report(folder, experiment, state, pipeline(number - 1), key, values))
      if log:
        values = step_metrics.averages(compiled_step.compile_seconds)
        metrics.write(done, values)
        progress.show(done, values)
      if save:
        checkpoints.save(state)
      if stopping:
        break
      with step_metrics.paused():  # evaluation and sampling do not count as training time
        previews(state, done, due)
      stop_request.after = STEP
  if stopping:
    number = stop_request.signal or signal.SIGTERM  # another host received it
    say(f'{workdir}: stopped by {signal.Signals(number).name} and saved at step {done}. The same command resumes.')
    sys.exit(128 + number)
  if jax.process_index() == 0:
    seconds = time.perf_counter() - began
    say(summary(train, workdir, previews.picture(train.steps), first, seconds, args.allow_package))


def new_state(experiment: Experiment, like: TrainState, sharding, allow: list[str]) -> TrainState:
  """The state before the first step, laid out as `sharding`."""
  start = experiment.train.init_from and start_from(experiment.train.init_from, like, say, allow)

  def init(start):
    batch = example_batch(experiment.source.example)
    state = init_state(experiment.objective, experiment.optimizers, experiment.keys()[0], batch, experiment.average)
    return with_variables(state, start, experiment) if start else state

  options = {'xla_backend_optimization_level': 0} if jax.default_backend() == 'cpu' else {}  # compilation dominates the time
  return jax.jit(init, out_shardings=sharding, compiler_options=options)(start or None)  # created with its final sharding


def parse(argv: list[str]):
  """The flags, and the overrides of the config by name. Raises UsageError for unknown flags."""
  parser = Parser(__doc__)
  parser.add_argument('--config', default=DEFAULT, help=f'the config file ({DEFAULT})')
  parser.add_argument('--resume', help='a run directory: continue its training with its config')
  parser.add_argument('--workdir', help='the run directory (runs/<name of the config file>)')
  parser.add_argument('--dry_run', action='store_true', help='print the resolved config, parameters, FLOPs and bytes, and exit')
  parser.add_argument('--strict', action='store_true', help='stop at a damaged checkpoint instead of using the previous one')
  parser.add_argument('--replay', help='repeat a step that was not finite, such as runs/x/nan/step_00000123')
  parser.add_argument(
    '--allow_package', action='append', default=[], help='another package that the config may import (repeatable)'
  )
  parser.add_argument('--coordinator', help='several hosts: host:port of process 0, or auto on a cluster')
  parser.add_argument('--num_processes', type=int, help='several hosts: the number of processes')
  parser.add_argument('--process_id', type=int, help='several hosts: the index of this process')
  parser.add_argument('--wandb', default='', help='mirror metrics and pictures to this Weights & Biases project')
  overrides, words = split_overrides(argv)
  args = parser.parse_args(words)
  if args.resume and (args.workdir or args.config != DEFAULT):
    raise UsageError(f'--resume {args.resume} uses the config and the directory of the run: remove --config and --workdir.')
  return args, overrides


if __name__ == '__main__':
  try:
    main(sys.argv[1:])
  except (UsageError, OSError) as error:
    remedy = '' if isinstance(error, UsageError) else remedy_of(error)
    if not isinstance(error, UsageError) and not remedy:
      raise
    remedy = remedy and f'\n{remedy.capitalize()}, then repeat the command: it resumes.'
    print(f'error: {error}{remedy}', file=sys.stderr, flush=True)
    # A proper exit waits for the other hosts, which wait for this one; after a failed save its threads print tracebacks.
    if jax.distributed.is_initialized() or remedy or isinstance(error, (NotSaved, NotWritten)):
      sys.stdout.flush()
      os._exit(1)
    sys.exit(1)
