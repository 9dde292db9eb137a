"""Logging of metrics to metrics.jsonl, which TensorBoard, Weights & Biases and the terminal mirror; progress bars."""

import contextlib
import json
import math
import os
import secrets
import struct
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from genjax.data.contents import RECORDED
from genjax.errors import UsageError
from genjax.files import write_whole, writing


class NullWriter:
  """Replaces MetricWriter and Progress in processes other than the first."""

  def __getattr__(self, name):
    return lambda *args: None


class MetricWriter:
  """Appends to metrics.jsonl, and mirrors the values under the same names by the number of images seen.

  On resume, lines after the resumed step are removed, since these steps are repeated. TensorBoard's files are rewritten from
  the remaining lines and the pictures up to that step, because a killed process loses what it had not flushed.

  Args:
    workdir: the run directory.
    step: the step to resume from, 0 for a new run.
    batch_size: images per step.
    config: the resolved config, for TensorBoard and Weights & Biases.
    wandb_project: the Weights & Biases project; '' for none (WANDB_MODE=offline needs no account).
  """

  def __init__(self, workdir: Path, step: int, batch_size: int, config: dict[str, Any], wandb_project: str = ''):
    if wandb_project:
      try:
        import wandb
      except ModuleNotFoundError:
        raise UsageError('--wandb needs the package: pip install wandb') from None
    self.workdir, self.path, self.batch_size = workdir, workdir / 'metrics.jsonl', batch_size
    lines = read_metrics(workdir, step)
    if self.path.exists() or self.path.is_symlink():  # write_whole replaces a link and does not follow it
      write_whole(self.path, ''.join(json.dumps(line) + '\n' for line in lines))
    self.tensorboard = TensorBoard(workdir / 'tensorboard', config)
    written = [(line['step'], line) for line in lines] + [(picture.step, picture) for picture in saved_pictures(workdir, step)]
    for number, item in sorted(written, key=lambda pair: pair[0]):
      self.mirror(number, item)
    self.tensorboard.replace_earlier()
    self.wandb = None
    if wandb_project:
      self.wandb_image = wandb.Image
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
    self.mirror(step, line)
    if self.wandb:
      self.wandb.log(line, step=images)

  def write_picture(self, step: int, path: Path) -> None:
    """Shows a PNG file of the run directory in TensorBoard and Weights & Biases, under the tag of its folder."""
    tag = path.parent.relative_to(self.workdir).as_posix()
    self.mirror(step, Picture(step, tag, path))
    if self.wandb and read_png(path):
      self.wandb.log({tag: self.wandb_image(str(path))}, step=step * self.batch_size)

  def mirror(self, step: int, item: 'dict[str, Any] | Picture') -> None:
    """Writes a line of metrics.jsonl, or a picture, to TensorBoard."""
    images = step * self.batch_size
    if not isinstance(item, Picture):
      self.tensorboard.write(images, item)
    elif content := read_png(item.path):
      self.tensorboard.write_picture(images, item.tag, content)

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
  """Writes a new event file in `folder`: scalars, pictures, and the config as text and as hyperparameters.

  It does not use tensorboardX's SummaryWriter, whose thread dies when the disk is full and blocks the training.
  An open TensorBoard discards what it has read from earlier files.

  Args:
    folder: created if missing.
    config: the resolved config.
  """

  FLUSH_EVERY = 10.0  # seconds

  def __init__(self, folder: Path, config: Mapping[str, Any]):
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    self.folder, self.event, self.flushed = folder, Event, time.monotonic()
    with writing(folder):
      folder.mkdir(parents=True, exist_ok=True)
      self.earlier = list(folder.glob('events.out.tfevents.*'))
      self.writer = EventsWriter(str(folder / 'events'), f'.{secrets.token_hex(4)}')
      self.writer.write_event(Event(wall_time=time.time(), step=0, session_log=SessionLog(status=SessionLog.START)))
    self.add(0, config_summaries(config))

  def replace_earlier(self) -> None:
    """Deletes the earlier event files once this one is on disk, so that a killed process loses nothing."""
    with writing(self.folder):
      self.writer.flush()
      for path in self.earlier:
        path.unlink(missing_ok=True)

  def write(self, images: int, values: Mapping[str, Any]) -> None:
    """Writes the numeric `values` at `images` images seen; None stands for a value that is not finite."""
    values = {name: math.nan if value is None else value for name, value in values.items()}
    self.add(images, [{'tag': k, 'simple_value': v} for k, v in values.items() if isinstance(v, int | float)])

  def write_picture(self, images: int, tag: str, png: bytes) -> None:
    """Writes the content of a PNG file at `images` images seen."""
    width, height = struct.unpack('>II', png[16:24])
    image = {'height': height, 'width': width, 'colorspace': 1 if png[25] == 0 else 3, 'encoded_image_string': png}
    self.add(images, [{'tag': tag, 'image': image}])

  def add(self, images: int, summaries: list[dict[str, Any]]) -> None:
    with writing(self.folder):
      self.writer.write_event(self.event(wall_time=time.time(), step=int(images), summary={'value': summaries}))
      if time.monotonic() - self.flushed > self.FLUSH_EVERY:
        self.writer.flush()
        self.flushed = time.monotonic()

  def close(self) -> None:
    with writing(self.folder):
      self.writer.close()


