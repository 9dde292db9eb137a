"""Files that are whole or not there, and never somebody else's."""

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from genjax.errors import UsageError


def cache_folder() -> Path:
  """$GENJAX_CACHE, else ~/.cache/genjax: weights, classifiers, reference statistics, decoded images."""
  return Path(os.environ.get('GENJAX_CACHE', Path(os.environ.get('XDG_CACHE_HOME', '~/.cache')) / 'genjax')).expanduser()


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def refuse_links(folder: Path, name: str = '') -> None:
  """Raises UsageError for a link to a folder anywhere in `folder`, or as or in its folder `name`: what is written there would
  land somewhere else. `folder` itself may be a link."""
  found = [Path(path, inner) for path, folders, _ in os.walk(folder / name) for inner in folders]
  for path in ([folder / name] if name else []) + found:
    if path.is_symlink():
      raise UsageError(f'{path} is a link, and is not written to: put a folder in its place, or link the whole run directory.')


class NotWritten(UsageError):
  """A file that could not be written: no room, no permission."""


@contextlib.contextmanager
def writing(path: str | Path, remedy: str = '') -> Iterator[None]:
  """Raises NotWritten that names `path` where the system refuses what is done within: a full disk, a folder not writable."""
  try:
    yield
  except OSError as error:
    remedy = remedy or ('make room on that disk' if error.errno in NO_ROOM else 'give another place')
    raise NotWritten(f'{path} cannot be written ({error.strerror or error}): {remedy}.') from None


def write_whole(path: Path, content: str | bytes | Callable[[BinaryIO], None], remedy: str = '') -> None:
  """Parent folders are made. A kill leaves the old file. A link in its place, or in that of the file it is written through,
  is not followed. `content` may be a function that writes to the open file. Raises NotWritten as `writing`."""
  with writing(path, remedy):
    if path.exists() and not path.is_file():  # a folder, or a device such as /dev/null, which must not be replaced
      raise FileExistsError(errno.EEXIST, 'it is there, and is no file')
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    scratch.unlink(missing_ok=True)
    try:
      with open(scratch, 'xb') as file:
        if callable(content):
          content(file)
        else:
          file.write(content.encode() if isinstance(content, str) else content)
      scratch.replace(path)
    except BaseException:
      scratch.unlink(missing_ok=True)
      raise


def write_json(path: Path, value: Any) -> None:
  """`write_whole`, indented."""
  write_whole(path, json.dumps(value, indent=2) + '\n')
