"""Evaluation cards: metrics with the protocol by which they were measured. Only cards with the same protocol are compared.

A card is a plain dictionary, written as JSON:
  schema     version of the format; defaults fill in what cards of an older version lack
  metrics    name -> value
  protocol   settings that two comparable cards share: extractor, reference, number of samples
  model      the evaluated model: run, step, average of the parameters, sampler and its options, evaluations, seed; for
             external images: their path, hash and number, and whether they have labels
  floor      FID of equally many fresh real images (genjax/metrics/fid.py), its standard deviation, and the origin of their
             labels
  cost       seconds and device of training, sampling and evaluation
  notes      caveats, such as that the metrics are a quick estimate
  flags      messages about mode collapse (genjax/metrics/collapse.py); empty if none is detected
  classification   recipe of the classifier trained on samples, and test accuracy of the same classifier on real images
  run        path of the run, if the card was written to another folder (evaluate.py --out)
  versions, created
"""

import functools
import hashlib
import importlib.metadata
import json
import math
import platform
import tempfile
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import jax

from genjax.build import resolve
from genjax.conditioners import can_draw, num_classes
from genjax.config import differences, differences_that_matter
from genjax.data.sources.base import Source, data_hash
from genjax.environment import PACKAGES, git
from genjax.errors import UsageError
from genjax.files import refuse_links, write_json, writing
from genjax.logging import read_metrics
from genjax.metrics.extractors import Extractor
from genjax.metrics.reference import Reference, floor_coefficients
from genjax.schema import american, migrate_options
from genjax.types import Conditioner, Objective
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
VERSION = 2  # of the format; cards without a version have 0
MARKS = {'metrics', 'protocol'}  # keys that every card has; JSON files without them are not cards
UNKNOWN = 'unknown'  # value of entries that older cards lack: `held_out`, the test images, and `labels` of the floor
AS_REFERENCE, UNIFORM, OF_IMAGES = 'drawn as often as in the reference', 'drawn equally often', 'of the images'  # labels
NO_LABELS = 'none'
OWN = 'of the fresh images'  # labels of a floor, if not AS_REFERENCE
QUICK = 10_000  # samples below which a result is a quick estimate
SMALL_FLOOR = 0.1  # fraction of FID; the notes state a larger floor
KNOWN_COVARIANCE = 1.5  # images per dimension of the features from which the floor is accurate to 10 % (docs/metrics.md)
Card = dict[str, Any]


def protocol(
  extractor: Extractor,
  reference: Reference,
  samples: int,
  held_out: Reference | None,
  labels: str,
) -> dict[str, Any]:
  """The entry `protocol`, which comparable cards share except for the origin of `labels`.

  `held_out`: the test images that copies, likelihood and accuracies use.
  """
  return {
    'features': {'name': extractor.name, 'hash': extractor.hash, 'resizer': extractor.resizer, **extractor.details},
    'reference': reference.protocol,
    'held_out': {name: held_out.protocol[name] for name in ('images', 'hash')} if held_out else None,
    'samples': samples,
    'labels': labels,
    'kid': '100 subsets of 1,000, or of half',
    'precision, recall': '3rd neighbor, of 10,000 at most',
    'density, coverage': '5th neighbor, of 10,000 at most',
  }


def origin_of_labels(conditioner: Conditioner, reference_classes: int, split: str = 'train') -> str:
  """How labels, or conditions that cannot be drawn, are chosen for samples of a model with this conditioner."""
  if not can_draw(conditioner):
    return f'those of the examples of the {split} split, in random order'
  if not (known := num_classes(conditioner)):
    return NO_LABELS
  return AS_REFERENCE if known == reference_classes else UNIFORM


def model(run: Path, step: int, train: dict[str, Any], objective: Objective, **more: Any) -> dict[str, Any]:
  """The entry `model`: a checkpoint of a run whose config has the section `train`, and the entries `more`."""
  return {
    'run': str(run),
    'step': step,
    'kimg': step * train['batch_size'] / 1000,
    'best': False,
    'objective': type(objective).__name__,
    'ema_halflife_kimg': train['ema_halflife'] / 1000,
    'likelihood': None,
    'guide': None,
  } | more


