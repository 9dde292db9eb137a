"""Periodic actions during training: samples, previews, the collapse panel, evaluation, and the best checkpoint."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from genjax import parallel, posthoc, rng
from genjax.checkpoint import Checkpoints
from genjax.conditioners import can_draw, num_classes
from genjax.experiment import Experiment
from genjax.images import save_grid, to_float, to_uint8
from genjax.logging import NullWriter, read_metrics, say
from genjax.metrics import collapse
from genjax.metrics.reference import held_out_images
from genjax.metrics.training import evaluation_summary, make_online_evaluator
from genjax.objectives.gan.gan import AdversarialGame
from genjax.run import grid_columns, grid_cond
from genjax.step import TrainState
from genjax.types import Batch, HasPreviews, Variables

ROWS = 8  # of a grid of samples


class Due(NamedTuple):
  """The actions that are due at a step."""

  show: bool  # samples, previews and the collapse panel
  evaluate: bool
  save_averages: bool = False  # for post-hoc EMA


class Previews:
  """Samples from the same latents each time, one class per column; previews, the collapse panel of GANs, and evaluations.

  Args:
    experiment: the experiment to train.
    workdir: the run directory.
    mesh: the devices.
    step: the step at which training starts.
    run_id: the identity of the run, stored in its best checkpoint.
    allow: packages other than genjax that the config may import.
  """

  def __init__(self, experiment: Experiment, workdir: Path, mesh: Mesh, step: int, run_id: str, allow: list[str]):
    self.train, self.objective, self.workdir = experiment.train, experiment.objective, workdir
    self.logged = read_metrics(workdir, step)
    self.columns = grid_columns(self.objective)
    classes = experiment.source.example.classes
    self.captions = classes if num_classes(self.objective.conditioner) == len(classes) == self.columns else ()
    self.experiment, self.mesh, self.run_id, self.allow = experiment, mesh, run_id, allow
    self.notice_given = False

  def due(self, step: int) -> Due:
    """The actions that are due after `step` steps."""
    last = step == self.train.steps

    def crossed(every):  # thousands of images
      images = lambda step: step * self.train.batch_size // (1000 * every)  # noqa: E731
      return bool(every) and (images(step) > images(step - 1) or last)

    every = self.train.evaluate_every, self.train.posthoc_every
    return Due(step % self.train.sample_every == 0 or last, *map(crossed, every))

  def overdue(self, step: int) -> Due:
    """Actions that were due at the resumed step but did not run, because the run was interrupted after saving it."""
    done = {name.split('/')[0] for line in self.logged if line['step'] == step for name in line}
    shown = self.picture(step).exists() and ('collapse' in done or not isinstance(self.objective, AdversarialGame))
    due = self.due(step) if 0 < step <= self.train.steps else Due(False, False)
    kept = posthoc.averages_path(self.workdir, step).exists()
    missing = (due.show and not shown, due.evaluate and 'evaluation' not in done, due.save_averages and not kept)
    return Due(*map(parallel.any_process, missing))

  def picture(self, step: int) -> Path:
    """The grid of samples at a step."""
    return self.workdir / 'samples' / f'step_{step:08d}.png'

  def open(self, metrics: Any) -> None:
    """Prepares sampling and evaluation. `metrics` is the writer of the log."""
    self.metrics = metrics
    experiment, objective, mesh = self.experiment, self.objective, self.mesh
    evaluates = bool(self.train.evaluate_every)
    evaluator_options = (self.workdir, self.train, objective, experiment.source, experiment.data, mesh, self.allow)
    self.online_evaluator = make_online_evaluator(*evaluator_options) if evaluates else None
    self.best_checkpoints = Checkpoints(self.workdir / 'best', keep=1, run_id=self.run_id) if evaluates else NullWriter()
    self.best = min((line['evaluation/fid'] for line in self.logged if line.get('evaluation/fid')), default=math.inf)
    needs_images = isinstance(objective, AdversarialGame | HasPreviews) or not can_draw(objective.conditioner)
    held_out = held_out_images(experiment.source, allow=self.allow, **experiment.data) if needs_images else None
    self.monitor = None
    if isinstance(objective, AdversarialGame):
      self.monitor = collapse.CollapseMonitor(objective, experiment.source, held_out, mesh)
    source = held_out or experiment.source
    n, cond = ROWS * self.columns, grid_cond(objective, ROWS * self.columns, source)
    keys = lambda index: rng.image_keys(experiment.keys()[2], index)  # noqa: E731

    def sample(variables: Variables):
      return to_uint8(objective.sample(variables, keys(np.arange(n)), cond))

    def previews(variables: Variables):
      rows = np.arange(min(10, len(source)), dtype=np.int32)
      images, conditions = source.read(rows)
      batch = Batch(to_float(images), conditions, rows, rows)
      return {name: to_uint8(grid) for name, grid in objective.previews(variables, batch, keys(rows)).items()}

    on_all = parallel.replicated(mesh)
    self.sample = jax.jit(sample, out_shardings=on_all)
    self.previews = jax.jit(previews, out_shardings=on_all) if isinstance(objective, HasPreviews) else lambda variables: {}

  def __call__(self, state: TrainState, step: int, due: Due) -> None:
    """Performs the actions that are due."""
    variables = self.experiment.variables(state)
    if due.save_averages:
      posthoc.save_averages(self.workdir, step, state.ema, self.experiment.average.stds, self.mesh)
    if due.evaluate:
      self.evaluate(state, variables, step)
    if due.show:
      self.show(variables, step)

  def evaluate(self, state: TrainState, variables: Variables, step: int) -> None:
    """Writes a card, logs its metrics, and saves the checkpoint if its FID is the lowest."""
    card = self.online_evaluator(variables, step)
    if (fid := card['metrics']['fid']) < self.best:
      self.best = fid
      self.best_checkpoints.save(state)
      self.best_checkpoints.wait()  # before its line is written, so that every logged checkpoint exists
    self.metrics.write(step, {f'evaluation/{name}': value for name, value in card['metrics'].items()})
    say(f'step {step}: FID {fid:.4g}, lowest {self.best:.4g} ({evaluation_summary(card)})')

  def show(self, variables: Variables, step: int) -> None:
    """Writes grids of samples and previews, and logs the collapse panel."""
    images, previews = np.asarray(self.sample(variables)), jax.device_get(self.previews(variables))
    if jax.process_index() == 0:
      for name, grid in previews.items():
        path = self.workdir / 'previews' / name / self.picture(step).name
        self.save(step, path, grid.reshape(-1, *grid.shape[2:]), grid.shape[1])
      self.save(step, self.picture(step), images, self.columns, self.captions)
    if self.monitor:
      panel = self.monitor(variables)
      self.metrics.write(step, {f'collapse/{name}': value for name, value in panel.items()})
      messages = collapse.flags(panel, is_gan=True)
      if not self.notice_given and (notice := collapse.overfitting_warning(panel)):  # once, because it persists
        messages, self.notice_given = [*messages, notice], True
      for text in messages:
        say(f'step {step}: {text}.')

  def save(self, step: int, path: Path, images: np.ndarray, columns: int, captions: Sequence[str] = ()) -> None:
    """Writes a grid of images to a file and to the log."""
    save_grid(path, images, columns, captions)
    self.metrics.write_picture(step, path)
    say(f'step {step}: {path}')

  def close(self) -> None:
    """Waits for the best checkpoint."""
    self.best_checkpoints.close()
