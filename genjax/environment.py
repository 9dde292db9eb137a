"""What a run ran on: versions, devices, commit, command."""

import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import jax

from genjax.files import write_json

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'tensorflow-datasets')


def write_environment(workdir: Path) -> None:
  """Versions, devices, commit and command, with those of earlier sessions below them."""
  path = workdir / 'environment.json'
  try:
    last = json.loads(path.read_text())
    earlier = [{k: v for k, v in last.items() if k != 'earlier'}, *last['earlier']]
  except (OSError, ValueError, KeyError, AttributeError, TypeError):  # a new run, or a truncated file
    earlier = []
  devices = jax.devices()
  now = {
    'started': time.strftime('%Y-%m-%dT%H:%M:%S%z'),
    'command': sys.argv,
    'commit': git('rev-parse', 'HEAD'),
    'uncommitted_changes': bool(git('status', '--porcelain')),
    'devices': [f'{len(devices)} x {devices[0].device_kind}'],
    'processes': jax.process_count(),
    'platform': platform.platform(),
    'python': platform.python_version(),
    'versions': {name: importlib.metadata.version(name) for name in PACKAGES},
  }
  write_json(path, now | {'earlier': earlier})


def git(*words: str) -> str | None:
  """The output of a git command in the checkout of genjax; None without git or without a checkout."""
  try:
    done = subprocess.run(['git', *words], capture_output=True, text=True, cwd=Path(__file__).parent, check=True)
  except (OSError, subprocess.CalledProcessError):
    return None
  return done.stdout.strip() or None
