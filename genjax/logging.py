"""Where a run's numbers go: metrics.jsonl is the truth; TensorBoard, Weights & Biases and the terminal mirror it."""

import json
import math
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from genjax.errors import UsageError
from genjax.files import write_whole, writing


class Silent:
  """What processes other than the first have in place of Metrics and Progress."""

  def __getattr__(self, name):
    return lambda *args: None


class Metrics:
  """Appends to metrics.jsonl and mirrors under the same names, keyed by images seen.

  On resume, lines after the step resumed from are cut: those steps are taken again. TensorBoard is rewritten from the remaining
  lines, because a killed process loses what it had not flushed.

  Args:
    workdir: the run directory.
    step: the step resumed from, 0 for a new run.
    batch_size: images per step.
    wandb_project: for Weights & Biases, if not empty (WANDB_MODE=offline needs no account).
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
      identity = workdir / 'wandb_id'  # the run directory's own: a resumed run goes on, another of its name does not
      if not identity.exists():
        write_whole(identity, secrets.token_hex(8))
      name, identity = workdir.resolve().name, identity.read_text()
      self.wandb = wandb.init(project=wandb_project, id=identity, name=name, dir=str(workdir), config=config, resume='allow')

  def write(self, step: int, values: dict[str, float]) -> None:
    """One line. A number that is not finite becomes null, which JSON has."""
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
  """The lines of metrics.jsonl up to `step`, without those that a kill cut short or that are something else."""
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
  """A bar with step, speed, time left and losses; plain lines where there is no terminal."""

  def __init__(self, step: int, steps: int, batch_size: int):
    self.batch_size, self.steps = batch_size, steps
    interactive = sys.stderr.isatty() and os.environ.get('TERM') != 'dumb'
    self.bar = tqdm(total=steps, initial=step, unit='step', dynamic_ncols=True, disable=not interactive)

  def advance(self) -> None:
    self.bar.update()

  def show(self, step: int, values: dict[str, float]) -> None:
    """The main losses and the speed; called when a line is logged."""
    rate = values['images_per_second']
    losses = ' '.join(f'{name} {value:.4g}' for name, value in values.items() if name.endswith('/loss'))
    if not self.bar.disable:
      self.bar.set_postfix_str(f'{rate:.0f} images/s {losses}')
    else:
      left = (self.steps - step) * self.batch_size / rate
      print(f'step {step}/{self.steps}  {rate:.0f} images/s  {left / 60:.1f} min left  {losses}', flush=True)
    for player in (name.removesuffix('/skipped') for name, value in values.items() if name.endswith('/skipped') and value == 1):
      norm = values[f'{player}/grad_norm']
      self.bar.write(f'{player} learned nothing: all gradients, of norm {norm:.4g}, were above optim.{player}.skip. Raise it.')

  def close(self) -> None:
    self.bar.close()
