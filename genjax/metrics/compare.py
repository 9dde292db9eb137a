"""Runs side by side: one table, figures, and a page that holds them all.

Only cards of one protocol are compared (genjax/metrics/card.py). Rows are settings: a run, a step, a sampler. Seeds are
repetitions. Intervals are Student's t over them: resampling two or three seeds, as a bootstrap would, covers the truth half
of the time where it says 95 % (measured: 51 % with 2 seeds, 75 % with 3, 84 % with 5).
"""

import base64
import fnmatch
import html
import io
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from genjax.errors import UsageError
from genjax.metrics.card import QUICK, Card, check_same, load, settings, tag
from genjax.workdir import MAY_CHANGE, differences, read_config

BETTER = {
  'fid': '↓', 'fid_infinity': '↓', 'kid': '↓', 'inception_score': '↑', 'precision': '↑', 'recall': '↑', 'density': '↑',
  'coverage': '↑', 'copies_median_ratio': '', 'classification_accuracy': '↑', 'nll_nats': '↓', 'bits_per_dim': '↓',
}  # fmt: skip
BOOKKEEPING = (MAY_CHANGE | {'train.evaluate_*'}) - {'train.steps'}  # options that make no other model


class Row(NamedTuple):
  """One model with one sampler: its cards by seed."""

  name: str
  run: Path
  cards: dict[int, Card]

  def values(self, metric: str, seeds: list[int] | None = None) -> np.ndarray | None:
    """One value a seed (default: all of its own); None if it was not measured."""
    found = [self.cards[seed]['metrics'].get(metric) for seed in (seeds or sorted(self.cards))]
    return None if any(value is None for value in found) else np.array(found, float)

  @property
  def card(self) -> Card:
    """That of the first seed, for what all seeds share."""
    return self.cards[min(self.cards)]


def rows_of(runs: list[Path]) -> list[Row]:
  """The rows of several runs under the newest protocol that all of them have, each with a name of its own.

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
  for run, name in zip(runs, short_names(runs), strict=True):
    alike = {}
    for card in cards[run]:
      if tag(card['protocol']) == chosen:
        alike.setdefault(tag(settings(card)), {})[card['model']['seed']] = card
    models = [settings(next(iter(by_seed.values()))) for by_seed in alike.values()]
    for model, by_seed in zip(models, alike.values(), strict=True):
      own = {key.removeprefix('options.'): value for other in models for key, value, _ in differences(model, other)}
      own.pop('kimg', None)  # says what the step says
      shown = ', '.join(f'{key} {json.dumps(value)}' for key, value in sorted(own.items()))
      rows.append(Row(name + (f' ({shown})' if shown else ''), Path(run), by_seed))
  return rows


def short_names(runs: list[Path]) -> list[str]:
  """The last parts of the paths, as many as tell them apart."""
  parts = [Path(run).resolve().parts for run in runs]
  for n in range(1, max(map(len, parts)) + 1):
    names = ['/'.join(p[-n:]) for p in parts]
    if len(set(names)) == len(names):
      return names
  raise UsageError('the same run is named twice.')


def interval(values: np.ndarray) -> tuple[float, float] | None:
  """95 % interval of the mean of one value a seed, by Student's t; None for a single one."""
  if len(values) < 2:
    return None
  half = stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / math.sqrt(len(values))
  return float(values.mean() - half), float(values.mean() + half)


def table(rows: list[Row]) -> list[list[str]]:
  """Header and rows: metrics that any row has, evaluations, speed and cost; LEGEND says what the brackets are."""
  metrics = [name for name in BETTER if any(row.values(name) is not None for row in rows)]
  names = [f'{name} {BETTER[name]}'.strip() for name in metrics]
  lines = [['', 'seeds', *names, 'NFE', 'images/s', 'training device-s', 'kimg']]
  for row in rows:
    seeds = [seed for seed in sorted(row.cards) if seed in rows[0].cards]
    cells = [row.name, str(len(row.cards))]
    for name in metrics:
      values = row.values(name)
      if values is None:
        cells.append('')
        continue
      cell, own = f'{values.mean():.4g}', row.card['metrics']
      found = interval(values)
      if name == 'kid' and not found:
        found = own['kid_low'], own['kid_high']
      if found and found[1] - found[0] > 1e-9 * abs(values.mean()):  # not of what is the same for every seed
        cell += f' [{found[0]:.4g}, {found[1]:.4g}]'
      if row is not rows[0] and len(seeds) > 1 and rows[0].values(name, seeds) is not None:
        low, high = interval(row.values(name, seeds) - rows[0].values(name, seeds))
        cell += f' ({low:+.3g} to {high:+.3g})'
      if name in ('nll_nats', 'bits_per_dim') and row.card['model'].get('likelihood'):
        cell += f' ({row.card["model"]["likelihood"]})'
      cells.append(cell)
    model, cost = row.card['model'], row.card['cost']
    speed = np.mean([card['cost']['images_per_second'] for card in row.cards.values()])
    cells += [str(model.get('evaluations') or 'varies'), f'{speed:.4g}']
    lines.append([*cells, f'{cost["training_device_seconds"]:.0f}', f'{cost["training_kimg"]:g}'])
  return lines


