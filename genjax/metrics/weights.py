"""Trees of arrays as npz files: 'a/b/c' -> array. Whole or not at all, and no pickle."""

import io
import os
import zipfile
from collections.abc import Collection
from pathlib import Path

import jax
import numpy as np

from genjax.errors import UsageError
from genjax.files import write_whole
from genjax.types import Tree


def save_tree(path: Path, tree: Tree) -> None:
  """Nested dictionaries of arrays. A kill leaves the old file; a file of another process is replaced by its like."""
  flat = {'/'.join(str(part.key) for part in parts): np.asarray(x) for parts, x in jax.tree_util.tree_leaves_with_path(tree)}
  file = io.BytesIO()
  np.savez(file, **flat)
  write_whole(path, file.getvalue(), 'set GENJAX_CACHE to another folder')


def load_tree(path: Path, keys: Collection[str] = ()) -> Tree | None:
  """The tree, whose first level is `keys` if there are any; None if there is no such file.

  Raises UsageError if the file holds something else.
  """
  if not os.path.isfile(path):  # also without permission to look into its folder
    return None
  tree = {}
  try:
    with open(path, 'rb') as raw, np.load(raw, allow_pickle=False) as file:
      for name in file.files:
        *parents, last = name.split('/')
        node = tree
        for parent in parents:
          node = node.setdefault(parent, {})
        node[last] = file[name]
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
    raise UsageError(f'{path} cannot be read ({error}): delete it, it will be made again.') from None
  if keys and set(tree) != set(keys):
    raise UsageError(f'{path} holds {", ".join(sorted(tree)) or "nothing"}, not {", ".join(sorted(keys))}: delete it.')
  return tree
