"""Comparisons of runs: rows of cards, confidence intervals and tables (genjax/metrics/report.py makes figures and a page).

Only cards with the same protocol are compared (genjax/metrics/card.py). A row is one setting: a config, a step, a sampler. Runs
whose configs differ only in `train.seed` are trainings of one row, and seeds of evaluate.py are samplings of a training.
Intervals use Student's t over trainings if there are several, else over samplings. A bootstrap of two or three values would be
too narrow: its 95 % intervals covered 51 % with 2 seeds, 75 % with 3 and 84 % with 5.
"""

import fnmatch
import itertools
import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from genjax.config import MAY_CHANGE, differences
from genjax.errors import UsageError
from genjax.metrics import classifier
from genjax.metrics.card import QUICK, UNKNOWN, Card, check_same, fresh_images, is_external, measured, settings
from genjax.metrics.card_files import load, load_likelihoods, tag
from genjax.workdir import read_config

BETTER = {
  'fid': '↓', 'fid_infinity': '↓', 'kid': '↓', 'inception_score': '↑', 'precision': '↑', 'recall': '↑', 'density': '↑',
  'coverage': '↑', 'copies_median_ratio': '', 'classification_accuracy': '↑', 'nll_nats': '↓', 'bits_per_dim': '↓',
}  # fmt: skip
POSSIBLE = dict.fromkeys(('precision', 'recall', 'coverage', 'classification_accuracy'), (0.0, 1.0))
POSSIBLE |= {'fid': (0.0,), 'density': (0.0,)}
OF_LIKELIHOOD = ('nll_nats', 'bits_per_dim')
BOOKKEEPING = (MAY_CHANGE | {'train.evaluate_*'}) - {'train.steps'}  # options that do not affect the model


class Row(NamedTuple):
  """One model with one sampler: its cards by (training seed, sampling seed). Or the single card of external images."""

  name: str
  run: Path  # the run with the first training seed; for external images the folder of the card
  cards: dict[tuple[int, int], Card]

  def values(self, metric: str, seeds: Collection[tuple[int, int]] = ()) -> np.ndarray | None:
    """One value per training, the mean over its samplings; one per sampling if there is one training. None if not measured.

    Uses all cards that have the metric, or those of `seeds`; for likelihoods only cards of the same kind as the first.
    """
    by_training: dict[int, list[float]] = {}
    for training, sampling in sorted(seeds or self.cards):
      card = self.cards[training, sampling]
      value, alike = card['metrics'].get(metric), card['model'].get('likelihood') == self.likelihood
      if value is not None and (alike or metric not in OF_LIKELIHOOD):
        by_training.setdefault(training, []).append(value)
    if not by_training:
      return None
    values = list(by_training.values())
    return np.array(values[0] if self.trainings == 1 else [np.mean(x) for x in values], float)

  @property
  def trainings(self) -> int:
    """The number of trainings."""
    return len({training for training, _ in self.cards})

  def cost(self, name: str) -> float:
    """Mean over the cards; NaN for external images."""
    return float(np.mean([card['cost'].get(name, math.nan) for card in self.cards.values()]))

  @property
  def is_external(self) -> bool:
    """Whether this is a row of external images."""
    return is_external(self.card)

  @property
  def likelihood(self) -> str | None:
    """The kind of likelihood of the first card that has one."""
    return next((c['model']['likelihood'] for _, c in sorted(self.cards.items()) if c['model'].get('likelihood')), None)

  @property
  def card(self) -> Card:
    """The card of the first seeds, for entries that all cards share."""
    return self.cards[min(self.cards)]


