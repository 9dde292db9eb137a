"""Orbax checkpoints of the whole training state, which can be restored onto any set of devices.

Saving is asynchronous and atomic: if a process is killed while saving, the previous checkpoint remains. Each field of the
state is a separate item, so that sampling does not read the optimizer state. Checksums of all arrays are computed on the
devices before saving, because Orbax alone does not detect flipped bits. An offset that depends on the run and the step is
added to them, so that arrays of another run or step are detected, too.
"""

import contextlib
import hashlib
import logging as python_logging
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jaxtyping import Array, UInt32

from genjax.errors import UsageError
from genjax.files import write_whole
from genjax.parallel import replicated
from genjax.step import TrainState
from genjax.types import Tree


def arrays(tree: Tree) -> dict[str, tuple[int, ...]]:
  """The shape of each array by its path, independent of the types of containers."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator='/'): tuple(leaf.shape) for path, leaf in leaves}


class DamagedCheckpoint(UsageError):
  """The checkpoint in the folder `path` cannot be read, or does not contain what was saved."""

  def __init__(self, path: Path, what: str):
    super().__init__(f'{path}{what}')
    self.path = path


class NotSaved(UsageError):
  """A checkpoint could not be written."""


def checksum(x: Array) -> UInt32[Array, '']:
  """sum_i (2 i + 1) w_i mod 2^32 over the array's words w. A change of any single word changes it.

  Integer sums do not depend on the order, so the checksum does not depend on the sharding.
  """
  bits = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
  words = x.astype(bits) if x.dtype == bool else jax.lax.bitcast_convert_type(x, bits)
  index = jnp.zeros(x.shape, jnp.uint32)
  for axis, size in enumerate(x.shape):
    index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
  return jnp.sum(words.astype(jnp.uint32) * (2 * index + 1), dtype=jnp.uint32)


@jax.jit
def checksums(tree: Tree, offset: UInt32[np.ndarray, 'n'] | int = 0) -> UInt32[Array, 'n']:
  """Checksums of the arrays of a tree, in order, plus `offset`."""
  return jnp.stack([checksum(x) for x in jax.tree.leaves(tree)]) + jnp.asarray(offset, jnp.uint32)


UNCERTAIN = 'changed since saving (checksums differ), or of another step or run'


def offsets(run_id: str, step: int, n: int) -> UInt32[np.ndarray, 'n']:
  """The offsets that are added to the checksums of the `n` arrays of a field: an arithmetic progression.

  Its difference depends only on the run, and its first term on run and step, so both can be recovered from the
  checksums of undamaged arrays. With an empty `run_id` every offset is `step`.
  """
  start, slope = np.frombuffer(hashlib.sha256(run_id.encode()).digest()[:8], '<u4') if run_id else (0, 0)
  return ((int(start) + step + int(slope) * np.arange(n, dtype=np.uint64)) % 2**32).astype(np.uint32)


def origin_error(saved: UInt32[np.ndarray, 'n'], restored: UInt32[np.ndarray, 'n'], run_id: str, step: int) -> str:
  """Compares the checksums of arrays when they were `saved` and now, `restored`. Describes the error, '' if there is none.

  Checksums in checkpoints of earlier versions have no offsets. They are accepted if the arrays are undamaged.
  """
  offset, expected = saved - restored, offsets(run_id, step, len(restored))
  if (offset == expected).all() or not offset.any():
    return ''
  if len(offset) > 1 and (np.diff(offset) == np.diff(expected)).all():
    return f'of step {(step + int(offset[0]) - int(expected[0])) % 2**32}, not {step}'
  if len(offset) < 3:  # too few to distinguish the causes
    return UNCERTAIN
  return 'of another run' if (np.diff(offset, 2) == 0).all() else 'changed since saving (checksums differ)'


def silence_tensorstore() -> None:
  """Suppresses messages of futures that TensorStore leaves behind after a failed read or write, which itself raises.

  The futures run in threads after the call has returned, so this lasts until the process ends. Other messages are printed.
  """
  python_logging.getLogger('asyncio').addFilter(_not_of_tensorstore)  # added once, however often it is called
  hook = sys.unraisablehook
  if getattr(hook, 'silences_tensorstore', False):
    return

  def filtered_hook(unraisable):
    text, trace = str(unraisable.exc_value), unraisable.exc_traceback
    # Raised in a thread of TensorStore without Python frames, or by a read whose result is no longer needed.
    late = text == 'Event loop is closed' and trace and trace.tb_frame.f_code.co_name == 'call_soon_threadsafe'
    # A coroutine of Orbax that is deleted after the failed read it was part of.
    coroutine = getattr(getattr(unraisable, 'object', None), 'cr_code', None)
    if not late and 'TensorStore' not in text and not (coroutine and '/orbax/' in coroutine.co_filename):
      hook(unraisable)

  filtered_hook.silences_tensorstore = True
  sys.unraisablehook = filtered_hook


def _not_of_tensorstore(record: python_logging.LogRecord) -> bool:
  error = record.exc_info[1] if record.exc_info else None
  return not ('exception was never retrieved' in record.getMessage() and 'tensorstore' in str(error))


class Checkpoints:
  """Saves and restores checkpoints in `directory`. Must be closed, or the last save may be lost.

  Args:
    directory: created if missing, unless `read_only`.
    keep: the number of newest checkpoints to keep.
    keep_every: checkpoints whose step is a multiple of this are kept as well; 0: none.
    read_only: for sampling from a run that may be training.
    saved: a file that is written after each save. It shows that a run without checkpoints has lost them and is not new.
    run_id: the identity of the run in config.json; '' for a run of an earlier version.
  """

  def __init__(
    self,
    directory: str | Path,
    keep: int = 2,
    keep_every: int = 0,
    read_only: bool = False,
    saved: Path | None = None,
    run_id: str = '',
  ):
    silence_tensorstore()
    if read_only:
      options = ocp.CheckpointManagerOptions(
        create=False, read_only=True, save_interval_steps=0, enable_async_checkpointing=False
      )
    else:
      options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        keep_period=keep_every or None,
        async_options=ocp.AsyncOptions(post_finalization_callback=saved and (lambda: write_whole(saved, ''))),
      )
    self.directory, self.run_id = Path(directory).resolve(), run_id
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # suppresses a warning of Orbax about `read_only`
    try:
      self.manager = ocp.CheckpointManager(self.directory, options=options)
    finally:
      logging.set_verbosity(verbosity)

  def steps(self) -> list[int]:
    """The steps of all checkpoints, in ascending order."""
    return sorted(self.manager.all_steps())

  def save(self, state: TrainState) -> None:
    """Starts saving in the background. Skips steps that are already saved, and halted states.

    Raises:
      NotSaved: this save, or the previous one, could not be written.
    """
    step = int(state.step)
    if step < 0 or step in self.manager.all_steps():
      return
    fields = {name: getattr(state, name) for name in state.__dataclass_fields__}

    def item(name, tree):
      n = len(jax.tree.leaves(tree))
      sums = {'checksums': checksums(tree, offsets(self.run_id, step, n))} if n else {}
      return ocp.args.StandardSave({name: tree} | sums)

    items = {name: item(name, tree) for name, tree in fields.items()}
    try:
      self.manager.save(step, args=ocp.args.Composite(**items))
    except Exception as error:  # Orbax passes on the exceptions of TensorStore
      raise self.not_saved(error) from error

  def restore(self, step: int, like: Tree, sharding: Tree, names: tuple[str, ...] = ()) -> dict[str, Tree]:
    """Restores the fields `names` (default: all) of the state saved at `step`, laid out as `sharding`.

    Args:
      step: one of `steps()`.
      like: a TrainState of shapes, as from `jax.eval_shape`.
      sharding: one sharding for all arrays, or a TrainState of shardings.

    Raises:
      DamagedCheckpoint: it cannot be read, its checksums have changed since saving, or it is of another step or run.
      UsageError: its arrays have other names or shapes than those of `like`.
    """
    names = names or tuple(like.__dataclass_fields__)
    layouts = sharding if isinstance(sharding, TrainState) else jax.tree.map(lambda _: sharding, like)

    def target(name):
      shape = lambda x, layout: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout)  # noqa: E731
      tree = {name: jax.tree.map(shape, getattr(like, name), getattr(layouts, name))}
      leaves = jax.tree.leaves(tree)
      if leaves:
        tree['checksums'] = jax.ShapeDtypeStruct((len(leaves),), jnp.uint32, sharding=replicated(leaves[0].sharding.mesh))
      return tree

    items = {name: ocp.args.StandardRestore(target(name)) for name in names}
    try:
      restored = self.manager.restore(step, args=ocp.args.Composite(**items))
    except Exception as error:  # damage causes various exceptions in Orbax, TensorStore and json
      self.refuse_misfit(step, like, names)
      raise DamagedCheckpoint(self.directory / str(step), f' cannot be read ({first_line(error)}).') from error
    trees = {name: restored[name][name] for name in names}
    problems: dict[str, list[str]] = {}
    for name in names:
      if 'checksums' in restored[name]:
        saved, current = (np.asarray(jax.device_get(x)) for x in (restored[name]['checksums'], checksums(trees[name])))
        problems.setdefault(origin_error(saved, current, self.run_id, step), []).append(name)
    problems.pop('', None)
    if problems:
      certain = {problem: fields for problem, fields in problems.items() if problem != UNCERTAIN} or problems
      details = ', '.join(f'{", ".join(fields)} {problem}' for problem, fields in certain.items())
      raise DamagedCheckpoint(self.directory / str(step), f' contains {details}.')
    if 'step' in trees and int(trees['step']) != step:
      raise DamagedCheckpoint(self.directory / str(step), f' contains the state of step {int(trees["step"])}.')
    return trees

  def refuse_misfit(self, step: int, like: Tree, names: tuple[str, ...]) -> None:
    """Raises UsageError if the names and shapes of the saved arrays can be read and differ from those of `like`."""
    for name in names:
      try:
        saved, now = arrays(dict(self.manager.item_metadata(step)[name])[name]), arrays(getattr(like, name))
      except Exception:  # the metadata are damaged, too
        continue
      if saved != now:
        a, b = (f'{len(x)} arrays of {sum(map(math.prod, x.values())):,} numbers' for x in (saved, now))
        other = next(path for path in (*saved, *now) if saved.get(path) != now.get(path))
        raise UsageError(
          f'{self.directory / str(step)} does not match the model that this version builds from config.json: {name} has {a} '
          f'in the checkpoint and {b} in the model; the first difference is {other}.\n'
          'Use the version that trained it, or train a new run in another --workdir.'
        )

  def restore_newest(self, like: Tree, sharding: Tree, strict: bool = False) -> TrainState | None:
    """Restores the newest undamaged checkpoint; returns None if there are no checkpoints.

    Damaged checkpoints are reported and moved to `damaged/` next to the folder, so that their steps can be saved again.

    Raises:
      UsageError: the newest checkpoint is damaged and `strict` is set, or all are damaged. With several hosts, any damaged
        checkpoint raises, since other hosts may have read it without an error; after a restart all hosts agree.
    """
    folder = self.directory.parent / 'damaged'
    steps = self.steps()
    for step in reversed(steps):
      try:
        return TrainState(**self.restore(step, like, sharding))
      except DamagedCheckpoint as error:
        if strict or step == steps[0]:
          remedy = (
            'There is no older checkpoint: restore it' if step == steps[0] else 'Remove --strict to use the previous checkpoint'
          )
          raise UsageError(f'{error}\n{remedy}, or train a new run in another --workdir.') from None
        self.set_aside(step, folder)
        if jax.process_count() > 1:
          raise UsageError(f'{error}\nIt was moved to {folder}. Repeat the command to use the previous checkpoint.') from None
        print(f'warning: {error} It was moved to {folder}; using the previous checkpoint.', flush=True)
    return None

  def set_aside(self, step: int, folder: Path) -> None:
    """Moves a checkpoint to `folder`, unless another host has already moved it."""
    try:
      folder.mkdir(exist_ok=True)
    except FileExistsError:
      raise UsageError(
        f'{folder} is a file, but damaged checkpoints are moved to a folder of this name: remove the file.'
      ) from None
    target = folder / str(step)
    while target.exists():
      target = target.with_name(target.name + '_')
    with contextlib.suppress(FileNotFoundError):
      (self.directory / str(step)).rename(target)
    self.manager.reload()

  def wait(self) -> None:
    """Waits for the last save. Raises NotSaved if it could not be written."""
    try:
      self.manager.wait_until_finished()
    except Exception as error:
      raise self.not_saved(error) from error

  def close(self) -> None:
    """Waits for the last save, and closes the manager. Raises NotSaved if it could not be written."""
    try:
      self.wait()
    finally:
      self.manager.close()

  def not_saved(self, error: Exception) -> NotSaved:
    steps = self.steps()
    last = f'the last checkpoint is that of step {steps[-1]}' if steps else 'there is no earlier checkpoint'
    return NotSaved(
      f'{self.directory}: a checkpoint could not be written ({first_line(error)}); {last}.\n'
      'Free disk space, or check its mount, then repeat the command to resume.'
    )


def first_line(error: BaseException) -> str:
  """The first line of an exception's message, shortened. Messages of Orbax and TensorStore can be pages long."""
  lines = str(error).strip().splitlines()
  return (lines[0] if lines else type(error).__name__)[:200]
