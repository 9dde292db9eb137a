"""Figures and an HTML page for the comparisons of genjax/metrics/compare.py."""

import base64
import html
import io
import json
from typing import Any

import numpy as np

from genjax.metrics.compare import Row, legend, metric_interval, model_differences, table
from genjax.workdir import read_config


def config_differences(rows: list[Row]) -> list[tuple[str, list[Any]]]:
  """The options in which the configs of runs differ, if all have the same objective (an ablation); else an empty list."""
  configs = [read_config(row.run) for row in rows]
  if len({config['objective'].get('cls') for config in configs}) > 1:
    return []
  names = {name for config in configs[1:] for name, _, _ in model_differences(configs[0], config)}

  def value(config, name):
    for part in name.split('.'):
      config = config.get(part) if isinstance(config, dict) else None
    return config

  return [(name, [value(config, name) for config in configs]) for name in sorted(names)]


def figures(rows: list[Row]) -> dict[str, bytes]:
  """Name -> PNG: quality against training cost and sampling cost, and precision against recall.

  Error bars show `interval` if there are two or more values. Rows without a known cost are omitted, and so are figures whose
  rows all have the same horizontal coordinate.
  """
  from matplotlib.figure import Figure
  from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

  def bar(row, metric):
    bounds = metric_interval(row, metric)
    return None if bounds is None else [[row.values(metric).mean() - bounds[0]], [bounds[1] - row.values(metric).mean()]]

  def scatter(x_of, y, x_label, x=None):
    figure = Figure(figsize=(5, 4.5), layout='constrained')
    axes = figure.add_subplot()
    for i, row in enumerate(rows):
      if np.isnan(x_of(row)):
        continue
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
      places = list(map(x_of, rows))
      axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if np.nanmax(places) < 30 * np.nanmin(places) else (1,)))
      axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f'{x / 1000:g}k' if x >= 1000 else f'{x:g}'))
      axes.xaxis.set_minor_formatter(NullFormatter())
      axes.margins(x=0.15)
    axes.set_xlabel(x_label)
    axes.set_ylabel({'fid': 'FID (lower is better)'}.get(y, y))
    axes.grid(alpha=0.3)
    figure.legend(loc='outside lower center', fontsize=8)
    out = io.BytesIO()
    figure.savefig(out, format='png', dpi=120, metadata={'Software': None})
    return out.getvalue()

  cost = lambda name: lambda row: row.cost(name)  # noqa: E731
  evaluations = lambda row: row.card['model'].get('evaluations') or np.nan  # noqa: E731
  costs = {
    'quality_by_training': (cost('training_device_seconds'), 'training, device-seconds'),
    'quality_by_kimg': (cost('training_kimg'), 'training, thousands of images'),
    'quality_by_sampling': (cost('images_per_second'), 'sampling, images per second'),
    'quality_by_evaluations': (evaluations, 'network evaluations per image'),
  }
  varies = lambda x: len({value for value in map(x, rows) if not np.isnan(value)}) > 1  # noqa: E731
  plots = {name: scatter(x, 'fid', label) for name, (x, label) in costs.items() if varies(x)}
  return plots | {'precision_recall': scatter(lambda row: row.values('recall').mean(), 'precision', 'recall', 'recall')}


def page(title: str, rows: list[Row], pictures: dict[str, bytes]) -> str:
  """A self-contained HTML page with tables, figures and protocols."""
  lines, runs = table(rows), [row for row in rows if not row.is_external]
  changed = config_differences(runs)

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
    parts.append('<h2>What differs</h2><table>' + cells(['option', *(row.name for row in runs)], 'th'))
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
  protocols = [row.card['protocol'] for row in rows]
  shared = {key: value for key, value in protocols[0].items() if all(other.get(key) == value for other in protocols)}
  parts.append(f'<h2>Protocol, the same for all</h2><pre>{html.escape(json.dumps(shared, indent=2))}</pre>')
  for row in rows:
    own = {key: row.card[key] for key in ('model', 'cost', 'device', 'versions', 'created')}
    own |= {key: value for key, value in row.card['protocol'].items() if key not in shared}  # such as the origin of labels
    own |= {} if row.is_external else {'training and sampling seeds': sorted(row.cards)}
    parts.append(f'<h2>{html.escape(row.name)}</h2><pre>{html.escape(json.dumps(own, indent=2))}</pre>')
  return '\n'.join(parts)