def legend(rows: list[Row]) -> list[str]:
  """What the table's arrows and brackets mean, and what to know of its numbers."""
  samples = rows[0].card['protocol']['samples']
  lines = [
    "↓ lower is better, ↑ higher. [..] is a 95 % interval of the mean over sampling seeds of one checkpoint, by Student's t "
    '(of KID for a single seed, over blocks of its samples); (.. to ..) that of the difference from the first row, seed by '
    'seed, where there are two or more in common. Neither says how another training would have ended.'
  ]
  if samples < QUICK:
    lines.append(f'A quick estimate: of fewer than {QUICK} samples ({samples}) FID is biased upwards; fid_infinity less so.')
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
  names = {name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in BOOKKEEPING)}

  def value(config, name):
    for part in name.split('.'):
      config = config.get(part) if isinstance(config, dict) else None
    return config

  return [(name, [value(config, name) for config in configs]) for name in sorted(names)]


def figures(rows: list[Row]) -> dict[str, bytes]:
  """Name -> PNG: quality against training cost, against sampling cost, precision against recall.

  With two or more seeds bars show `interval`. A figure whose rows all lie at one place of its horizontal axis is left out.
  """
  from matplotlib.figure import Figure
  from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

  def bar(row, metric):
    found = interval(row.values(metric))
    return None if found is None else [[row.values(metric).mean() - found[0]], [found[1] - row.values(metric).mean()]]

  def scatter(x_of, y, x_label, x=None):
    figure = Figure(figsize=(5, 4.5), layout='constrained')
    axes = figure.add_subplot()
    for i, row in enumerate(rows):
      across = bar(row, x) if x else None
      axes.errorbar(
        x_of(row), row.values(y).mean(), bar(row, y), across, fmt='o', color=f'C{i % 10}', label=row.name, capsize=3
      )
    if x:
      axes.set_xlim(0, 1)
      axes.set_ylim(0, 1)
    else:
      axes.set_xscale('log')
      axes.set_ylim(bottom=0)
      axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
      axes.xaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
      axes.xaxis.set_minor_formatter(NullFormatter())
      axes.margins(x=0.15)
    axes.set_xlabel(x_label)
    axes.set_ylabel({'fid': 'FID (lower is better)'}.get(y, y))
    axes.grid(alpha=0.3)
    figure.legend(loc='outside lower center', fontsize=8)
    out = io.BytesIO()
    figure.savefig(out, format='png', dpi=120, metadata={'Software': None})
    return out.getvalue()

  cost = lambda name: lambda row: row.card['cost'][name]  # noqa: E731
  evaluations = lambda row: row.card['model'].get('evaluations') or np.nan  # noqa: E731
  costs = {
    'quality_by_training': (cost('training_device_seconds'), 'training, device-seconds'),
    'quality_by_kimg': (cost('training_kimg'), 'training, thousands of images'),
    'quality_by_sampling': (cost('images_per_second'), 'sampling, images per second'),
    'quality_by_evaluations': (evaluations, 'network evaluations an image'),
  }
  found = {name: scatter(x, 'fid', label) for name, (x, label) in costs.items() if len(set(map(x, rows))) > 1}
  return found | {'precision_recall': scatter(lambda row: row.values('recall').mean(), 'precision', 'recall', 'recall')}


def page(title: str, rows: list[Row], pictures: dict[str, bytes]) -> str:
  """One HTML file with everything in it."""
  lines, changed = table(rows), config_differences(rows)

  def cells(line, tag):
    return '<tr>' + ''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in line) + '</tr>'

  parts = [
    '<!doctype html><meta charset="utf-8">',
    f'<title>{html.escape(title)}</title>',
    '<style>body{font:15px/1.4 sans-serif;margin:2em;max-width:1200px}table{border-collapse:collapse;margin:1em 0}'
    'td,th{border:1px solid #ccc;padding:.25em .6em;text-align:right}td:first-child,th:first-child{text-align:left}'
    'img{max-width:48%}img.grid{image-rendering:pixelated}pre{background:#f4f4f4;padding:1em;overflow:auto}</style>',
    f'<h1>{html.escape(title)}</h1>',
  ]
  if changed:
    options = [cells([name, *(json.dumps(value) for value in values)], 'td') for name, values in changed]
    parts.append('<h2>What differs</h2><table>' + cells(['option', *(line[0] for line in lines[1:])], 'th'))
    parts.append(''.join(options) + '</table>')
  parts.append('<h2>Results</h2><table>' + cells(lines[0], 'th'))
  parts.append(''.join(cells(line, 'td') for line in lines[1:]) + '</table>')
  parts += [f'<p>{html.escape(line)}</p>' for line in legend(rows)]
  for name, png in pictures.items():
    source = base64.b64encode(png).decode()
    caption, kind = html.escape(name.replace('_', ' ')), 'grid' if name.startswith('grid') else 'figure'
    parts.append(
      f'<figure><figcaption>{caption}</figcaption><img class="{kind}" src="data:image/png;base64,{source}"></figure>'
    )
  shared = rows[0].card['protocol']
  parts.append(f'<h2>Protocol, the same for all</h2><pre>{html.escape(json.dumps(shared, indent=2))}</pre>')
  for row in rows:
    own = {key: row.card[key] for key in ('model', 'cost', 'device', 'versions', 'created')} | {'seeds': sorted(row.cards)}
    parts.append(f'<h2>{html.escape(row.name)}</h2><pre>{html.escape(json.dumps(own, indent=2))}</pre>')
  return '\n'.join(parts)
