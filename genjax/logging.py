"""Logging of metrics to metrics.jsonl, which TensorBoard, Weights & Biases and the terminal mirror."""

import contextlib
import json
import math
import os
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from genjax.errors import UsageError
from genjax.files import write_whole, writing


class NullWriter:
  """Replaces MetricWriter and Progress in processes other than the first."""

  def __getattr__(self, name):
    return lambda *args: None


class MetricWriter:
  """Appends to metrics.jsonl, and mirrors the values under the same names by the number of images seen.

  On resume, lines after the resumed step are removed, since these steps are repeated. TensorBoard's files are rewritten from
  the remaining lines, because a killed process loses what it had not flushed.

  Args:
    workdir: the run directory.
    step: the step to resume from, 0 for a new run.
    batch_size: images per step.
    config: the resolved config, for Weights & Biases.
    wandb_project: the Weights & Biases project; '' for none (WANDB_MODE=offline needs no account).
  """

  def __init__(self, workdir: Path, step: int, batch_size: int, config: dict[str, Any], wandb_project: str = ''):
    if wandb_project:
      try:
        import wandb
      except ModuleNotFoundError:
        raise UsageError('--wandb needs the package: pip install wandb') from None
    self.path, self.batch_size = workdir / 'metrics.jsonl', batch_size
    lines = read_metrics(workdir, step)
    if self.path.exists() or self.path.is_symlink():  # write_whole replaces a link and does not follow it
      write_whole(self.path, ''.join(json.dumps(line) + '\n' for line in lines))
    self.tensorboard = TensorBoard(workdir / 'tensorboard', [(line['step'] * batch_size, line) for line in lines])
    self.wandb = None
    if wandb_project:
      identity = workdir / 'wandb_id'  # identifies the run directory, so that another one of the same name is another run
      if not identity.exists():
        write_whole(identity, secrets.token_hex(8))
      name, identity = workdir.resolve().name, identity.read_text()
      self.wandb = wandb.init(project=wandb_project, id=identity, name=name, dir=str(workdir), config=config, resume='allow')

  def write(self, step: int, values: dict[str, float]) -> None:
    """Writes one line. Values that are not finite become null, since JSON has no NaN."""
    images = step * self.batch_size
    line = {'step': step, 'kimg': images / 1000} | values
    with writing(self.path), open(self.path, 'a') as file:
      file.write(json.dumps({k: v if math.isfinite(v) else None for k, v in line.items()}) + '\n')
    self.tensorboard.write(images, line)
    if self.wandb:
      self.wandb.log(line, step=images)

  def close(self) -> None:
    self.tensorboard.close()
    if self.wandb:
      self.wandb.finish()


