"""Runs side by side: one table, figures, and a page that holds them all.

Only cards of one protocol are compared (genjax/metrics/card.py). Rows are settings: a run, a step, a sampler. Seeds that
all rows share are repetitions; intervals are from resampling those seeds, the same ones for every row.
"""

import base64
import html
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genjax.errors import UsageError
from genjax.metrics.card import Card, check_same, load, settings, tag
from genjax.workdir import differences, read_config

SHOWN = (
  'fid', 'fid_infinity', 'kid', 'inception_score', 'precision', 'recall', 'density', 'coverage', 'copies_median_ratio',
  'classification_accuracy', 'nll_nats', 'bits_per_dim',
)  # fmt: skip


class Row(NamedTuple):
  """One model with one sampler: its cards by seed."""

  name: str
  run: Path
  cards: dict[int, Card]

  def values(self, metric: str, seeds: list[int]) -> np.ndarray | None:
    """One value a seed; None if it was not measured."""
    found = [self.cards[seed]['metrics'].get(metric) for seed in seeds]
    return None if any(value is None for value in found) else np.array(found, float)


def rows_of(runs: list[Path]) -> list[Row]:
  """The rows of several runs under the newest protocol that all of them have.

  Raises:
    UsageError: a run without an evaluation; no protocol that all share, and where the newest ones differ.
  """
  cards = {run: load(run) for run in runs}
  shared = set.intersection(*({tag(card['protocol']) for card in found} for found in cards.values()))
  newest = [max(found, key=lambda card: card['created']) for found in cards.values()]
  if not shared:
    for other in newest[1:]:
      check_same(newest[0], other)
  created = {t: max(c['created'] for found in cards.values() for c in found if tag(c['protocol']) == t) for t in shared}
  chosen = max(shared, key=created.get)
  rows = []
  for run, found in cards.items():
    alike = {}
    for card in found:
      if tag(card['protocol']) == chosen:
        alike.setdefault(tag(settings(card)), {})[card['model']['seed']] = card
    several = len(alike) > 1
    for by_seed in alike.values():
      model = next(iter(by_seed.values()))['model']
      options = ', '.join(f'{k} {v}' for k, v in model['options'].items())
      rows.append(Row(f'{Path(run).name}' + (f' (step {model["step"]}; {options})' if several else ''), Path(run), by_seed))
  return rows


def shared_seeds(rows: list[Row]) -> list[int]:
  """Seeds that every row was evaluated with. Raises UsageError if there is none."""
  seeds = sorted(set.intersection(*(set(row.cards) for row in rows)))
  if not seeds:
    have = '; '.join(f'{row.name}: {", ".join(map(str, sorted(row.cards)))}' for row in rows)
    raise UsageError(f'no seed that all were evaluated with ({have}): evaluate them with the same --seeds.')
  return seeds


def interval(values: np.ndarray, draws: int = 10_000) -> tuple[float, float] | None:
  """95 % bootstrap interval of the mean over seeds (Efron 1979); None for a single one. The same draws for all rows."""
  if len(values) < 2:
    return None
  picks = np.random.default_rng(0).integers(0, len(values), (draws, len(values)))
  low, high = np.percentile(values[picks].mean(axis=1), [2.5, 97.5])
  return float(low), float(high)


def table(rows: list[Row], seeds: list[int]) -> list[list[str]]:
  """Header and rows: metrics that any row has, evaluations, speed and cost. With several seeds [low, high], and the interval
  of the difference from the first row, seed by seed."""
  metrics = [name for name in SHOWN if any(row.values(name, seeds) is not None for row in rows)]
  lines = [['', *metrics, 'NFE', 'images/s', 'training device-s', 'kimg']]
  for row in rows:
    cells = [row.name]
    for name in metrics:
      values, first = row.values(name, seeds), rows[0].values(name, seeds)
      if values is None:
        cells.append('')
        continue
      cell = f'{values.mean():.4g}'
      if found := interval(values):
        cell += f' [{found[0]:.4g}, {found[1]:.4g}]'
        if row is not rows[0] and first is not None:
          low, high = interval(values - first)
          cell += f' ({low:+.3g} to {high:+.3g})'
      cells.append(cell)
    card = row.cards[seeds[0]]
    cost = card['cost']
    speed = np.mean([row.cards[seed]['cost']['images_per_second'] for seed in seeds])
    cells += [str(card['model']['evaluations']), f'{speed:.4g}']
    lines.append([*cells, f'{cost["training_device_seconds"]:.0f}', f'{cost["training_kimg"]:g}'])
  return lines


