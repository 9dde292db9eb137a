"""What a run's data are: a hash of their content and the names of their classes, kept in its config.json.

Equal content may move to another path. Other content, or classes in another order, are refused.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from genjax.errors import UsageError

RECORDED = ('image_shape', 'size', 'hash', 'classes', 'files')  # in the section `data` of a run's config; no options
SMALL = 64 * 2**20  # bytes of image files of which all are hashed; of larger folders a sample is
SAMPLE = 256  # files of a sample, or examples of a prepared data set
HEAD = 64 * 2**10  # bytes of each
SKETCH = 64  # files that are kept one by one
FEW = 10  # per cent of them that may be others, one at least: bad files were removed or mended


class Contents(NamedTuple):
  """What tells data from others, whatever their path.

  `hash` is of the content. `files`, of a folder, are 'name:content' of SKETCH files in hashes, those whose names have the
  smallest: the share of them that two folders have in common is about that of all files (bottom-k sketches).
  """

  hash: str
  files: str = ''


@runtime_checkable
class HasContents(Protocol):
  """A source that says what it holds: the names of its classes (empty without names), and `contents`."""

  classes: tuple[str, ...]

  def contents(self) -> Contents: ...


def of_arrays(images: np.ndarray, labels: np.ndarray) -> Contents:
  """Of all bytes of images and labels."""
  digest = hashlib.sha256(f'{images.dtype} {images.shape}'.encode())
  for array in (images, labels.astype(np.int64)):
    digest.update(np.ascontiguousarray(array).data)
  return Contents(digest.hexdigest()[:16])


def of_files(root: Path, files: Sequence[Path], sizes: Sequence[int]) -> Contents:
  """Of the names and sizes of all files, and of all bytes where the folder is small, else of the heads of SAMPLE files."""
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
  """The first bytes of a file (None: all); of one that may not be read none, as reading it as an image says so."""
  try:
    with open(path, 'rb') as file:
      return file.read(size)
  except OSError:
    return b''


def of_examples(examples: Sequence[bytes], size: int) -> Contents:
  """Of the number of examples, and of some of them."""
  digest = hashlib.sha256(str(size).encode())
  for example in examples:
    digest.update(hashlib.sha256(example).digest())
  return Contents(digest.hexdigest()[:16])


def of_source(source) -> tuple[tuple[str, ...], Contents]:
  """The names of its classes, and its contents. Of a source that does not say what it holds: no names, and SAMPLE images."""
  if isinstance(source, HasContents):
    return source.classes, source.contents()
  return (), of_arrays(*source.read(np.linspace(0, len(source) - 1, min(len(source), SAMPLE)).astype(int)))


def recorded(source) -> dict[str, Any]:
  """What the section `data` of a run's config says of the source, beside its options."""
  classes, contents = of_source(source)
  found = {'image_shape': source.image_shape, 'size': len(source), 'hash': contents.hash, 'classes': list(classes)}
  return found | ({'files': contents.files} if contents.files else {})


def options(data: Mapping[str, Any]) -> dict[str, Any]:
  """The options of `open_data` in the section `data` of a run's config.

  Runs from before `data.background` go on as they began: transparency is dropped.
  """
  return {'background': ''} | {name: value for name, value in data.items() if name not in ('flip', *RECORDED)}


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, list[str]]:
  """Two sections `data`: why they are not of the same data ('' if they are), and what to tell the user if they are.

  Files of a folder may be removed, mended or added, as long as they are few: that is what errors about bad images ask for.
  """
  sizes = [data.get('size') for data in (old, new)]
  notes = [f'the data had {sizes[0]} images and has {sizes[1]}.'] if sizes[0] != sizes[1] else []
  if 'hash' not in old:
    return '', [*notes, 'this run is of a version that kept no hash of the data: whether they are the same was not checked.']
  if old.get('classes') != new['classes']:
    was, now = (', '.join(map(str, data.get('classes') or ['without names'])) for data in (old, new))
    return f'the classes of its data were {was}, and those of {new["name"]} are {now}', []
  if old.get('name') != new['name']:
    notes.insert(0, f'its data were at {old.get("name")} and are at {new["name"]}.')
  if old['hash'] == new['hash']:
    return '', notes
  kept, there = (dict(entry.partition(':')[::2] for entry in str(data.get('files', '')).split()) for data in (old, new))
  names = sorted(kept | there)[: max(len(kept), len(there))]
  others = sum(kept.get(name) != there.get(name) for name in names)
  if not names or others > max(1, len(names) * FEW // 100):
    return f'{new["name"]} holds other images ({sizes[0]} then, {sizes[1]} now; hash {old["hash"]}, now {new["hash"]})', []
  return '', [
    *notes,
    f'a few of its image files were changed, removed or added ({others} of the {len(names)} that are compared).',
  ]


def check_same(path: Path, data: Mapping[str, Any], source) -> None:
  """Says what is noteworthy about the data of the run at `path`, whose section `data` is given.

  Raises:
    UsageError: they are not those that it was trained on.
  """
  refusal, notes = changes(data, {**data, **recorded(source)})
  for note in notes:
    print(f'{path}: {note}')
  if refusal:
    raise UsageError(f'{path}: {refusal}. Restore what it was trained on.')