def config_summaries(config: Mapping[str, Any]) -> list[dict[str, Any]]:
  """A config for TensorBoard: as text, and its options by name for the table of hyperparameters."""
  from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

  text = ''.join(f'    {line}\n' for line in json.dumps(config, indent=2).splitlines())  # indented: Markdown for code
  tensor = {'dtype': 'DT_STRING', 'string_val': [text.encode()], 'tensor_shape': {'dim': [{'size': 1}]}}
  table = HParamsPluginData()
  for name, value in options_by_name(config):
    if isinstance(value, bool):
      table.session_start_info.hparams[name].bool_value = value
    elif isinstance(value, int | float):
      table.session_start_info.hparams[name].number_value = value
    else:
      table.session_start_info.hparams[name].string_value = value if isinstance(value, str) else json.dumps(value)
  table.session_start_info.start_time_secs = time.time()
  content = table.SerializeToString()
  return [
    {'tag': 'config', 'metadata': {'plugin_data': {'plugin_name': 'text'}}, 'tensor': tensor},
    {'tag': '_hparams_/session_start_info', 'metadata': {'plugin_data': {'plugin_name': 'hparams', 'content': content}}},
  ]


def options_by_name(section: Mapping[str, Any], path: str = '') -> Iterator[tuple[str, Any]]:
  """Yields 'section.option' and its value, without the description of the data and of frozen networks."""
  for key, value in section.items():
    name = f'{path}.{key}' if path else key
    if name == 'frozen' or (path == 'data' and key in RECORDED):
      continue
    if isinstance(value, Mapping):
      yield from options_by_name(value, name)
    else:
      yield name, value


class Picture(NamedTuple):
  """A PNG file in a run directory. Its folder is its tag in TensorBoard: 'samples', 'previews/reconstructions'."""

  step: int
  tag: str
  path: Path


MAX_REWRITTEN = 100  # pictures of each tag; TensorBoard shows 10 by default, and writing takes a second for 10 MB