def markdown(lines: list[list[str]]) -> str:
  """A table of `table` in Markdown."""
  rule = ['---'] * len(lines[0])
  return ''.join(f'| {" | ".join(line)} |\n' for line in (lines[0], rule, *lines[1:]))


def config_differences(rows: list[Row]) -> list[tuple[str, list[Any]]]:
  """Options in which the runs' configs differ, if they are of one kind: an ablation. Else nothing."""
  configs = [read_config(row.run) for row in rows]
  if len({config['objective'].get('cls') for config in configs}) > 1:
    return []
  names = {name for config in configs[1:] for name, _, _ in differences(configs[0], config)}

  def value(config, name):
    for part in name.split('.'):
      config = config.get(part) if isinstance(config, dict) else None
    return config

  return [(name, [value(config, name) for config in configs]) for name in sorted(names)]


def figures(rows: list[Row], seeds: list[int]) -> dict[str, bytes]:
  """Name -> PNG: quality against training cost, against sampling cost, precision against recall."""
  from matplotlib.figure import Figure

  def scatter(x_of, y_of, x_label, y_label, log=False):
    figure = Figure(figsize=(5, 4), layout='constrained')
    axes = figure.add_subplot()
    for i, row in enumerate(rows):
      axes.scatter(x_of(row), y_of(row), color=f'C{i % 10}', label=row.name, s=40)
    if log:
      axes.set_xscale('log')
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    out = io.BytesIO()
    figure.savefig(out, format='png', dpi=120, metadata={'Software': None})
    return out.getvalue()

  mean = lambda name: lambda row: row.values(name, seeds).mean()  # noqa: E731
  cost = lambda name: lambda row: row.cards[seeds[0]]['cost'][name]  # noqa: E731
  return {
    'quality_by_training': scatter(cost('training_device_seconds'), mean('fid'), 'training, device-seconds', 'FID', True),
    'quality_by_kimg': scatter(cost('training_kimg'), mean('fid'), 'training, thousands of images', 'FID', True),
    'quality_by_sampling': scatter(cost('images_per_second'), mean('fid'), 'sampling, images per second', 'FID', True),
    'quality_by_evaluations': scatter(
      lambda row: row.cards[seeds[0]]['model']['evaluations'] or np.nan,
      mean('fid'),
      'network evaluations an image',
      'FID',
      True,
    ),
    'precision_recall': scatter(mean('recall'), mean('precision'), 'recall', 'precision'),
  }


def page(title: str, lines: list[list[str]], changed, protocol: dict, pictures: dict[str, bytes]) -> str:
  """One HTML file with everything in it."""

  def cells(line, tag):
    return '<tr>' + ''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in line) + '</tr>'

  parts = [
    '<!doctype html><meta charset="utf-8">',
    f'<title>{html.escape(title)}</title>',
    '<style>body{font:15px/1.4 sans-serif;margin:2em;max-width:1200px}table{border-collapse:collapse;margin:1em 0}'
    'td,th{border:1px solid #ccc;padding:.25em .6em;text-align:right}td:first-child,th:first-child{text-align:left}'
    'img{max-width:48%;image-rendering:pixelated}pre{background:#f4f4f4;padding:1em;overflow:auto}</style>',
    f'<h1>{html.escape(title)}</h1>',
  ]
  if changed:
    rows = [cells([name, *(json.dumps(value) for value in values)], 'td') for name, values in changed]
    parts.append('<h2>What differs</h2><table>' + cells(['option', *(line[0] for line in lines[1:])], 'th'))
    parts.append(''.join(rows) + '</table>')
  parts.append('<h2>Results</h2><table>' + cells(lines[0], 'th'))
  parts.append(''.join(cells(line, 'td') for line in lines[1:]) + '</table>')
  for name, png in pictures.items():
    source = base64.b64encode(png).decode()
    caption = html.escape(name.replace('_', ' '))
    parts.append(f'<figure><figcaption>{caption}</figcaption><img src="data:image/png;base64,{source}"></figure>')
  parts.append(f'<h2>Protocol</h2><pre>{html.escape(json.dumps(protocol, indent=2))}</pre>')
  return '\n'.join(parts)
