"""Files that are whole or not there, and never somebody else's."""

import json
import os
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: str | bytes) -> None:
  """A kill leaves the old file. A link in its place, or in that of the file it is written through, is not followed."""
  scratch = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  scratch.unlink(missing_ok=True)
  try:
    with open(scratch, 'xb') as file:
      file.write(content.encode() if isinstance(content, str) else content)
    scratch.replace(path)
  except BaseException:
    scratch.unlink(missing_ok=True)
    raise


def write_json(path: Path, value: Any) -> None:
  """`write_whole`, indented."""
  write_whole(path, json.dumps(value, indent=2) + '\n')