def external_model(path: Path, source: Source) -> dict[str, Any]:
  """The entry `model` of a card of external images."""
  return {
    'images': str(path),
    'hash': data_hash(source),
    'count': len(source),
    'labels': bool(source.num_classes),
  }


def is_external(card: Card) -> bool:
  """Whether a card belongs to external images instead of a run."""
  return 'images' in card['model']


def environment() -> dict[str, Any]:
  """Device, versions, and the schema of the card."""
  devices = jax.devices()
  versions = {name: importlib.metadata.version(name) for name in (*PACKAGES, 'scipy')}
  return {
    'schema': VERSION,
    'device': f'{len(devices)} x {devices[0].device_kind}',
    'versions': versions | {'python': platform.python_version(), 'genjax': git('rev-parse', 'HEAD')},
    'created': time.strftime('%Y-%m-%dT%H:%M:%S%z'),
  }


def training_cost(workdir: Path, step: int) -> dict[str, Any]:
  """Device-seconds and thousands of images up to `step`, from metrics.jsonl; compilation is not counted."""
  seconds, kimg = 0.0, 0.0
  for line in read_metrics(workdir):
    if kimg < line['kimg'] and line.get('images_per_second'):
      end = line['kimg'] * min(step / line['step'], 1)  # a checkpoint between two lines
      seconds += 1000 * max(end - kimg, 0) / line['images_per_second']
      kimg = max(kimg, end)
      if step <= line['step']:
        break
  try:
    device = json.loads((workdir / 'environment.json').read_text())['devices'][0]
    seconds *= int(device.split(' x ')[0])
  except (OSError, ValueError, KeyError, IndexError):
    device = 'unknown'
  return {'training_device_seconds': round(seconds, 3), 'training_kimg': kimg, 'training_device': device}


def likelihood_protocol(estimator: str, kind: str, test: Source, images: int) -> dict[str, Any]:
  """The entry `protocol` of a likelihood, which comparable likelihoods share."""
  data = {'data': test.name, 'split': 'test', 'shape': list(test.image_shape), 'hash': data_hash(test), 'images': images}
  kind, measures = kind.split(', of ')
  return {'estimator': estimator, 'kind': kind, 'measures': measures, 'seed': 0, 'reference': data}


def tag(value: Any) -> str:
  """A hash of a JSON value, 8 hexadecimal digits."""
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def measured(card: Card, but: Collection[str] = ()) -> dict[str, Any]:
  """The part of the protocol that comparable cards share, except for the entries `but`.

  It lacks the path of the reference, which its hash identifies, and the origin of labels, since external images bring labels.
  """
  reference = {name: value for name, value in card['protocol']['reference'].items() if name != 'data'}
  return {name: value for name, value in (card['protocol'] | {'reference': reference}).items() if name not in ('labels', *but)}


def settings(card: Card) -> dict[str, Any]:
  """The evaluated model without the seed: cards with equal settings are repetitions."""
  return {name: value for name, value in card['model'].items() if name not in ('run', 'images', 'seed', 'likelihood')}


def file_name(card: Card) -> str:
  """<features>_<step>_<settings>_<seed>.json; for external images <features>_images_<settings>.json."""
  model, settings_tag = card['model'], tag([card['protocol'], settings(card)])
  suffix = f'images_{settings_tag}' if is_external(card) else f'{model["step"]:08d}_{settings_tag}_{model["seed"]}'
  return f'{card["protocol"]["features"]["name"]}_{suffix}.json'


