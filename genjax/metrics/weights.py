"""Trees of arrays as npz files: 'a/b/c' -> array. Writes are atomic, and pickles are not used."""

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
  """Saves nested dictionaries of arrays. The write is atomic: an interrupted write leaves the old file."""
  flat = {'/'.join(str(part.key) for part in parts): np.asarray(x) for parts, x in jax.tree_util.tree_leaves_with_path(tree)}
  file = io.BytesIO()
  np.savez(file, **flat)
  write_whole(path, file.getvalue(), 'set GENJAX_CACHE to another folder')


def load_tree(path: Path, keys: Collection[str] = ()) -> Tree | None:
  """Loads a tree; None if there is no such file. Raises UsageError if its first level differs from `keys`, unless empty."""
  if not os.path.isfile(path):  # also False without permission to read its folder
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
    raise UsageError(f'{path} cannot be read ({error}): delete it; it will be created again.') from None
  if keys and set(tree) != set(keys):
    raise UsageError(f'{path} contains {", ".join(sorted(tree)) or "nothing"}, not {", ".join(sorted(keys))}: delete it.')
  return tree