def saved_pictures(workdir: Path, step: int) -> list[Picture]:
  """The samples and previews up to `step`; of more than MAX_REWRITTEN with the same tag, evenly spaced ones."""
  pictures = []
  for folder in (workdir / 'samples', *sorted(workdir.glob('previews/*'))):
    names = ((path.stem.removeprefix('step_'), path) for path in folder.glob('step_*.png'))
    steps = sorted((int(number), path) for number, path in names if number.isdecimal() and int(number) <= step)
    tag = folder.relative_to(workdir).as_posix()
    pictures += [Picture(number, tag, path) for number, path in steps[:: -(-len(steps) // MAX_REWRITTEN) or 1]]
  return pictures


def read_png(path: Path) -> bytes:
  """The content of a PNG file; empty for one that is not, cannot be read, or is a link."""
  try:
    content = b'' if path.is_symlink() or not path.is_file() else path.read_bytes()
  except OSError:
    content = b''
  return content if content.startswith(b'\x89PNG\r\n\x1a\n') and len(content) > 25 else b''


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


def on_terminal() -> bool:
  """Whether progress bars are shown: stderr is a terminal, and this is the first process."""
  first = not jax.distributed.is_initialized() or jax.process_index() == 0
  return first and sys.stderr.isatty() and os.environ.get('TERM') != 'dumb'


def say(text: str) -> None:
  """Prints a line, above the progress bar if there is one. On several hosts only the first process prints."""
  if jax.process_index() == 0:
    tqdm.write(text)
    sys.stdout.flush()


def reading_bar(items: Iterable[Any] | None = None, total: int | None = None) -> tqdm:
  """A bar for images that are read, on a terminal and if it takes more than two seconds."""
  return tqdm(items, total=total, desc='reading images', unit='image', delay=2, leave=False, disable=not on_terminal())


def duration(seconds: float) -> str:
  """'4.2 s', '42 s', '3.1 min' or '5.2 h'."""
  if seconds < 100:
    return f'{seconds:.{seconds < 10:d}f} s'
  return f'{seconds / 60:.1f} min' if seconds < 6000 else f'{seconds / 3600:.1f} h'


ESTIMATED_AFTER = 10  # seconds, without a terminal


class Progress:
  """A progress bar with step, speed, remaining time and losses; plain lines without a terminal.

  There the remaining time is estimated after ten seconds, if no line was logged until then.
  """

  def __init__(self, step: int, steps: int, batch_size: int):
    self.batch_size, self.steps = batch_size, steps
    self.bar = tqdm(total=steps, initial=step, unit='step', dynamic_ncols=True, disable=not on_terminal())
    self.left, self.taken, self.begun = steps - step, 0, 0.0
    self.estimates = self.bar.disable  # once, unless a line is logged before

  def advance(self) -> None:
    self.bar.update()
    if not self.taken:
      self.begun = time.perf_counter()  # without the compilation of the first step
    self.taken += 1
    seconds = time.perf_counter() - self.begun
    if self.estimates and self.taken > 1 and seconds > ESTIMATED_AFTER:
      self.estimates = False
      say(f'about {duration((self.left - self.taken) * seconds / (self.taken - 1))} left')

  def show(self, step: int, values: dict[str, float]) -> None:
    """Shows the main losses and the speed; called when a line is logged."""
    self.estimates = False
    rate = values['images_per_second']
    losses = losses_of(values)
    if not self.bar.disable:
      self.bar.set_postfix_str(f'{rate:.0f} images/s {losses}')
    else:
      left = f'{duration((self.steps - step) * self.batch_size / rate)} left  ' if step < self.steps else ''
      compiled = f'  (compiled in {duration(values["compile_seconds"])})' if 'compile_seconds' in values else ''
      say(f'step {step}/{self.steps}  {rate:.0f} images/s  {left}{losses}{compiled}')
    for player in (name.removesuffix('/skipped') for name, value in values.items() if name.endswith('/skipped') and value == 1):
      norm = values[f'{player}/grad_norm']
      say(f'{player} was not updated: the norms of all gradients, {norm:.4g} on average, exceed optim.{player}.skip. Raise it.')

  def close(self) -> None:
    self.bar.close()


def losses_of(values: Mapping[str, Any]) -> str:
  """The losses of the players in a line of the log; 'nan' where one is not finite."""
  losses = {name: math.nan if value is None else value for name, value in values.items() if name.endswith('/loss')}
  return ' '.join(f'{name} {value:.4g}' for name, value in losses.items())