def make_rows(runs: list[Path], features: str = '') -> list[Row]:
  """The rows of several runs, each with a unique name, under a protocol that all of them share.

  With several such protocols, uses that with the most samples, then the newest; with `features`, only cards of these features.

  Raises:
    UsageError: a run has no evaluation, or there is no protocol that all share; the message says what differs.
  """
  cards = {run: [card for card in load(run) if features in ('', card['protocol']['features']['name'])] for run in runs}
  for run, found in cards.items():
    if not found:
      package = f' --allow_package {features.split(".")[0]}' if '.' in features else ''
      first = load(run)[0]
      source = f'--images {first["model"]["images"]} --data ... --out' if is_external(first) else '--run'
      raise UsageError(
        f'{run} was not evaluated with --features {features}: python evaluate.py {source} {run} --features {features}{package}'
      )
  infer_held_out([card for found in cards.values() for card in found])
  protocols = {run: {tag(measured(card)): card for card in sorted(cards[run], key=created)} for run in runs}
  held = {t: [run for run in runs if t in protocols[run]] for found in protocols.values() for t in found}
  newest = lambda t: max(created(protocols[run][t]) for run in held[t])  # noqa: E731
  size = lambda t: protocols[held[t][0]][t]['protocol']['samples']  # noqa: E731
  chosen = max(held, key=lambda t: (len(held[t]), runs[0] in held[t], size(t), newest(t)))
  for run in runs:
    if run not in held[chosen]:
      common = protocols[held[chosen][0]][chosen]
      check_same(common, min(cards[run], key=lambda card: len(differences(measured(common), measured(card)))))
  rows: list[Row] = []
  for run, name in zip(runs, short_names(runs), strict=True):
    alike = {}
    for card in sorted(cards[run], key=created):
      if tag(measured(card)) == chosen:
        seeds = (0, 0) if is_external(card) else (read_config(run)['train'].get('seed', 0), card['model']['seed'])
        alike.setdefault(tag(settings(card)), {})[seeds] = card
    firsts = [next(iter(by_seed.values())) for by_seed in alike.values()]
    for shown, by_seed in zip(distinguishing_settings(firsts), alike.values(), strict=True):
      row = Row(name + (f' ({shown})' if shown else ''), Path(run), by_seed)
      twin = next((i for i, other in enumerate(rows) if are_repetitions(other, row)), None)
      if twin is None:
        rows.append(row)
      else:
        first = min(rows[twin], row, key=lambda row: min(row.cards))
        rows[twin] = Row(f'{rows[twin].name}, {row.name}', first.run, rows[twin].cards | row.cards)
  return rows


def infer_held_out(cards: list[Card]) -> None:
  """Fills in the test images of cards that do not name them from cards with the same protocol, if these agree."""
  named: dict[str, list[Any]] = {}
  key = lambda card: tag(measured(card, ['held_out']))  # noqa: E731
  for card in cards:
    if (test := card['protocol']['held_out']) != UNKNOWN and test not in named.setdefault(key(card), []):
      named[key(card)].append(test)
  for card in cards:
    if card['protocol']['held_out'] == UNKNOWN and len(candidates := named.get(key(card), [])) == 1:
      card['protocol'] |= {'held_out': candidates[0]}
      card['held_out_assumed'] = True


def distinguishing_settings(cards: list[Card]) -> list[str]:
  """For each card the settings in which the cards differ; for external images, their paths."""
  paths = [Path(card['model']['images']) for card in cards if is_external(card)]
  if len(set(paths)) == len(cards) > 1:
    return short_names(paths)
  models, names = [settings(card) for card in cards], []
  for model in models:
    own = {key.removeprefix('options.'): value for other in models for key, value, _ in differences(model, other)}
    own.pop('kimg', None)  # redundant with the step
    names.append(', '.join(f'{key} {json.dumps(value)}' for key, value in sorted(own.items())))
  return names


def created(card: Card) -> str:
  return card['created']


def are_repetitions(a: Row, b: Row) -> bool:
  """Whether two rows have the same settings and configs that differ only in `train.seed`."""
  if a.is_external or b.is_external:
    return False
  models = [settings(row.card) for row in (a, b)]
  apart = {name for name, _, _ in differences(*models)} - {'evaluations'}  # measured on samples for adaptive solvers
  if models[0]['best'] and models[1]['best']:
    apart -= {'step', 'kimg'}
  guides = [(model.get('guide') or {}).get('run') for model in models]
  if None not in guides and only_seeds_differ(*map(Path, guides)):
    apart -= {'guide.run'}
  return not apart and not {key[0] for key in a.cards} & {key[0] for key in b.cards} and only_seeds_differ(a.run, b.run)


def only_seeds_differ(a: Path, b: Path) -> bool:
  """Whether the configs of two runs differ only in `train.seed`."""
  return [name for name, _, _ in model_differences(read_config(a), read_config(b))] == ['train.seed']


def model_differences(a: dict, b: dict) -> list[tuple[str, Any, Any]]:
  """The options in which two configs differ and that affect the model."""
  return [d for d in differences(a, b) if not any(fnmatch.fnmatch(d[0], pattern) for pattern in BOOKKEEPING)]


def short_names(runs: list[Path]) -> list[str]:
  """The shortest suffixes of the paths that are all different."""
  parts = [Path(run).resolve().parts for run in runs]
  for n in range(1, max(map(len, parts)) + 1):
    names = ['/'.join(p[-n:]) for p in parts]
    if len(set(names)) == len(names):
      return names
  raise UsageError(f'the same run is listed twice in {", ".join(map(str, runs))}: list each run once.')


def interval(values: np.ndarray, least: float = -math.inf, most: float = math.inf) -> tuple[float, float] | None:
  """95 % confidence interval of the mean by Student's t, clipped to `least` to `most`; None for a single value."""
  if len(values) < 2:
    return None
  half = stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / math.sqrt(len(values))
  return max(float(values.mean() - half), least), min(float(values.mean() + half), most)


