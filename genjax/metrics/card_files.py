"""Reads and writes cards: names of their files, and defaults for entries that older versions lack."""

import functools
import hashlib
import json
import math
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from genjax.build import resolve
from genjax.config import differences_that_matter
from genjax.errors import UsageError
from genjax.files import refuse_links, write_json, writing
from genjax.metrics.card import UNKNOWN, VERSION, Card, is_external, settings
from genjax.schema import american, migrate_options
from genjax.workdir import read_config, run_id_of

NUMBER = (int, float)
SCHEMA = {
  'metrics': {name: NUMBER for name in ('fid', 'fid_infinity', 'kid', 'kid_low', 'kid_high', 'precision', 'recall')},
  'protocol': {
    'features': {'name': str, 'hash': str},
    'reference': {'images': int, 'data': str, 'split': str, 'hash': str},
    'samples': int,
  },
  'model': {'run': str, 'step': int, 'best': bool, 'options': dict, 'seed': int, 'ema_halflife_kimg': (*NUMBER, type(None))},
  'cost': {'images_per_second': NUMBER, 'training_device_seconds': NUMBER, 'training_kimg': NUMBER},
  'versions': dict,
  'device': str,
  'created': str,
}  # entries that are read from a card
IMAGES_SCHEMA = SCHEMA | {'model': {'images': str, 'hash': str, 'count': int, 'labels': bool}, 'cost': {}}
LIKELIHOOD_SCHEMA = {
  'metrics': {name: NUMBER for name in ('nll_nats', 'nll_low', 'nll_high', 'bits_per_dim')},
  'protocol': {'estimator': str, 'kind': str, 'measures': str, 'reference': {'images': int, 'hash': str}},
  'model': {'run': str, 'step': int, 'kimg': NUMBER},
  'created': str,
}
FLOOR_SCHEMA = {'fid': NUMBER, 'spread': NUMBER, 'labels': str}
REQUIRED_KEYS = {'metrics', 'protocol'}  # keys that every card has; JSON files without them are not cards


def tag(value: Any) -> str:
  """A hash of a JSON value, 8 hexadecimal digits."""
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def file_name(card: Card) -> str:
  """<features>_<step>_<settings>_<seed>.json; for external images <features>_images_<settings>.json."""
  model, settings_tag = card['model'], tag([card['protocol'], settings(card)])
  suffix = f'images_{settings_tag}' if is_external(card) else f'{model["step"]:08d}_{settings_tag}_{model["seed"]}'
  return f'{card["protocol"]["features"]["name"]}_{suffix}.json'


def open_folder(run: Path, config: dict[str, Any], out: str = '') -> Path:
  """The folder whose `evaluation/` contains the cards of a run: the run itself, or `out` with a copy of its config.json.

  `load` and comparisons accept both.

  Raises:
    UsageError: it cannot be written to, `evaluation` is a link, or `out` belongs to another run.
  """
  folder = Path(out or run)
  refuse_links(folder, 'evaluation')
  if out and (folder / 'config.json').exists():
    other = read_config(folder)
    if run_id_of(other) != run_id_of(config) or differences_that_matter(other, config):
      raise UsageError(f'--out {out} belongs to a run other than {run}: use another folder.')
  with writing(folder / 'evaluation', 'use another folder with --out DIR'):
    (folder / 'evaluation').mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder / 'evaluation'):
      pass
  if out:
    write_json(folder / 'config.json', config)
  return folder


def save(workdir: Path, card: Card) -> Path:
  """Writes a card into evaluation/ of a run, like `save_in`."""
  return save_in(workdir / 'evaluation', card)


def save_in(folder: Path, card: Card) -> Path:
  """Writes a card as `file_name` into a folder, replacing a card of the same settings and seed.

  If the replaced card has the same FID, it had the same samples; then its metrics that the new card lacks are kept, such as a
  likelihood or the classification accuracy.
  """
  path = folder / file_name(card)
  try:
    old = json.loads(path.read_text())
    same = math.isclose(old['metrics']['fid'], card['metrics']['fid'], rel_tol=1e-4)
  except (OSError, ValueError, KeyError, TypeError):
    same = False
  if same:
    kept = {name: value for name, value in old['metrics'].items() if name not in card['metrics']}
    nats = {'likelihood': old['model'].get('likelihood')} if 'nll_nats' in kept else {}
    twin = {'classification': old['classification']} if 'classification_accuracy' in kept and 'classification' in old else {}
    card = card | twin | {'metrics': card['metrics'] | kept, 'model': card['model'] | nats}
  return write(path, card)


def save_likelihood(workdir: Path, card: Card) -> Path:
  """Writes evaluation/likelihood/<estimator>_<step>_<settings>.json, which `load` does not read."""
  name = f'{card["protocol"]["estimator"]}_{card["model"]["step"]:08d}_{tag([card["protocol"], settings(card)])}.json'
  return write(workdir / 'evaluation' / 'likelihood' / name, card)


def write(path: Path, card: Card) -> Path:
  """Writes a card. Raises UsageError if the file cannot be written, or if metrics are not finite, which `read` rejects."""
  if wrong := [name for name, value in card['metrics'].items() if not is_finite_number(value)]:
    raise UsageError(f'{path} was not written: {", ".join(wrong)} must be finite.')
  write_json(path, card)
  return path


