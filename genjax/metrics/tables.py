"""Tables of the rows of genjax/metrics/compare.py: Markdown, CSV, differences from a baseline, likelihoods."""

import csv
import io
import itertools
import json
import math
from pathlib import Path
from typing import Any

from genjax.metrics import classifier
from genjax.metrics.card import QUICK, check_same, comparable_protocol, fresh_images, is_external
from genjax.metrics.card_files import load, load_likelihoods
from genjax.metrics.compare import (
  BETTER,
  OF_LIKELIHOOD,
  Row,
  created,
  difference,
  metric_interval,
  metrics_of,
  short_names,
)

COSTS = ('images_per_second', 'training_device_seconds', 'training_kimg')


def difference_table(rows: list[Row], baseline: Row, metric: str) -> list[list[str]]:
  """Header and rows: the paired difference of a metric from the baseline, and the pairs that a claim would need.

  Empty if no row has two seeds in common with the baseline.
  """
  paired = [(row, d) for row in rows if (d := difference(row, baseline, metric))]
  lines = []
  for row, d in paired:
    certain = d.interval[0] > 0 or d.interval[1] < 0
    needed = f'{len(d.values)} suffice' if certain else str(d.needed or 'over 10,000')
    bounds = f'[{d.interval[0]:+.3g}, {d.interval[1]:+.3g}]'
    lines.append([row.name, f'{d.values.mean():+.4g} {bounds}', str(len(d.values)), needed])
  header = [f'{metric} minus that of {baseline.name}', 'difference [95 %]', 'pairs', 'pairs needed']
  return [header, *lines] if lines else []


def csv_table(rows: list[Row]) -> str:
  """The rows as CSV: of each metric the mean and the 95 % interval, empty where they are unknown."""
  metrics = metrics_of(rows)
  columns = [f'{name}{part}' for name in metrics for part in ('', '_low', '_high')]
  file = io.StringIO()
  writer = csv.writer(file, lineterminator='\n')
  writer.writerow(['name', 'trainings', 'seeds', *columns, *COSTS])
  for row in rows:
    cells = []
    for name in metrics:
      values, bounds = row.values(name), None
      if values is not None:
        bounds = metric_interval(row, name)
      cells += ['' if values is None else float(values.mean()), *(bounds or ('', ''))]
    costs = ['' if math.isnan(row.cost(name)) else row.cost(name) for name in COSTS]
    seeds = len({seed for _, seed in row.cards})
    writer.writerow([row.name, row.trainings, seeds, *cells, *costs])
  return file.getvalue()


def table(rows: list[Row], baseline: Row | None = None) -> list[list[str]]:
  """Header and rows: all metrics that were measured, network evaluations, speed and cost; `legend` explains the brackets.

  External images have no seeds and no costs. Differences are from `baseline` (default: the first row).
  """
  baseline = baseline or rows[0]
  metrics = metrics_of(rows)
  names = [f'{name} {BETTER[name]}'.strip() for name in metrics]
  lines = [['', 'trainings', 'seeds', *names, 'NFE', 'images/s', 'training device-s', 'kimg']]
  alike = {row.name for pair in within_floor(rows) for row in pair}
  for row in rows:
    seeds = ['', ''] if row.is_external else [str(len(set(seeds))) for seeds in zip(*row.cards, strict=True)]
    cells = [row.name, *seeds]
    for name in metrics:
      values = row.values(name) if same_likelihood(name, row, rows) else None
      if values is None:
        cells.append('')
        continue
      cell, own = f'{values.mean():.4g}', row.card['metrics']
      cell += ' ≈' if name == 'fid' and row.name in alike else ''
      bounds = metric_interval(row, name)
      if name == 'kid' and not bounds:
        bounds = own['kid_low'], own['kid_high']
      if name == 'nll_nats' and row.trainings == 1 and 'nll_low' in own:
        bounds = own['nll_low'], own['nll_high']
      if bounds and bounds[1] - bounds[0] > 1e-9 * abs(values.mean()):  # omitted if all seeds have the same value
        cell += f' [{bounds[0]:.4g}, {bounds[1]:.4g}]'
      if paired := difference(row, baseline, name):
        cell += f' ({paired.interval[0]:+.3g} to {paired.interval[1]:+.3g})'
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
  quantity = lambda row: row.likelihood and row.likelihood.split(', of ', 1)[-1]  # noqa: E731
  return metric not in OF_LIKELIHOOD or quantity(row) == next(filter(None, map(quantity, rows)), None)


def legend(rows: list[Row], baseline: Row | None = None) -> list[str]:
  """Explains the arrows and brackets of the table, and lists caveats."""
  baseline = baseline or rows[0]
  samples = rows[0].card['protocol']['samples']
  lines = [
    "↓ lower is better, ↑ higher is better. [..] is a 95 % confidence interval of the mean by Student's t: over trainings if "
    'there are several (configs that differ only in train.seed), else over sampling seeds of one checkpoint, which does not '
    'cover the variation between trainings (for KID with a single seed, over blocks of samples, which is conservative; for the '
    f'likelihood of a single training, over images). (.. to ..) is the interval of the difference from {baseline.name}, paired '
    'by seed, if two or more seeds are in common: over trainings if both rows have several, else over samplings.'
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
        evaluation = f'step {card["model"]["step"]} was evaluated with {features} and {count} samples'
        lines.append(f'{row.name}: {evaluation}, but other runs were not; this is step {last}.')
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
  shared = set.intersection(
    *({json.dumps(comparable_protocol(card, free), sort_keys=True) for card in own} for own in cards.values())
  )
  if not shared:
    first, *others = (own[-1] for own in cards.values())
    for card in others:
      check_same(first, card, free)
  most = max(map(json.loads, sorted(shared)), key=lambda protocol: protocol['reference']['images'])
  entries = []
  for name, own in cards.items():
    newest = {card['protocol']['estimator']: card for card in own if comparable_protocol(card, free) == most}
    entries += [(name, card) for card in newest.values()]
  header = ['', 'estimator', 'nll_nats ↓ (95 % over images)', 'bits_per_dim ↓', 'step', 'kimg']
  lines = []
  for name, card in sorted(entries, key=lambda row: row[1]['metrics']['nll_nats']):
    metrics, model, protocol = card['metrics'], card['model'], card['protocol']
    nats = f'{metrics["nll_nats"]:.5g} [{metrics["nll_low"]:.5g}, {metrics["nll_high"]:.5g}]'
    kind = f'{protocol["estimator"]}, {protocol["kind"]}'
    lines.append([name, kind, nats, f'{metrics["bits_per_dim"]:.4g}', str(model['step']), f'{model["kimg"]:g}'])
  return [header, *lines]


def markdown(lines: list[list[str]]) -> str:
  """A table, as `table` returns it, in Markdown."""
  rule = ['---'] * len(lines[0])
  return ''.join(f'| {" | ".join(line)} |\n' for line in (lines[0], rule, *lines[1:]))
