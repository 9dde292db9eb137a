"""Files that are whole or not there, and never somebody else's."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


def cache_folder() -> Path:
  """$GENJAX_CACHE, else ~/.cache/genjax: weights, classifiers, reference statistics, decoded images."""
  return Path(os.environ.get('GENJAX_CACHE', Path(os.environ.get('XDG_CACHE_HOME', '~/.cache')) / 'genjax')).expanduser()


def write_whole(path: Path, content: str | bytes | Callable[[BinaryIO], None]) -> None:
  """A kill leaves the old file. A link in its place, or in that of the file it is written through, is not followed.

  `content` may be a function that writes to the open file, for what is large.
  """
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
