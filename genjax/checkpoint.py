"""Checkpoints of the whole training state with Orbax, restored onto whatever devices there are now.

Saving is asynchronous and atomic: a process killed while it saves leaves the checkpoint before. Each field of the state
is stored by itself, so that sampling reads a model without its optimiser.
"""

from pathlib import Path

import jax
import orbax.checkpoint as ocp
from absl import logging
from jax.sharding import Sharding

from genjax.step import TrainState
from genjax.types import Tree


class Checkpoints:
  """The folder `directory`, of which the newest `keep` checkpoints are kept. Close it, or the last save may be lost."""

  def __init__(self, directory: str | Path, keep: int = 2, read_only: bool = False):
    if read_only:
      options = ocp.CheckpointManagerOptions(
        create=False, read_only=True, save_interval_steps=0, enable_async_checkpointing=False
      )
    else:
      options = ocp.CheckpointManagerOptions(max_to_keep=keep)
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # Orbax warns of `read_only` itself
    try:
      self.manager = ocp.CheckpointManager(Path(directory).resolve(), options=options)
    finally:
      logging.set_verbosity(verbosity)

  def steps(self) -> list[int]:
    """The steps there are checkpoints of, in order."""
    return sorted(self.manager.all_steps())

  def save(self, state: TrainState) -> None:
    """Starts saving; training may go on. A step already saved is not saved again."""
    step = int(state.step)
    if step not in self.manager.all_steps():
      items = {name: ocp.args.StandardSave({name: getattr(state, name)}) for name in state.__dataclass_fields__}
      self.manager.save(step, args=ocp.args.Composite(**items))

  def restore(self, step: int, like: Tree, sharding: Sharding, names: tuple[str, ...] = ()) -> dict[str, Tree]:
    """The fields `names` (default: all) of the state saved at `step`, laid out as `sharding`.

    Args:
      step: one of `steps()`.
      like: a TrainState of shapes, as from `jax.eval_shape`.
    """
    names = names or tuple(like.__dataclass_fields__)

    def target(name):
      tree = {name: getattr(like, name)}
      return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    items = {name: ocp.args.StandardRestore(target(name)) for name in names}
    restored = self.manager.restore(step, args=ocp.args.Composite(**items))
    return {name: restored[name][name] for name in names}

  def close(self) -> None:
    """Waits for the last save."""
    self.manager.close()