class StepMetrics:
  """Scalars of the steps since the last line of the log. Steps are dispatched ahead, so that devices do not wait for the host.

  Args:
    batch_size: images per step.
    ahead: the maximum number of unfinished steps.
  """

  def __init__(self, batch_size: int, ahead: int = 2):
    self.batch_size, self.ahead = batch_size, ahead
    self.pending: list[dict[str, Any]] = []  # on the devices
    self.window: list[dict[str, float]] = []
    self.start, self.logged_compile = time.perf_counter(), 0.0

  def add(self, scalars: dict[str, Any]) -> None:
    """Adds the scalars of a dispatched step."""
    self.pending.append(scalars)

  def wait(self) -> None:
    """Waits until another step may be dispatched."""
    if len(self.pending) > self.ahead:
      jax.block_until_ready(self.pending[-self.ahead])

  def read(self, done: int) -> Iterator[tuple[int, dict[str, float]]]:
    """Yields the number and scalars of each step that was not read yet; `done` is the number of the last step."""
    pending, self.pending = self.pending, []
    for step, scalars in enumerate(jax.device_get(pending), start=done + 1 - len(pending)):
      self.window.append({name: float(value) for name, value in scalars.items()})
      yield step, self.window[-1]

  def averages(self, compile_seconds: float) -> dict[str, float]:
    """Means since the last call, of each scalar over the steps that have it, and images per second without compilation.

    `compile_seconds` is the total so far.
    """
    compiling = compile_seconds - self.logged_compile
    seconds = time.perf_counter() - self.start - compiling
    names = dict.fromkeys(name for values in self.window for name in values)
    means = {name: float(np.mean([values[name] for values in self.window if name in values])) for name in names}
    means['images_per_second'] = len(self.window) * self.batch_size / seconds
    self.window, self.start, self.logged_compile = [], time.perf_counter(), compile_seconds
    return means | ({'compile_seconds': compiling} if compiling else {})

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Excludes the time of its block from the training time."""
    began = time.perf_counter()
    yield
    self.start += time.perf_counter() - began


class TensorBoard:
  """Writes scalars to a new event file in `folder`, which replaces existing ones.

  It does not use tensorboardX's SummaryWriter, whose thread dies when the disk is full and blocks the training.
  An open TensorBoard discards what it has read from the old files.

  Args:
    folder: created if missing.
    lines: images seen and values to write first, as in `write`.
  """

  FLUSH_EVERY = 10.0  # seconds

  def __init__(self, folder: Path, lines: list[tuple[int, dict[str, Any]]]):
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    self.folder, self.event, self.flushed = folder, Event, 0.0
    with writing(folder):
      folder.mkdir(parents=True, exist_ok=True)
      old = list(folder.glob('events.out.tfevents.*'))
      self.writer = EventsWriter(str(folder / 'events'), f'.{secrets.token_hex(4)}')
      self.writer.write_event(Event(wall_time=time.time(), step=0, session_log=SessionLog(status=SessionLog.START)))
      for images, values in lines:
        self.add(images, values)
      self.writer.flush()
      for path in old:  # last, so that a killed process loses nothing
        path.unlink(missing_ok=True)

  def write(self, images: int, values: dict[str, Any]) -> None:
    """Writes the numeric `values` at `images` images seen; None stands for a value that is not finite."""
    with writing(self.folder):
      self.add(images, values)
      if time.monotonic() - self.flushed > self.FLUSH_EVERY:
        self.writer.flush()
        self.flushed = time.monotonic()

  def add(self, images: int, values: dict[str, Any]) -> None:
    values = {name: math.nan if value is None else value for name, value in values.items()}
    scalars = [{'tag': name, 'simple_value': value} for name, value in values.items() if isinstance(value, int | float)]
    self.writer.write_event(self.event(wall_time=time.time(), step=int(images), summary={'value': scalars}))

  def close(self) -> None:
    with writing(self.folder):
      self.writer.close()


def read_metrics(workdir: Path, step: float = math.inf) -> list[dict[str, Any]]:
  """The lines of metrics.jsonl up to `step`, without those that are truncated or invalid."""
  path, lines = workdir / 'metrics.jsonl', []
  try:
    text = path.read_text(errors='replace')
  except FileNotFoundError:
    return []
  except OSError as error:
    raise UsageError(f'{path} cannot be read ({error.strerror}): move it away.') from None
  for line in text.splitlines(keepends=True):
    try:
      values = json.loads(line) if line.endswith('\n') else None
    except (ValueError, RecursionError):
      continue
    if isinstance(values, dict) and all(isinstance(values.get(name), (int, float)) for name in ('step', 'kimg')):
      lines += [values] if values['step'] <= step else []
  return lines


class Progress:
  """A progress bar with step, speed, remaining time and losses; plain lines without a terminal."""

  def __init__(self, step: int, steps: int, batch_size: int):
    self.batch_size, self.steps = batch_size, steps
    interactive = sys.stderr.isatty() and os.environ.get('TERM') != 'dumb'
    self.bar = tqdm(total=steps, initial=step, unit='step', dynamic_ncols=True, disable=not interactive)

  def advance(self) -> None:
    self.bar.update()

  def show(self, step: int, values: dict[str, float]) -> None:
    """Shows the main losses and the speed; called when a line is logged."""
    rate = values['images_per_second']
    losses = ' '.join(f'{name} {value:.4g}' for name, value in values.items() if name.endswith('/loss'))
    if not self.bar.disable:
      self.bar.set_postfix_str(f'{rate:.0f} images/s {losses}')
    else:
      left = (self.steps - step) * self.batch_size / rate
      print(f'step {step}/{self.steps}  {rate:.0f} images/s  {left / 60:.1f} min left  {losses}', flush=True)
    for player in (name.removesuffix('/skipped') for name, value in values.items() if name.endswith('/skipped') and value == 1):
      norm = values[f'{player}/grad_norm']
      self.bar.write(
        f'{player} was not updated: the norms of all gradients, {norm:.4g} on average, exceed optim.{player}.skip. Raise it.'
      )

  def close(self) -> None:
    self.bar.close()
