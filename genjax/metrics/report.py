"""Figures, grids of samples and an HTML page for the comparisons of genjax/metrics/compare.py."""

import base64
import html
import io
import json
from collections.abc import Collection
from typing import Any

import numpy as np

from genjax import rng
from genjax.build import build
from genjax.errors import UsageError
from genjax.images import encode_image, grid_image, to_uint8
from genjax.logging import read_metrics
from genjax.metrics.card import Card, ema_of, settings
from genjax.metrics.card_files import file_name, grid_path
from genjax.metrics.compare import Row, metric_interval, model_differences
from genjax.metrics.tables import legend, table
from genjax.run import grid_columns, grid_cond, load
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


def curves(rows: list[Row]) -> dict[str, bytes]:
  """Name -> PNG: learning curves, the mean over trainings with a band from the lowest to the highest.

  One figure for the FID of `train.evaluate_every` and, if all runs have the same objective, one for each player's loss, if two
  or more points were logged.
  """
  from matplotlib.figure import Figure

  logs = [[read_metrics(path) for path in row.runs] for row in rows]
  names = {name for logs_of_row in logs for log in logs_of_row for line in log for name in line}
  objectives = {read_config(row.run)['objective'].get('cls') for row in rows if not row.is_external}
  shown = sorted(name for name in names if name == 'evaluation/fid' or (name.endswith('/loss') and len(objectives) == 1))
  pictures = {}
  for name in shown:
    figure = Figure(figsize=(5, 4.5), layout='constrained')
    axes, has_points = figure.add_subplot(), False
    for i, (row, logs_of_row) in enumerate(zip(rows, logs, strict=True)):
      points = [[(line['kimg'], line[name]) for line in log if line.get(name) is not None] for log in logs_of_row]
      points = [np.array(x, float).T for x in points if len(x) > 1]
      if not points:
        continue
      x = points[0][0][points[0][0] <= min(kimg[-1] for kimg, _ in points)]
      y = np.stack([np.interp(x, *values) for values in points])
      axes.plot(x, y.mean(axis=0), color=f'C{i % 10}', label=row.name)
      axes.fill_between(x, y.min(axis=0), y.max(axis=0), color=f'C{i % 10}', alpha=0.2, linewidth=0)
      has_points = has_points or len(x) > 1
    if not has_points:
      continue
    axes.set_xlabel('thousands of images seen')
    axes.set_ylabel(name)
    axes.grid(alpha=0.3)
    figure.legend(loc='outside lower center', fontsize=8)
    out = io.BytesIO()
    figure.savefig(out, format='png', dpi=120, metadata={'Software': None})
    pictures[f'curve {name}'] = out.getvalue()
  return pictures


def ema_curves(cards: list[Card]) -> dict[str, bytes]:
  """File name -> PNG: FID against the width of post-hoc EMAs, one figure per step and one curve per setting."""
  from matplotlib.figure import Figure

  curves: dict[int, dict[str, dict[float, list[float]]]] = {}
  for card in cards:
    if std := card['model'].get('ema_std'):
      others = {key: value for key, value in settings(card).items() if key not in ('ema_std', 'step', 'kimg')}
      curve = curves.setdefault(card['model']['step'], {}).setdefault(json.dumps([card['protocol'], others]), {})
      curve.setdefault(std, []).append(card['metrics']['fid'])
  pictures = {}
  for step, by_settings in curves.items():
    figure = Figure(figsize=(5, 4), layout='constrained')
    axes = figure.add_subplot()
    for curve in by_settings.values():
      axes.plot(sorted(curve), [np.mean(curve[std]) for std in sorted(curve)], marker='o')
    axes.set_xlabel('relative standard deviation of the average')
    axes.set_ylabel('FID (lower is better)')
    axes.grid(alpha=0.3)
    out = io.BytesIO()
    figure.savefig(out, format='png', dpi=120, metadata={'Software': None})
    pictures[f'ema_{step:08d}.png'] = out.getvalue()
  return pictures


def grids(rows: list[Row], allow: Collection[str] = ()) -> dict[str, bytes]:
  """Name -> PNG: samples of each row, with the same keys and classes for all; of external images the first ones.

  Prints which rows have none, such as runs whose checkpoint was deleted. `allow` as in `genjax.load`.
  """
  pictures = {}
  for number, row in enumerate(rows, 1):
    model, path = row.card['model'], row.card.get('run', row.run)
    if row.is_external:
      try:
        pictures[f'grid {number}: {row.name}, the first images'] = grid_path(row.run / file_name(row.card)).read_bytes()
      except OSError as error:
        print(f'{row.name} has no grid: {error.filename} cannot be read ({error.strerror}).')
      continue
    ema = ema_of(model)
    try:
      run = load(path, model['step'], ema, allow, model['best'])
      if guide := model.get('guide'):
        run = run.guided_by(load(guide['run'], guide['step'], ema, allow))
    except UsageError as error:  # the checkpoint may have been deleted since the evaluation
      print(f'{row.name} has no grid: {error}')
      continue
    columns = grid_columns(run.objective)
    n = 8 * columns
    images = run.sample(rng.key(0), n, **grid_cond(run.objective, n), **build(model['options'], allow))
    classes = ', one class per column' if run.classes else ''
    pictures[f'grid {number}: {row.name}{classes}'] = encode_image(grid_image(np.asarray(to_uint8(images)), columns))
  return pictures


def page(
  title: str, rows: list[Row], pictures: dict[str, bytes], differences: list[list[str]] = (), baseline: Row | None = None
) -> str:
  """A self-contained HTML page with tables, figures and protocols. `differences` is a `tables.difference_table`."""
  lines, runs = table(rows, baseline), [row for row in rows if not row.is_external]
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
  parts += [f'<p>{html.escape(line)}</p>' for line in legend(rows, baseline)]
  if differences:
    parts.append('<h2>Differences</h2><table>' + cells(differences[0], 'th'))
    parts.append(''.join(cells(line, 'td') for line in differences[1:]) + '</table>')
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
