"""The options of a config's sections, and which of them may change when a run is resumed."""

import dataclasses
import fnmatch
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from genjax.build import defaults, with_defaults
from genjax.data import contents
from genjax.data.sources.open import open_data
from genjax.errors import UsageError
from genjax.parallel import STRATEGIES


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """The section `train` of a config."""

  steps: int
  batch_size: int  # images per step over all devices
  seed: int = 0  # of the initial parameters, the order of the images and all noise
  log_every: int = 100  # steps
  checkpoint_every: int = 1000  # steps
  sample_every: int = 1000  # steps
  keep: int = 2  # newest checkpoints kept
  keep_every: int = 0  # checkpoints at multiples of this step are kept permanently; 0: none
  evaluate_every: int = 0  # thousands of images; 0: never. The checkpoint of the lowest FID is kept in best/
  evaluate_samples: int = 2000
  evaluate_features: str = 'classifier'  # or 'inception', 'efficientnet_lite0', a function of yours (evaluate.py)
  ema_halflife: float = 10_000.0  # images
  posthoc_every: int = 0  # thousands of images between averages that are kept for post-hoc EMA; 0: none
  average: Mapping[str, Any] | None = None  # spec of another average of the parameters than optim.EMA
  init_from: str = ''  # a run whose parameters a new run starts from
  accumulate: int = 1  # microbatches per step
  strategy: str = 'jit'  # data parallel; 'fsdp': the state split too; or 'pmap'
  dtype: str = 'float32'  # of the computation; 'bfloat16' on GPU and TPU. Parameters stay float32

  def __post_init__(self):
    for name in ('steps', 'batch_size', 'log_every', 'checkpoint_every', 'sample_every', 'keep', 'accumulate'):
      if getattr(self, name) < 1:
        raise UsageError(f'train.{name}={getattr(self, name)} must be 1 or more.')
    if self.keep_every % self.checkpoint_every or self.keep_every < 0:
      raise UsageError(
        f'train.keep_every={self.keep_every} must be 0 or a multiple of checkpoint_every={self.checkpoint_every}.'
      )
    if self.evaluate_every < 0 or self.evaluate_samples < 100:
      raise UsageError(
        f'train.evaluate_every={self.evaluate_every} must be 0 or more, evaluate_samples={self.evaluate_samples} at least 100.'
      )
    if self.posthoc_every < 0:
      raise UsageError(f'train.posthoc_every={self.posthoc_every} must be 0 or more.')
    if not 0 <= self.seed < 2**32:
      raise UsageError(f'train.seed={self.seed} must be from 0 to {2**32 - 1}.')
    if not 0 < self.ema_halflife < float('inf'):
      raise UsageError(f'train.ema_halflife={self.ema_halflife} must be positive: it is in images.')
    if self.batch_size % self.accumulate:
      raise UsageError(f'train.batch_size={self.batch_size} must be a multiple of train.accumulate={self.accumulate}.')
    if self.strategy not in STRATEGIES:
      raise UsageError(f'train.strategy={self.strategy!r} must be one of {", ".join(STRATEGIES)}.')
    if self.dtype not in ('float32', 'bfloat16'):
      raise UsageError(f'train.dtype={self.dtype!r} must be float32 or bfloat16.')


def section_defaults() -> dict[str, dict[str, Any]]:
  """The options of the sections `data` and `train` that have defaults, with them."""
  return {'data': defaults(open_data) | {'flip': False}, 'train': defaults(TrainConfig)}


# On resume: what does not change the result (docs/design.md, invariant 4), and how far to go.
MAY_CHANGE = {f'train.{name}_every' for name in ('log', 'checkpoint', 'sample', 'keep', 'evaluate')}
MAY_CHANGE |= {'train.steps', 'train.keep', 'train.strategy', 'train.accumulate'}
MAY_CHANGE |= {'data.memory_gib', 'data.data_dir', '*.remat'}
MAY_CHANGE |= {'run_id'}  # not an option
MAY_CHANGE |= {'frozen.*.run'}  # the hash decides, not the path
MAY_CHANGE |= {'data.skip', 'data.channels'}  # the remedies for bad images, after which the order is another
MAY_CHANGE |= {f'data.{name}' for name in contents.RECORDED if name != 'image_shape'}  # `contents.changes` compares them


def differences(old: Any, new: Any, name: str = '') -> list[tuple[str, Any, Any]]:
  """(name, old, new) for each leaf in which two JSON trees differ."""
  if isinstance(old, dict) and isinstance(new, dict):
    keys = sorted(old.keys() | new.keys())
    return [d for k in keys for d in differences(old.get(k), new.get(k), f'{name}.{k}' if name else k)]
  return [] if old == new else [(name, old, new)]


def differences_that_matter(
  old: dict[str, Any], new: dict[str, Any], may_change: Collection[str]
) -> list[tuple[str, Any, Any]]:
  """`differences` without the options that match a pattern in `may_change`."""
  return [d for d in differences(old, new) if not any(fnmatch.fnmatch(d[0], pattern) for pattern in may_change)]


def refuse_another_config(
  workdir: Path,
  old: dict[str, Any],
  new: dict[str, Any],
  allow: Collection[str] = (),
  config_at: Callable[[int], dict[str, Any]] | None = None,
) -> list[str]:
  """Raises UsageError if a config differs from that of a run which has a checkpoint.

  Only options in MAY_CHANGE may differ, and values that the config computes from `train.steps`. Returns messages about the
  latter. An option that genjax did not have when the run began counts as its default, which preserves the previous behavior.
  """
  steps = old['train'].get('steps')
  old = json.loads(json.dumps(with_defaults(old, allow)))
  old['data'] = {'background': ''} | old['data']
  old |= {section: options | old[section] for section, options in section_defaults().items()}
  refusal, notes = contents.changes(old['data'], new['data'])
  may_change = MAY_CHANGE | ({'data.name'} if 'hash' in old['data'] else set())  # the content decides, not the path
  changed, explained = differences_that_matter(old, new, may_change), []
  if changed and config_at and isinstance(steps, int) and steps > 0:
    unexplained = {name for name, _, _ in differences_that_matter(old, json.loads(json.dumps(config_at(steps))), may_change)}
    explained = [f'{name} changes from {a} to {b} with train.steps.' for name, a, b in changed if name not in unexplained]
    changed = [d for d in changed if d[0] in unexplained]
  if changed:
    shown = '; '.join(f'{name}: {json.dumps(a)} -> {json.dumps(b)}' for name, a, b in changed[:5])
    shown += f'; and {len(changed) - 5} more' if len(changed) > 5 else ''
    raise UsageError(f'{workdir} belongs to another config ({shown}).\nUse another --workdir, or the old options.')
  if refusal:
    raise UsageError(f'{workdir}: {refusal}. Restore the data that it was trained on, or use another --workdir.')
  for note in notes:
    print(f'{workdir}: {note}')
  return explained
