"""Atomic file writes."""

import contextlib
import errno
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from genjax.errors import UsageError


def cache_folder() -> Path:
  """$GENJAX_CACHE, else ~/.cache/genjax: weights, classifiers, reference statistics, decoded images."""
  return Path(os.environ.get('GENJAX_CACHE', Path(os.environ.get('XDG_CACHE_HOME', '~/.cache')) / 'genjax')).expanduser()


DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNREACHABLE = (errno.ENOTCONN, errno.ESTALE, errno.EIO)  # lost storage, such as a mounted bucket, or a broken disk


def remedy_of(error: OSError) -> str:
  """What to do about a full disk or lost storage; '' for other errors."""
  if error.errno in UNREACHABLE:
    return 'check its disk or its mount'
  return 'free space on that disk' if error.errno in DISK_FULL else ''


def check_path(option: str, path: str | Path) -> None:
  """Raises UsageError, which names `option`, for a URL or a path on lost storage.

  Path makes a local folder named 'gs:' of a URL such as gs://bucket/run.
  """
  if re.match(r'[A-Za-z][A-Za-z0-9+-]+:/', str(path)):
    raise UsageError(f'{option} {path} is a URL, not a path: mount the bucket and use its path there (docs/devices.md).')
  try:
    os.stat(path)
  except ValueError:  # a null byte
    pass
  except OSError as error:
    if error.errno in UNREACHABLE:
      raise UsageError(f'{option} {path} cannot be read ({error.strerror}): {remedy_of(error)}.') from None


def refuse_links(folder: Path, name: str = '') -> None:
  """Raises UsageError if `folder / name` or a folder inside it is a symbolic link, since files would be written elsewhere.

  `folder` itself may be a link.
  """
  folders = [Path(path, inner) for path, names, _ in os.walk(folder / name) for inner in names]
  for path in ([folder / name] if name else []) + folders:
    if path.is_symlink():
      raise UsageError(f'{path} is a symbolic link: replace it with a folder, or link the whole run directory.')


def check_writable(folder: Path, remedy: str) -> None:
  """Raises NotWritten with `remedy` unless `folder` is writable or can be created. Does not create it."""
  with writing(folder, remedy):
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    with tempfile.TemporaryFile(dir=nearest):
      pass


class NotWritten(UsageError):
  """A file could not be written: the disk is full, or permission is missing."""


@contextlib.contextmanager
def optional(consequence: str) -> Iterator[None]:
  """For optional files, such as caches: if the block cannot write them, prints the reason and `consequence`."""
  try:
    yield
  except (NotWritten, OSError) as error:
    print(f'{error}\n{consequence}', flush=True)


@contextlib.contextmanager
def writing(path: str | Path, remedy: str = '') -> Iterator[None]:
  """Converts an OSError in its block, such as a full disk or a missing permission, to a NotWritten error that names `path`."""
  try:
    yield
  except OSError as error:
    remedy = remedy or remedy_of(error) or 'use another path'
    raise NotWritten(f'{path} cannot be written ({error.strerror or error}): {remedy}.') from None


def write_whole(path: Path, content: str | bytes | Callable[[BinaryIO], None], remedy: str = '') -> None:
  """Writes a file atomically: if the process is killed, the old file remains. Creates parent folders.

  Does not follow links in place of the file or of its temporary file. `content` may be a function that writes to the open
  file. Raises NotWritten like `writing`.
  """
  with writing(path, remedy):
    if path.exists() and not path.is_file():  # a folder, or a device such as /dev/null, must not be replaced
      raise FileExistsError(errno.EEXIST, 'it exists and is not a regular file')
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
  """Writes `value` as indented JSON with `write_whole`."""
  write_whole(path, json.dumps(value, indent=2) + '\n')