def open_folder(run: Path, config: dict[str, Any], out: str = '') -> Path:
  """The folder whose `evaluation/` holds the cards of a run: the run itself, or `out` with a copy of its config.json.

  `load` and comparisons accept both.

  Raises:
    UsageError: it cannot be written to, `evaluation` is a link, or `out` belongs to another run.
  """
  folder = Path(out or run)
  refuse_links(folder, 'evaluation')
  if out and (folder / 'config.json').exists():
    other = read_config(folder)
    if run_id_of(other) != run_id_of(config) or differences_that_matter(other, config):
      raise UsageError(f'--out {out} does not belong to {run} but to another run: use another folder.')
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
  if wrong := [name for name, value in card['metrics'].items() if not number(value)]:
    raise UsageError(f'{path} was not written: {", ".join(wrong)} are not finite.')
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
      f'{workdir} is not a run directory: use one that train.py made, or a folder of cards that evaluate.py --images wrote.'
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
      is_card = isinstance(card, dict) and card.keys() >= MARKS
    except (ValueError, RecursionError):
      card, is_card = None, all(f'"{name}"' in text for name in MARKS)
    if not is_card:
      print_ignored_file(path)
      continue
    card = complete(card, path) if any(matches_type(card, schema) for schema in schemas) else None
    if card is None or not all(map(number, card['metrics'].values())):
      raise UsageError(f'{path} is damaged or a card of another kind: move it to another folder, or evaluate again.')
    card['model']['run'] = str(workdir)  # the run may have moved
    cards.append(card)
  return cards


@functools.cache  # once for each file
def print_ignored_file(path: Path) -> None:
  """Prints that a file is not used."""
  print(f'{path} is not a card of evaluate.py: ignored.')


def complete(card: Card, path: Path) -> Card | None:
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
  is_valid = floor is None or (matches_type(floor, FLOOR_SCHEMA) and number(floor['fid']) and number(floor['spread']))
  return card if is_valid and all(isinstance(card[name], list) for name in lists) else None


def matches_type(value: Any, schema: Any) -> bool:
  """Whether a JSON value has the types of `schema`, which may leave out keys."""
  if isinstance(schema, dict):
    return isinstance(value, dict) and all(matches_type(value.get(key), item) for key, item in schema.items())
  return isinstance(value, schema) and (schema is bool or not isinstance(value, bool))


def number(value: Any) -> bool:
  """Whether a JSON value is a finite number."""
  return matches_type(value, NUMBER) and math.isfinite(value)


def check_same(a: Card, b: Card, but: Collection[str] = ()) -> None:
  """Raises UsageError, naming the differences, if the protocols of two cards differ outside the entries `but`."""
  found = differences(measured(a, but), measured(b, but))
  if found:
    names = [f'{card["model"]["run"]}' for card in (a, b)]
    theirs, protocols = {name for name, _, _ in found}, (a['protocol'], b['protocol'])
    remedy = 'Evaluate both with the same --features, --samples, --split and --reference_images.'
    if 'estimator' in protocols[0]:
      remedy = 'The likelihoods are of different images or of different numbers of images: evaluate both on the same images.'
      if theirs == {'measures'}:
        remedy = 'objective.likelihood decides in training what a likelihood measures: these two cannot be compared.'
    elif theirs == {'features.hash'} and protocols[0]['features']['name'] == 'classifier':
      remedy = 'The classifiers were trained separately: copy the file in $GENJAX_CACHE/classifiers to the other machine.'
    elif theirs == {'held_out.hash'}:
      remedy = 'Copies, likelihood and accuracies depend on the test images, which differ: evaluate both with the same.'
    elif theirs == {'held_out'}:
      remedy = 'Only one of them names its test images: evaluate both again, on the same data.'
    elif 'reference.hash' in theirs and 'reference.split' not in theirs and 'reference.images' not in theirs:
      remedy = 'The models were trained on different images: their metrics cannot be compared.'
      if is_external(a) or is_external(b):
        remedy = 'Their real images differ: evaluate external images with the --data, --resolution and --channels of the run.'
      found = differences(*protocols)
    found = sorted(found, key=lambda difference: not difference[0].startswith('reference'))
    shown = '; '.join(f'{name}: {json.dumps(x)} and {json.dumps(y)}' for name, x, y in found[:5])
    shown += f'; and {len(found) - 5} more' if len(found) > 5 else ''
    raise UsageError(f'{names[0]} and {names[1]} were measured by different protocols ({shown}).\n{remedy}')


