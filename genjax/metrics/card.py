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

import importlib.metadata
import json
import platform
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax

from genjax.build import as_spec
from genjax.conditioners import can_draw, num_classes
from genjax.config import differences
from genjax.data.sources.base import Source, data_hash
from genjax.environment import PACKAGES, git
from genjax.errors import UsageError
from genjax.logging import read_metrics
from genjax.metrics.extractors import Extractor
from genjax.metrics.reference import Reference, floor_coefficients
from genjax.optim import EMA, Average, PostHoc
from genjax.types import Conditioner, Objective
from genjax.workdir import read_config

VERSION = 2  # of the format; cards without a version have 0
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


def model(
  run: Path, step: int, train: dict[str, Any], average: Average | None, objective: Objective, **more: Any
) -> dict[str, Any]:
  """The entry `model`: a checkpoint of a run whose config has the section `train`, and the entries `more`.

  `average` is that of the parameters, None for parameters that are not averaged, and for a post-hoc EMA, whose width is in
  `more`, `ema_std`.
  """
  average = average.inner if isinstance(average, PostHoc) else average
  return {
    'run': str(run),
    'step': step,
    'kimg': step * train['batch_size'] / 1000,
    'best': False,
    'objective': type(objective).__name__,
    'ema_halflife_kimg': average.halflife / 1000 if isinstance(average, EMA) else None,
    'likelihood': None,
    'guide': None,
    **({} if average is None or isinstance(average, EMA) else {'average': as_spec(average)}),
  } | more


def ema_of(model: Mapping[str, Any]) -> bool | float:
  """The argument `ema` of `genjax.load` for the parameters of the entry `model` of a card."""
  return model.get('ema_std') or model['ema_halflife_kimg'] is not None or bool(model.get('average'))


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
  """Device-seconds and thousands of images up to `step`, from metrics.jsonl; compilation is not counted.

  For an export, these are those of the exported run.
  """
  if (workdir / 'config.json').is_file() and (exported := read_config(workdir).get('export')):
    return exported['cost']
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


def comparable_protocol(card: Card, ignore: Collection[str] = ()) -> dict[str, Any]:
  """The part of the protocol that comparable cards share, except for the entries `ignore`.

  It lacks the path of the reference, which its hash identifies, and the origin of labels, since external images bring labels.
  """
  reference = {name: value for name, value in card['protocol']['reference'].items() if name != 'data'}
  return {
    name: value for name, value in (card['protocol'] | {'reference': reference}).items() if name not in ('labels', *ignore)
  }


def settings(card: Card) -> dict[str, Any]:
  """The evaluated model without the seed: cards with equal settings are repetitions."""
  return {name: value for name, value in card['model'].items() if name not in ('run', 'images', 'seed', 'likelihood')}


def check_same(a: Card, b: Card, ignore: Collection[str] = ()) -> None:
  """Raises UsageError, naming the differences, if the protocols of two cards differ outside the entries `ignore`."""
  differing = differences(comparable_protocol(a, ignore), comparable_protocol(b, ignore))
  if differing:
    names = [f'{card["model"]["run"]}' for card in (a, b)]
    theirs, protocols = {name for name, _, _ in differing}, (a['protocol'], b['protocol'])
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
      differing = differences(*protocols)
    differing = sorted(differing, key=lambda difference: not difference[0].startswith('reference'))
    shown = '; '.join(f'{name}: {json.dumps(x)} and {json.dumps(y)}' for name, x, y in differing[:5])
    shown += f'; and {len(differing) - 5} more' if len(differing) > 5 else ''
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
  texts = [extractor.note] if extractor.note else []
  n, d = reference.moments.n, len(reference.moments.mean)
  if (fewest := min(samples, n)) <= d:
    texts.append(
      f'{fewest} images do not determine the covariance of {d} features, and FID depends mostly on their number; use more '
      'images, or KID'
    )
  if samples < QUICK:
    texts.append(
      f'a quick estimate: with fewer than {QUICK} samples FID is biased upwards, inception score and coverage downwards'
    )
  if samples < QUICK or floor['fid'] > SMALL_FLOOR * fid:
    texts.append(
      f'floor of FID: {fresh_images(samples, floor)} would have {floor["fid"]:.3g} (standard deviation '
      f'{floor["spread"]:.2g}), not 0, against these {n}; smaller differences of FID do not rank models'
    )
    if fewest < KNOWN_COVARIANCE * d:
      texts.append(
        f'this floor is inaccurate, and often too low: {fewest} images are fewer than {KNOWN_COVARIANCE} per feature of {d}'
      )
  return texts


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
  details = {'nll_nats': f'  ({model.get("likelihood")})'}
  if 'classification' in card:
    details['classification_accuracy'] = f'  (trained on real images: {card["classification"]["test_accuracy"]:.5g})'
  return '\n'.join(lines + [f'  {name:28} {value:.5g}{details.get(name, "")}' for name, value in metrics.items()])


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