def load(workdir: Path) -> list[Card]:
  """The cards of a run, or of a folder that evaluate.py --out wrote, sorted by file name.

  Raises UsageError if there are none, or if one is damaged.
  """
  paths = list((Path(workdir) / 'evaluation').glob('*.json'))
  if not paths and not (Path(workdir) / 'config.json').exists():
    paths = list(Path(workdir).glob('*.json'))
  cards = read(workdir, paths, SCHEMA, IMAGES_SCHEMA)
  if not cards:
    check_run(workdir)
    raise UsageError(f'{workdir} has no evaluation. Run: python evaluate.py --run {workdir}')
  return cards


def grid_path(path: Path) -> Path:
  """The grid of the first images, for a card of external images at `path`."""
  return path.with_name(f'{path.stem}_grid.png')


def load_likelihoods(workdir: Path) -> list[Card]:
  """The cards that `save_likelihood` wrote. Raises UsageError if there are none, or if one is damaged."""
  cards = read(workdir, (Path(workdir) / 'evaluation' / 'likelihood').glob('*.json'), LIKELIHOOD_SCHEMA)
  if not cards:
    check_run(workdir)
    if (kind := without_likelihood(workdir)) is not None:
      raise UsageError(f'{workdir} is a run of {kind}, which has no likelihood: remove it from the comparison.')
    raise UsageError(f'{workdir} has no likelihood. Run: python evaluate.py --run {workdir} --metrics likelihood')
  return cards


def without_likelihood(workdir: Path) -> str | None:
  """The name of a run's objective if it has no likelihood; None otherwise, and for objectives of other packages."""
  name = read_config(workdir)['objective']['cls']
  try:
    return None if hasattr(resolve(name), 'nll') else name.rpartition('.')[2]
  except UsageError:
    return None


def check_run(workdir: Path) -> None:
  """Raises UsageError if `workdir` is not a run directory."""
  if not (Path(workdir) / 'config.json').is_file():
    raise UsageError(
      f'{workdir} is not a run directory: use one that train.py created, or a folder of cards that evaluate.py --images wrote.'
    )


def read(workdir: Path, paths: Iterable[Path], *schemas: dict[str, Any]) -> list[Card]:
  """The cards in these files, sorted by name. Files that are not cards are ignored, with a message.

  Raises:
    UsageError: a file cannot be read, or a card matches no schema or has infinite or NaN values.
  """
  cards = []
  for path in sorted(path for path in paths if path.is_file()):
    try:
      text = path.read_text(errors='replace')
    except OSError as error:
      raise UsageError(f'{path} cannot be read ({error.strerror}): make it readable, or move it to another folder.') from None
    try:
      card = json.loads(text)
      is_card = isinstance(card, dict) and card.keys() >= REQUIRED_KEYS
    except (ValueError, RecursionError):
      card, is_card = None, all(f'"{name}"' in text for name in REQUIRED_KEYS)
    if not is_card:
      print_ignored_file(path)
      continue
    card = with_default_entries(card, path) if any(matches_type(card, schema) for schema in schemas) else None
    if card is None or not all(map(is_finite_number, card['metrics'].values())):
      raise UsageError(f'{path} is damaged or a card of another kind: move it to another folder, or evaluate again.')
    card['model']['run'] = str(workdir)  # the run may have moved
    cards.append(card)
  return cards


@functools.cache  # once for each file
def print_ignored_file(path: Path) -> None:
  """Prints that a file is not used."""
  print(f'{path} is ignored: it is not a card of evaluate.py.')


def with_default_entries(card: Card, path: Path) -> Card | None:
  """A card with defaults for entries that its older schema lacks; None if an entry has the wrong type.

  Raises:
    UsageError: the schema is newer than this code.
  """
  version = card.get('schema', 0)
  if not matches_type(version, int):
    return None
  if version > VERSION:
    raise UsageError(f'{path} has schema {version}, but this version of genjax reads up to {VERSION}: update genjax.')
  lists = {'notes': [], 'flags': []}
  model = {} if is_external(card) else {'likelihood': None, 'guide': None, 'evaluations': None}
  card = lists | {'floor': None} | card | {'schema': version, 'model': model | card['model']}
  card['protocol'] = american(card['protocol'])
  if isinstance(options := card['model'].get('options'), dict):
    card['model']['options'] = migrate_options(options)
  if isinstance(kind := card['model'].get('likelihood'), str):
    card['model']['likelihood'] = american(kind)
  if isinstance(card['floor'], dict):
    card['floor'] = {'labels': UNKNOWN} | card['floor']
  if 'estimator' not in card['protocol']:
    card['protocol'] = {'held_out': UNKNOWN} | card['protocol']
  floor = card['floor']
  is_valid = floor is None or (
    matches_type(floor, FLOOR_SCHEMA) and is_finite_number(floor['fid']) and is_finite_number(floor['spread'])
  )
  return card if is_valid and all(isinstance(card[name], list) for name in lists) else None


def matches_type(value: Any, schema: Any) -> bool:
  """Whether a JSON value has the types of `schema`, which may leave out keys."""
  if isinstance(schema, dict):
    return isinstance(value, dict) and all(matches_type(value.get(key), item) for key, item in schema.items())
  return isinstance(value, schema) and (schema is bool or not isinstance(value, bool))


def is_finite_number(value: Any) -> bool:
  """Whether a JSON value is a finite number."""
  return matches_type(value, NUMBER) and math.isfinite(value)
