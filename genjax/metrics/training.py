"""Evaluation during training: `train.evaluate_every`."""

import dataclasses
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from genjax.build import as_spec
from genjax.config import TrainConfig
from genjax.data.sources.base import Source
from genjax.errors import UsageError
from genjax.metrics import card, card_files, collapse
from genjax.metrics.counting import evaluations
from genjax.metrics.evaluation import compare_sets, draw
from genjax.metrics.extractors import cache_folder
from genjax.metrics.modes import open_features
from genjax.metrics.reference import held_out_images, reference
from genjax.objectives.gan.gan import AdversarialGame
from genjax.run import average_of, sampling_options
from genjax.types import Objective, Variables


def make_online_evaluator(
  workdir: Path,
  train: TrainConfig,
  objective: Objective,
  source: Source,
  data: dict[str, Any],
  mesh: Mesh,
  allow: Collection[str] = (),
) -> Callable[[Variables, int], card.Card]:
  """Returns `evaluate(variables, step)`, which compares samples with the training images `source` and returns a card.

  The card is also written to evaluation/training/step_<step>.json. `data` are the options of `open_data` for `source`. Raises
  UsageError on several hosts.
  """
  if jax.process_count() > 1:
    raise UsageError('train.evaluate_every works only on one host: set it to 0, and evaluate checkpoints with evaluate.py.')
  try:
    extractor = open_features(train.evaluate_features, '', source, held_out_images(source, allow=allow, **data), data, allow)
  except UsageError as error:
    raise UsageError(f'train.evaluate_features={train.evaluate_features}: {error}') from None
  real = reference(source, data['split'], extractor, mesh, cache_folder())
  labels = card.origin_of_labels(objective.conditioner, source.num_classes, data['split'])
  floor = card.fid_floor(real, train.evaluate_samples, labels == card.AS_REFERENCE)

  average = average_of(dataclasses.asdict(train), allow)

  def evaluate(variables, step):
    begin = time.perf_counter()
    samples = draw(objective, variables, extractor, real, mesh, train.evaluate_samples, source=source)
    options = sampling_options(objective)
    more = {
      'options': {name: as_spec(value) for name, value in options.items()},
      'evaluations': evaluations(objective, variables, options, source),
      'seed': 0,
    }
    metrics = samples.metrics | compare_sets(samples, real)
    result = {
      'metrics': metrics,
      'protocol': card.protocol(extractor, real, train.evaluate_samples, None, labels),
      'model': card.model(workdir, step, dataclasses.asdict(train), average, objective, **more),
      'cost': samples.cost | {'seconds': round(time.perf_counter() - begin, 3)} | card.training_cost(workdir, step),
      'floor': floor,
      'notes': card.notes(train.evaluate_samples, real, extractor, floor, metrics['fid']),
      'flags': collapse.flags(collapse.collapse_metrics(metrics), isinstance(objective, AdversarialGame)),
      **card.environment(),
    }
    card_files.write(workdir / 'evaluation' / 'training' / f'step_{step:08d}.json', result)
    return result

  return evaluate


def evaluation_summary(evaluation: card.Card) -> str:
  """A short description of the samples and features of a card."""
  protocol = evaluation['protocol']
  quick = ', a quick estimate' if protocol['samples'] < card.QUICK else ''
  return f'{protocol["samples"]} samples, {protocol["features"]["name"]}{quick}'
