"""The record of a run's data in its config.json: a hash of their content, and the names of the classes.

The same content may move to another path. Different content, or classes in a different order, are errors.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from genjax.errors import UsageError

RECORDED = (
  'image_shape',
  'size',
  'hash',
  'classes',
  'cond',
  'files',
)  # keys in the section `data` of a run's config that are not options
SMALL = 64 * 2**20  # bytes of image files up to which a folder is hashed completely; larger folders are sampled
SAMPLE = 256  # files in a sample, or examples of a prepared data set
HEAD = 64 * 2**10  # bytes that are hashed of each sampled file
SKETCH = 64  # files that are recorded individually
MAX_CHANGED = 10  # percent of them that may change (at least one): bad files are removed or repaired


class Contents(NamedTuple):
  """Identifies data independently of their path.

  `hash` is a hash of the content. `files` describes SKETCH files of a folder, those whose names have the smallest hashes, as
  hashes 'name:content'. The fraction that two folders share estimates the fraction of all files they share (bottom-k sketch).
  """

  hash: str
  files: str = ''


@runtime_checkable
class HasContents(Protocol):
  """A source that identifies its content."""

  def contents(self) -> Contents: ...


def hash_arrays(images: np.ndarray, cond: Mapping[str, np.ndarray]) -> Contents:
  """Hashes all bytes of images and conditions."""
  digest = hashlib.sha256(f'{images.dtype} {images.shape}'.encode())
  for array in (images, *arrays_of(cond, len(images), np.int64)):
    digest.update(np.ascontiguousarray(array).data)
  return Contents(digest.hexdigest()[:16])


def arrays_of(cond: Mapping[str, np.ndarray], n: int, dtype: type) -> list[np.ndarray]:
  """What is hashed of the conditions of `n` examples: labels in `dtype`, zeros if there are none, then other fields by name."""
  labels = np.asarray(cond['label'], dtype) if 'label' in cond else np.zeros(n, dtype)
  return [labels, *(np.asarray(cond[name]) for name in sorted(cond) if name != 'label')]


def hash_files(root: Path, files: Sequence[Path], sizes: Sequence[int]) -> Contents:
  """Hashes the names and sizes of all files, and all bytes of a small folder or the heads of SAMPLE files of a large one."""
  names = [os.fsencode(path.relative_to(root).as_posix()) for path in files]
  small = sum(sizes) <= SMALL
  digest = hashlib.sha256(b'\n'.join(b'%s %d' % pair for pair in zip(names, sizes, strict=True)))
  for path in files if small else files[:: -(-len(files) // SAMPLE)]:
    digest.update(head(path, None if small else HEAD))
  chosen = sorted(
    (hashlib.sha256(name).hexdigest()[:12], path, size) for name, path, size in zip(names, files, sizes, strict=True)
  )
  entries = [
    f'{name}:{hashlib.sha256(b"%d" % size + head(path, HEAD)).hexdigest()[:8]}' for name, path, size in chosen[:SKETCH]
  ]
  return Contents(digest.hexdigest()[:16], ' '.join(entries))


def head(path: Path, size: int | None) -> bytes:
  """The first bytes of a file (None: all). Empty if it cannot be read: reading it as an image raises the error."""
  try:
    with open(path, 'rb') as file:
      return file.read(size)
  except OSError:
    return b''


def hash_examples(examples: Sequence[bytes], size: int) -> Contents:
  """Hashes the number of examples, and some of them."""
  digest = hashlib.sha256(str(size).encode())
  for example in examples:
    digest.update(hashlib.sha256(example).digest())
  return Contents(digest.hexdigest()[:16])


def describe(source) -> Contents:
  """The contents of a source. For a source without `contents`: a hash of SAMPLE examples."""
  if isinstance(source, HasContents):
    return source.contents()
  return hash_arrays(*source.read(np.linspace(0, len(source) - 1, min(len(source), SAMPLE)).astype(int)))


def unnumbered(classes: Sequence[str] | None) -> list[str]:
  """Names of classes, or an empty list if these are '0', '1', ..., which classes without names have."""
  names = list(map(str, classes or ()))
  return [] if names == [str(i) for i in range(len(names))] else names


def recorded(source) -> dict[str, Any]:
  """What the section `data` of a run's config records of the source, in addition to its options."""
  contents, classes = describe(source), list(source.example.classes)
  record = {'image_shape': source.image_shape, 'size': len(source), 'hash': contents.hash, 'classes': classes}
  record['cond'] = {name: [x.dtype.name, list(x.shape)] for name, x in source.example.cond.items()}
  return record | ({'files': contents.files} if contents.files else {})


def options(data: Mapping[str, Any]) -> dict[str, Any]:
  """The options of `open_data` in the section `data` of a run's config.

  For runs from before `data.background`, transparency is dropped, as it was when they began.
  """
  return {'background': ''} | {name: value for name, value in data.items() if name not in ('flip', *RECORDED)}


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, list[str]]:
  """Compares two sections `data`. Returns why the data differ ('' if they do not), and messages for the user otherwise.

  A few files of a folder may be removed, repaired or added, since errors about bad images ask for it.
  """
  sizes = [data.get('size') for data in (old, new)]
  notes = [f'the data had {sizes[0]} images and has {sizes[1]}.'] if None not in sizes and sizes[0] != sizes[1] else []
  if 'hash' not in old:
    return '', [*notes, 'this run was recorded without hashes of its data, so the data were not checked.']
  names = [unnumbered(data.get('classes')) for data in (old, new)]
  if names[0] != names[1]:
    was, now = (', '.join(part or ['without names']) for part in names)
    return f'its data had the classes {was}, and {new["name"]} has {now}', []
  if old.get('name') != new['name']:
    notes.insert(0, f'its data have moved from {old.get("name")} to {new["name"]}.')
  if old['hash'] == new['hash']:
    return '', notes
  before, after = (dict(entry.partition(':')[::2] for entry in str(data.get('files', '')).split()) for data in (old, new))
  names = sorted(before | after)[: max(len(before), len(after))]
  changed = sum(before.get(name) != after.get(name) for name in names)
  if not names or changed > max(1, len(names) * MAX_CHANGED // 100):
    compared = f', {changed} of the {len(names)} files that are compared differ' if names else ''
    hashes = f'hash {old["hash"]}, now {new["hash"]}'
    return f'{new["name"]} contains different images ({sizes[0]} then, {sizes[1]} now{compared}; {hashes})', []
  return '', [
    *notes,
    f'a few of its image files were changed, removed or added ({changed} of the {len(names)} that are compared).',
  ]


def check_same(path: Path, data: Mapping[str, Any], source, name: str) -> None:
  """Checks that `source`, opened by `name`, has the data that the run at `path` was trained on, as its section `data` records.

  Prints a message for changes that are allowed.

  Raises:
    UsageError: the data differ.
  """
  refusal, notes = changes(data, {**data, **recorded(source), 'name': name})
  if not refusal and list(source.image_shape) != data['image_shape']:
    refusal = f'{name} has images {list(source.image_shape)}, and those trained on were {data["image_shape"]}'
  for note in notes:
    print(f'{path}: {note}')
  if refusal:
    raise UsageError(f'{path}: {refusal}. Restore the data that it was trained on, or pass their path with --data.')
