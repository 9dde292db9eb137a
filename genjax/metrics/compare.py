"""Comparisons of runs: rows of cards, confidence intervals and tables (genjax/metrics/report.py makes figures and a page).

Only cards with the same protocol are compared (genjax/metrics/card.py). A row is one setting: a config, a step, a sampler. Runs
whose configs differ only in `train.seed` are trainings of one row, and seeds of evaluate.py are samplings of a training.
Intervals use Student's t over trainings if there are several, else over samplings. A bootstrap of two or three values would be
too narrow: its 95 % intervals covered 51 % with 2 seeds, 75 % with 3 and 84 % with 5.
"""

import fnmatch
import json
import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from genjax.config import MAY_CHANGE, differences
from genjax.errors import UsageError, unknown
from genjax.metrics.card import UNKNOWN, Card, check_same, comparable_protocol, is_external, settings
from genjax.metrics.card_files import load, tag
from genjax.workdir import read_config

BETTER = {
  'fid': '↓', 'fid_infinity': '↓', 'kid': '↓', 'inception_score': '↑', 'precision': '↑', 'recall': '↑', 'density': '↑',
  'coverage': '↑', 'copies_median_ratio': '', 'classification_accuracy': '↑', 'nll_nats': '↓', 'bits_per_dim': '↓',
}  # fmt: skip
POSSIBLE = dict.fromkeys(('precision', 'recall', 'coverage', 'classification_accuracy'), (0.0, 1.0))
POSSIBLE |= {'fid': (0.0,), 'density': (0.0,)}
OF_LIKELIHOOD = ('nll_nats', 'bits_per_dim')
BOOKKEEPING = (MAY_CHANGE | {'train.evaluate_*', 'export', 'export.*'}) - {'train.steps'}  # do not affect the model


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

  @property
  def runs(self) -> list[Path]:
    """The run directory of each training; none for external images."""
    first = {
      training: Path(card['model']['run']) for (training, _), card in sorted(self.cards.items()) if 'run' in card['model']
    }
    return [] if self.is_external else list(first.values())

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
  for run, group in cards.items():
    if not group:
      package = f' --allow_package {features.split(".")[0]}' if '.' in features else ''
      first = load(run)[0]
      source = f'--images {first["model"]["images"]} --data ... --out' if is_external(first) else '--run'
      raise UsageError(
        f'{run} was not evaluated with --features {features}. '
        f'Run: python evaluate.py {source} {run} --features {features}{package}'
      )
  infer_held_out([card for group in cards.values() for card in group])
  protocols = {run: {tag(comparable_protocol(card)): card for card in sorted(cards[run], key=created)} for run in runs}
  held = {t: [run for run in runs if t in protocols[run]] for group in protocols.values() for t in group}
  newest = lambda t: max(created(protocols[run][t]) for run in held[t])  # noqa: E731
  size = lambda t: protocols[held[t][0]][t]['protocol']['samples']  # noqa: E731
  chosen = max(held, key=lambda t: (len(held[t]), runs[0] in held[t], size(t), newest(t)))
  for run in runs:
    if run not in held[chosen]:
      common = protocols[held[chosen][0]][chosen]
      check_same(
        common, min(cards[run], key=lambda card: len(differences(comparable_protocol(common), comparable_protocol(card))))
      )
  rows: list[Row] = []
  for run, name in zip(runs, short_names(runs), strict=True):
    alike = {}
    for card in sorted(cards[run], key=created):
      if tag(comparable_protocol(card)) == chosen:
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
        rows[twin] = Row(joined_name(rows[twin].name, row.name), first.run, rows[twin].cards | row.cards)
  return rows


def joined_name(a: str, b: str) -> str:
  """The name of a row of two trainings: 'beta=1' of 'beta=1,seed=0' and 'beta=1,seed=1', as sweep.py names runs, else both."""
  setting = lambda name: re.sub(r',seed=\d+$', '', name)  # noqa: E731
  return setting(a) if setting(a) == setting(b) else f'{a}, {b}'


def infer_held_out(cards: list[Card]) -> None:
  """Fills in the test images of cards that do not name them from cards with the same protocol, if these agree."""
  named: dict[str, list[Any]] = {}
  key = lambda card: tag(comparable_protocol(card, ['held_out']))  # noqa: E731
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


class Difference(NamedTuple):
  """A metric of a row minus that of another, paired by seed: over trainings if both have several, else over samplings."""

  values: np.ndarray  # one per pair
  interval: tuple[float, float]  # 95 %, of the mean

  @property
  def needed(self) -> int:
    """Pairs for which the interval would exclude 0 if mean and standard deviation stay the same; 0: more than 10,000."""
    mean, deviation = abs(self.values.mean()), self.values.std(ddof=1)
    counts = np.arange(2, 10_001)
    enough = stdtrit(counts - 1, 0.975) * deviation < mean * np.sqrt(counts)
    return int(counts[enough.argmax()]) if enough.any() else 0


def difference(row: Row, other: Row, metric: str) -> Difference | None:
  """The paired difference of a metric; None if fewer than two seeds are in common, or likelihoods are of different kinds."""
  seeds = {s for s in row.cards.keys() & other.cards.keys() if all(metric in r.cards[s]['metrics'] for r in (row, other))}
  if row is other or not seeds or (metric in OF_LIKELIHOOD and row.likelihood != other.likelihood):
    return None
  a, b = row.values(metric, seeds), other.values(metric, seeds)
  if a is None or b is None or len(a) < 2 or len(a) != len(b):
    return None
  return Difference(a - b, interval(a - b))


def metrics_of(rows: list[Row]) -> list[str]:
  """The metrics that were measured for any row, in the order of the table."""
  return [name for name in BETTER if any(row.values(name) is not None for row in rows)]


def find_row(rows: list[Row], name: str) -> Row:
  """The row with this name, or of the run at this path; the first row if `name` is empty. Raises UsageError."""
  if not name:
    return rows[0]
  for row in rows:
    paths = [path.resolve() for path in (row.run, *row.runs)]
    if name in (row.name, *row.name.split(', ')) or Path(name).resolve() in paths:
      return row
  raise UsageError(unknown('baseline', name, [row.name for row in rows]))


def sort_rows(rows: list[Row], metric: str) -> list[Row]:
  """The rows with the best value of a metric first, those without it last. Raises UsageError for an unknown metric."""
  known = metrics_of(rows)
  if metric not in known:
    raise UsageError(unknown('metric', metric, known))
  sign = -1 if BETTER[metric] == '↑' else 1
  value = lambda row: math.inf if row.values(metric) is None else sign * row.values(metric).mean()  # noqa: E731
  return sorted(rows, key=value)