def metric_interval(row: Row, metric: str) -> tuple[float, float] | None:
  """`interval` of a metric of a row."""
  return interval(row.values(metric), *POSSIBLE.get(metric, ()))


def table(rows: list[Row]) -> list[list[str]]:
  """Header and rows: all metrics that were measured, network evaluations, speed and cost; `legend` explains the brackets.

  External images have no seeds and no costs.
  """
  metrics = [name for name in BETTER if any(row.values(name) is not None for row in rows)]
  names = [f'{name} {BETTER[name]}'.strip() for name in metrics]
  lines = [['', 'trainings', 'seeds', *names, 'NFE', 'images/s', 'training device-s', 'kimg']]
  alike = {row.name for pair in within_floor(rows) for row in pair}
  for row in rows:
    common = row.cards.keys() & rows[0].cards.keys()
    seeds = ['', ''] if row.is_external else [str(len(set(seeds))) for seeds in zip(*row.cards, strict=True)]
    cells = [row.name, *seeds]
    for name in metrics:
      values = row.values(name) if same_likelihood(name, row, rows) else None
      if values is None:
        cells.append('')
        continue
      cell, own = f'{values.mean():.4g}', row.card['metrics']
      cell += ' ≈' if name == 'fid' and row.name in alike else ''
      found = metric_interval(row, name)
      if name == 'kid' and not found:
        found = own['kid_low'], own['kid_high']
      if name == 'nll_nats' and row.trainings == 1 and 'nll_low' in own:
        found = own['nll_low'], own['nll_high']
      if found and found[1] - found[0] > 1e-9 * abs(values.mean()):  # omitted if all seeds have the same value
        cell += f' [{found[0]:.4g}, {found[1]:.4g}]'
      both = {s for s in common if all(name in r.cards[s]['metrics'] for r in (row, rows[0]))}
      first = rows[0].values(name, both) if both and row is not rows[0] else None
      if first is not None and len(first) > 1 and (name not in OF_LIKELIHOOD or row.likelihood == rows[0].likelihood):
        low, high = interval(row.values(name, both) - first)
        cell += f' ({low:+.3g} to {high:+.3g})'
      if row.trainings > 1 > len(values) / row.trainings:
        cell += f' (of {len(values)} of the {row.trainings} trainings)'
      if name in OF_LIKELIHOOD and row.likelihood:
        cell += f' ({row.likelihood})'
      cells.append(cell)
    costs = [
      f'{row.cost("images_per_second"):.4g}',
      f'{row.cost("training_device_seconds"):.0f}',
      f'{row.cost("training_kimg"):g}',
    ]
    known = [str(row.card['model'].get('evaluations') or 'varies'), *costs]
    lines.append([*cells, *([''] * len(known) if row.is_external else known)])
  return lines


def upper_floor(floor: dict[str, Any]) -> float:
  """The floor of FID plus two standard deviations."""
  return floor['fid'] + 2 * floor['spread']


def floors(rows: list[Row]) -> list[dict[str, Any]]:
  """The floor of FID (genjax/metrics/fid.py) of each row, which depends on its labels; [] if no card has one.

  Older cards have no floor; their rows get the highest floor of the other rows.
  """
  known = [next((card['floor'] for _, card in sorted(row.cards.items()) if card['floor']), None) for row in rows]
  highest = max(filter(None, known), key=upper_floor, default=None)
  return [floor or highest for floor in known] if highest else []


def within_floor(rows: list[Row]) -> list[tuple[Row, Row]]:
  """Pairs of rows whose FIDs differ by at most the higher of their floors plus two standard deviations."""
  limits, fids = [upper_floor(floor) for floor in floors(rows)], [row.values('fid').mean() for row in rows]
  pairs = itertools.combinations(range(len(limits)), 2)
  return [(rows[i], rows[j]) for i, j in pairs if abs(fids[i] - fids[j]) <= max(limits[i], limits[j])]


def floor_legend(rows: list[Row]) -> list[str]:
  """The lines of the legend about the floor of FID; none if no card has one."""
  if not (row_floors := floors(rows)):
    return []
  reference, samples = (rows[0].card['protocol'][name] for name in ('reference', 'samples'))
  texts = {
    f'{fresh_images(samples, floor)} would have {floor["fid"]:.3g} (standard deviation {floor["spread"]:.2g})': None
    for floor in row_floors
  }
  lines = [
    f'Floor of FID: {", ".join(texts)} against these {reference["images"]}. ≈ marks a FID that differs from that of another '
    'row by at most this plus two standard deviations; such a difference does not rank the models.'
  ]
  if pairs := within_floor(rows):
    lines.append(f'≈ {"; ".join(f"{a.name} and {b.name}" for a, b in pairs)}.')
  return lines


