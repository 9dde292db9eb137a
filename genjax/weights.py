"""Files of arrays, without pickles: trees as npz files, copies of frozen networks, weights of exports."""

import hashlib
import io
import os
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from genjax.errors import UsageError
from genjax.files import write_whole
from genjax.types import Tree, Variables

WEIGHTS = 'weights.safetensors'  # of an export


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


def tree_hash(tree: Tree) -> str:
  """sha256 (16 digits) over the paths, types, shapes and bytes of a tree's arrays."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    array = np.asarray(leaf)
    digest.update(f'{jax.tree_util.keystr(path)} {array.dtype} {array.shape}'.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()[:16]


def copy_path(workdir: Path, name: str) -> Path:
  return workdir / 'frozen' / f'{name}.npz'


def read_copy(workdir: Path, name: str, expected: str) -> Variables:
  """The copy in a run directory. Raises UsageError if it is missing, or if its hash differs from that in config.json."""
  path = copy_path(workdir, name)
  try:
    tree = load_tree(path)
  except UsageError:
    raise UsageError(f'{path}, the frozen networks of {name!r}, is damaged: restore it.') from None
  if tree is None:
    raise UsageError(f'{path} is missing: the run needs the frozen networks of {name!r}; restore it.')
  variables = Variables(tree.get('params', {}), tree.get('buffers', {}))
  if tree_hash(variables._asdict()) != expected:
    raise UsageError(f'{path} has changed: its hash is not the one in config.json; restore it.')
  return variables


def read_copies(workdir: Path, config: Mapping[str, Any]) -> dict[str, Variables]:
  """The frozen variables of a run, by name. Raises UsageError like `read_copy`."""
  section = config.get('frozen') or {}
  return {name: jax.tree.map(np.asarray, read_copy(workdir, name, record['hash'])) for name, record in section.items()}


def is_export(folder: Path) -> bool:
  """Whether `folder` is an export instead of a run directory."""
  return (folder / WEIGHTS).is_file()


def load_variables(folder: Path, config: Mapping[str, Any], like: Variables) -> Variables:
  """The variables of an export, with the structure and shapes of `like`.

  Raises:
    UsageError: the file is damaged, or its arrays are not those of the model in config.json.
  """
  path = folder / WEIGHTS
  try:
    arrays = load_file(path)
  except (OSError, SafetensorError) as error:
    raise UsageError(f'{path} cannot be read ({error}): copy it again.') from None
  record = config.get('export')
  if not isinstance(record, dict) or not isinstance(record.get('step'), int):
    raise UsageError(f'{folder}/config.json has no section export: copy it again.')
  expected = flatten(like._asdict())
  for name in sorted(expected.keys() | arrays.keys()):
    shapes = [tuple(tree[name].shape) if name in tree else None for tree in (expected, arrays)]
    if shapes[0] != shapes[1]:
      raise UsageError(f'{path}: {name} has the shape {shapes[1]}, but the model in config.json has {shapes[0]}.')
  if tree_hash(arrays) != record.get('hash'):
    raise UsageError(f'{path} has changed: its hash is not the one in config.json. Copy it again.')
  leaves = [jax.numpy.asarray(arrays[name], leaf.dtype) for name, leaf in expected.items()]
  return Variables(**jax.tree.unflatten(jax.tree.structure(like._asdict()), leaves))


def flatten(tree: Tree) -> dict[str, Any]:
  """'params/model/...' -> array, in the order of `jax.tree.leaves`."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}