def fid_floor(reference: Reference, samples: int, labeled: bool) -> dict[str, Any]:
  """The entry `floor`: FID that `samples` fresh images would have against this reference.

  `labeled`: their labels are drawn with the frequencies of the reference, as for a model conditioned on labels. Otherwise the
  frequencies of classes vary, which increases FID.
  """
  floor = floor_coefficients(reference, labeled).floor(reference.moments.n, samples)
  return floor._asdict() | {'labels': AS_REFERENCE if labeled else OWN}


def fresh_images(samples: int, floor: dict[str, Any]) -> str:
  """Describes the images of a `fid_floor`."""
  labels = ' with the label frequencies of the reference' if floor['labels'] == AS_REFERENCE else ''
  return f'{samples} fresh real images{labels}'


def notes(samples: int, reference: Reference, extractor: Extractor, floor: dict[str, Any], fid: float) -> list[str]:
  """Caveats of these metrics; `floor` is the `fid_floor` of the reference."""
  found = [extractor.note] if extractor.note else []
  n, d = reference.moments.n, len(reference.moments.mean)
  if (fewest := min(samples, n)) <= d:
    found.append(
      f'{fewest} images do not determine the covariance of {d} features, and FID depends mostly on their number; use more '
      'images, or KID'
    )
  if samples < QUICK:
    found.append(
      f'a quick estimate: with fewer than {QUICK} samples FID is biased upwards, inception score and coverage downwards'
    )
  if samples < QUICK or floor['fid'] > SMALL_FLOOR * fid:
    found.append(
      f'floor of FID: {fresh_images(samples, floor)} would have {floor["fid"]:.3g} (standard deviation '
      f'{floor["spread"]:.2g}), not 0, against these {n}; smaller differences of FID do not rank models'
    )
    if fewest < KNOWN_COVARIANCE * d:
      found.append(
        f'this floor is inaccurate, and often too low: {fewest} images are fewer than {KNOWN_COVARIANCE} per feature of {d}'
      )
  return found


def table(card: Card) -> str:
  """A card for the terminal."""
  protocol, model, metrics = card['protocol'], card['model'], card['metrics']
  features, real = protocol['features'], protocol['reference']
  accuracy = f', test accuracy {features["test_accuracy"]:.3f}' if 'test_accuracy' in features else ''
  if is_external(card):
    labels = 'with labels' if model['labels'] else 'without labels'
    lines = [f'{model["images"]} ({model["hash"]}), {protocol["samples"]} of {model["count"]} images, {labels}']
  else:
    lines = [
      f'{model["run"]} step {model["step"]} ({model["kimg"]:g} kimg), {protocol["samples"]} samples, seed {model["seed"]}',
      f'  sampler: {json.dumps(model["options"])}, {model["evaluations"]} network evaluations per image',
    ]
  lines += [
    f'  features: {features["name"]} {features["hash"]}{accuracy}',
    f'  reference: {real["images"]} images of {real["data"]} {real["split"]} ({real["hash"]})',
  ]
  lines += [f'  {note}' for note in card.get('notes', []) + [f'collapse: {flag}' for flag in card.get('flags', [])]]
  of = {'nll_nats': f'  ({model.get("likelihood")})'}
  if 'classification' in card:
    of['classification_accuracy'] = f'  (trained on real images: {card["classification"]["test_accuracy"]:.5g})'
  return '\n'.join(lines + [f'  {name:28} {value:.5g}{of.get(name, "")}' for name, value in metrics.items()])


def likelihood_table(card: Card) -> str:
  """A card of a likelihood, for the terminal."""
  protocol, model = card['protocol'], card['model']
  real = protocol['reference']
  lines = [
    f'{model["run"]} step {model["step"]} ({model["kimg"]:g} kimg)',
    f'  {protocol["estimator"]}: {protocol["kind"]}, of {protocol["measures"]}',
    f'  reference: {real["images"]} images of {real["data"]} {real["split"]} ({real["hash"]})',
  ]
  return '\n'.join(lines + [f'  {name:28} {value:.5g}' for name, value in card['metrics'].items()])