def same_likelihood(metric: str, row: Row, rows: list[Row]) -> bool:
  """Whether a likelihood measures the same quantity as that of the first row that has one, with any estimator."""
  of = lambda row: row.likelihood and row.likelihood.split(', of ', 1)[-1]  # noqa: E731
  return metric not in OF_LIKELIHOOD or of(row) == next(filter(None, map(of, rows)), None)


def legend(rows: list[Row]) -> list[str]:
  """Explains the arrows and brackets of the table, and lists caveats."""
  samples = rows[0].card['protocol']['samples']
  lines = [
    "↓ lower is better, ↑ higher is better. [..] is a 95 % confidence interval of the mean by Student's t: over trainings if "
    'there are several (configs that differ only in train.seed), else over sampling seeds of one checkpoint, which does not '
    'cover the variation between trainings (for KID with a single seed, over blocks of samples, which is conservative; for the '
    'likelihood of a single training, over images). (.. to ..) is the interval of the difference from the first row, paired by '
    'seed, if two or more seeds are in common: over trainings if both rows have several, else over samplings.'
  ]
  if not all(same_likelihood(OF_LIKELIHOOD[0], row, rows) for row in rows if row.likelihood):
    lines.append(
      'Likelihoods of other images, or with another discretization of images, than in the first row that has one are omitted: '
      'evaluate.py compare --metrics likelihood compares likelihoods of the same kind.'
    )
  lines += floor_legend(rows)
  accuracy = rows[0].card['protocol']['features'].get('test_accuracy')
  if isinstance(accuracy, float) and (weak := classifier.warning(accuracy)):
    lines.append(f'{weak[0].upper()}{weak[1:]}.')
  for row in rows:
    lines += [f'{row.name}: {flag}.' for flag in row.card['flags']]
    if any(card.get('held_out_assumed') for card in row.cards.values()):
      lines.append(f'{row.name}: an older card does not name its test images; those of the other rows are assumed.')
    if row.is_external:
      continue
    last = max(
      card['model']['step'] for other in rows if other.run == row.run and not other.is_external for card in other.cards.values()
    )
    for card in load(row.run):
      if not is_external(card) and card['model']['step'] > last and row.card['model']['step'] == last:
        features, count = card['protocol']['features']['name'], card['protocol']['samples']
        evaluation_summary = f'step {card["model"]["step"]} was evaluated with {features} and {count} samples'
        lines.append(f'{row.name}: {evaluation_summary}, but other runs were not; this is step {last}.')
  if samples < QUICK:
    lines.append(
      f'A quick estimate: with fewer than {QUICK} samples ({samples}) FID is biased upwards, and FID_infinity, a line fitted '
      'to ten values of FID, has a high variance.'
    )
  return lines


def likelihoods(runs: list[Path]) -> list[list[str]]:
  """Header and rows of the likelihoods that `evaluate.py --metrics likelihood` measured for several runs, the best first.

  Uses the newest card of each estimator under the protocol that all runs share; with several, that with the most images.

  Raises:
    UsageError: a run has no likelihood, or the likelihoods are of different images.
  """
  free = ('estimator', 'kind')
  cards = {name: sorted(load_likelihoods(run), key=created) for run, name in zip(runs, short_names(runs), strict=True)}
  shared = set.intersection(*({json.dumps(measured(card, free), sort_keys=True) for card in own} for own in cards.values()))
  if not shared:
    first, *others = (own[-1] for own in cards.values())
    for card in others:
      check_same(first, card, free)
  most = max(map(json.loads, sorted(shared)), key=lambda protocol: protocol['reference']['images'])
  found = []
  for name, own in cards.items():
    newest = {card['protocol']['estimator']: card for card in own if measured(card, free) == most}
    found += [(name, card) for card in newest.values()]
  header = ['', 'estimator', 'nll_nats ↓ (95 % over images)', 'bits_per_dim ↓', 'step', 'kimg']
  lines = []
  for name, card in sorted(found, key=lambda row: row[1]['metrics']['nll_nats']):
    metrics, model, protocol = card['metrics'], card['model'], card['protocol']
    nats = f'{metrics["nll_nats"]:.5g} [{metrics["nll_low"]:.5g}, {metrics["nll_high"]:.5g}]'
    kind = f'{protocol["estimator"]}, {protocol["kind"]}'
    lines.append([name, kind, nats, f'{metrics["bits_per_dim"]:.4g}', str(model['step']), f'{model["kimg"]:g}'])
  return [header, *lines]


def markdown(lines: list[list[str]]) -> str:
  """A table, as `table` returns it, in Markdown."""
  rule = ['---'] * len(lines[0])
  return ''.join(f'| {" | ".join(line)} |\n' for line in (lines[0], rule, *lines[1:]))
