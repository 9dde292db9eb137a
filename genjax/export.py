"""Exports: a trained model as safetensors and JSON, to copy to another machine or to publish.

  weights.safetensors  averaged parameters and buffers, 'params/<player>/...' and 'buffers/...'
  config.json          the config of the run, including class names; its section `export` has the step and hash
  evaluation/          the cards of that step
  sampler.stablehlo    with `stablehlo`: the sampler as `jax.export` serializes it, for CPU, CUDA and TPU
  README.md            a description of the model, and how to sample from it

`genjax.load` opens an export like a run.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

import jax
import numpy as np
from jax import export as jax_export
from safetensors.numpy import save

from genjax import rng
from genjax.errors import UsageError
from genjax.files import check_path, write_json, write_whole
from genjax.metrics import card, card_files
from genjax.run import Run
from genjax.types import Variables
from genjax.weights import WEIGHTS, flatten, tree_hash

SAMPLER = 'sampler.stablehlo'
PLATFORMS = ('cpu', 'cuda', 'tpu')


def export(run: Run, folder: str | Path, stablehlo: bool = False, half: bool = False, **options) -> Path:
  """Writes an export of a run.

  Args:
    run: a run or another export.
    folder: created; must be empty or not exist.
    stablehlo: also export the sampler, with a symbolic batch size.
    half: store the weights as float16, in half the space. They are float32 again when the export is opened.
    **options: of the exported sampler, such as `steps=10`; see `run.options`.

  Raises:
    UsageError: the folder is not empty or cannot be written to, an option is unknown or has no effect without `stablehlo`,
      the run is guided by another, or weights are too large for float16.
  """
  check_path('folder', folder)
  folder = Path(folder)
  if run.guide:
    raise UsageError(f'{run.path} is guided by {run.guide.path}, but an export contains one model: export both separately.')
  check_empty(folder)
  if options and not stablehlo:
    raise UsageError(
      f'{next(iter(options))} is an option of the exported sampler: add --stablehlo (stablehlo=True), or set it when sampling.'
    )
  options = run.options | run.checked(options)
  variables = Variables(*jax.device_get(run.variables))
  arrays = flatten(variables._asdict())
  arrays = {name: to_float16(name, x) for name, x in arrays.items()} if half else arrays
  record = {'step': run.step, 'ema': run.ema, 'hash': tree_hash(arrays), 'cost': card.training_cost(run.path, run.step)}
  config = portable_config(run.config) | {'export': record | ({'half': True} if half else {})}
  sampler = serialized_sampler(run, arrays, options) if stablehlo else b''
  cards, likelihoods = portable_cards(run, card_files.load), portable_cards(run, card_files.load_likelihoods)
  if sampler:
    write_whole(folder / SAMPLER, sampler)
  for entry in cards:
    card_files.save(folder, entry)
  for entry in likelihoods:
    card_files.save_likelihood(folder, entry)
  text = readme(run, config, folder.name, options if stablehlo else None) + evaluations(cards, likelihoods)
  write_export(folder, arrays, config, text)
  return folder


def to_float16(name: str, x: np.ndarray) -> np.ndarray:
  """float32 as float16; other types unchanged. Raises UsageError for values that float16 does not have."""
  if x.dtype != np.float32:
    return x
  if np.abs(x).max(initial=0) > np.finfo(np.float16).max:
    raise UsageError(f'{name} has values that are too large for float16: export without --half (half=False).')
  return x.astype(np.float16)


def check_empty(folder: Path) -> None:
  """Raises UsageError unless `folder` is empty or does not exist."""
  if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
    raise UsageError(f'{folder} is not empty: use another folder.')


def write_export(folder: Path, arrays: Mapping[str, Any], config: Mapping[str, Any], text: str) -> None:
  """Writes weights, README.md (`text`) and config.json, whose section `export` has step and hash of the arrays."""
  write_whole(folder / WEIGHTS, save(dict(arrays), {'format': 'genjax'}))
  write_whole(folder / 'README.md', text)
  write_json(folder / 'config.json', config)  # last: a folder without it is not opened as an export


def portable_config(config: Mapping[str, Any]) -> dict[str, Any]:
  """A config without the paths of the machine that trained the model."""
  name = lambda path: PurePath(path).name if isinstance(path, str) and ('/' in path or path.startswith('~')) else path  # noqa: E731
  data = config['data'] | {'data_dir': ''}
  data |= {key: name(data[key]) for key in ('name',) if data.get(key, '').startswith(('/', '.', '~'))}
  train = config['train'] | ({'init_from': name(config['train']['init_from'])} if config['train'].get('init_from') else {})
  frozen = {key: part | {'run': name(part['run'])} for key, part in (config.get('frozen') or {}).items()}
  return {**config, 'data': data, 'train': train} | ({'frozen': frozen} if frozen else {})


def portable_cards(run: Run, load: Callable[[Path], list[dict[str, Any]]]) -> list[dict[str, Any]]:
  """The cards of the exported parameters that `load` reads, without the paths of this machine."""
  try:
    cards = load(run.path)
  except UsageError:  # it was not evaluated
    return []
  is_exported = lambda model: model['step'] == run.step and card.ema_of(model) == run.ema and not model.get('guide')  # noqa: E731
  entries = [entry for entry in cards if not card.is_external(entry) and is_exported(entry['model'])]
  for entry in entries:
    entry['model']['run'] = Path(entry['model']['run']).name
    entry['protocol']['reference']['data'] = PurePath(entry['protocol']['reference']['data']).name
    entry.pop('run', None)
  return entries


def serialized_sampler(run: Run, arrays: Mapping[str, Any], options: Mapping[str, Any]) -> bytes:
  """`jax.export` of the sampler: (weights, key data uint32 [2], index int32 [n], {field: [n, ...]}) -> images [n, H, W, C]."""
  structure, types = jax.tree.structure(run.variables._asdict()), [x.dtype for x in jax.tree.leaves(run.variables._asdict())]

  def sample(weights, key, index, cond):
    leaves = [weights[name].astype(dtype) for name, dtype in zip(arrays, types, strict=True)]
    variables = Variables(**jax.tree.unflatten(structure, leaves))
    keys = rng.image_keys(jax.random.wrap_key_data(key, impl=rng.IMPL), index)
    return run.objective.sample(variables, keys, cond, **options)

  (n,) = jax_export.symbolic_shape('n')
  shape = lambda x, *batch: jax.ShapeDtypeStruct((*batch, *x.shape), x.dtype)  # noqa: E731
  weights = {name: shape(x) for name, x in arrays.items()}
  fields = run.objective.conditioner.fields
  cond = {name: shape(x, n) for name, x in run.example.cond.items() if name in fields}
  exporter = jax_export.export(jax.jit(sample), platforms=PLATFORMS)
  traced = exporter(weights, jax.ShapeDtypeStruct((2,), np.uint32), jax.ShapeDtypeStruct((n,), np.int32), cond)
  return bytes(traced.serialize())


def readme(run: Run, config: Mapping[str, Any], name: str, options: Mapping[str, Any] | None) -> str:
  """README.md of an export without the evaluations; `options` are those of the exported sampler, None without one."""
  data, train = config['data'], config['train']
  side = ' x '.join(map(str, data['image_shape']))
  sizes = {player: sum(np.size(x) for x in jax.tree.leaves(tree)) for player, tree in run.variables.params.items()}
  classes = f'* Classes: {", ".join(run.classes)}\n' if run.classes else ''
  label = f", label='{run.classes[0]}'" if run.classes else ''
  kimg = run.step * train['batch_size'] / 1000
  half = ', stored as float16, computed as float32; evaluated before rounding' if config['export'].get('half') else ''
  width = '' if isinstance(run.ema, bool) else f' (post-hoc EMA of width {run.ema:g})'
  text = f"""# {name}

A model of {side} images, trained with genjax.

* Objective: {type(run.objective).__name__}
* Data: {data['name']}, {data.get('size', 'unknown')} images
{classes}* Parameters: {', '.join(f'{player} {size:,}' for player, size in sizes.items())}
* Training: {run.step:,} steps of {train['batch_size']} images ({kimg:,.0f} kimg)
* Weights: {'averaged' if run.ema else 'last'} parameters{width}{half}

## Sample

```bash
python sample.py --run {name} --n 64
```

```python
import genjax, jax

run = genjax.load('{name}')
images = run.sample(jax.random.key(0), 16{label})  # float32 [16, {side.replace(' x', ',')}] in [-1, 1]
```
"""
  return text if options is None else text + without_genjax(run, options)


def evaluations(cards: list[dict[str, Any]], likelihoods: list[dict[str, Any]]) -> str:
  """The section of README.md on the cards; empty without any."""
  text = '\n## Evaluation\n' if cards or likelihoods else ''
  for entry in cards:
    protocol = entry['protocol']
    metrics = '\n'.join(f'| {metric} | {value:.4g} |' for metric, value in entry['metrics'].items())
    text += f"""
{protocol['samples']} samples with seed {entry['model']['seed']} against {protocol['reference']['images']} images of \
{protocol['reference']['data']} {protocol['reference']['split']}, features `{protocol['features']['name']}` \
({protocol['features']['hash']}); all settings are in `evaluation/{card_files.file_name(entry)}`.

| metric | value |
|---|---|
{metrics}
"""
  if likelihoods:
    text += '\n| likelihood | images | nats (95 % over images) | bits per dimension |\n|---|---|---|---|\n'
  for entry in likelihoods:
    protocol, metrics, images = entry['protocol'], entry['metrics'], entry['protocol']['reference']
    text += f'| {protocol["estimator"]}: {protocol["kind"]}, of {protocol["measures"]} '
    text += f'| {images["images"]} of {images["data"]} {images["split"]} '
    text += f'| {metrics["nll_nats"]:.5g} [{metrics["nll_low"]:.5g}, {metrics["nll_high"]:.5g}] '
    text += f'| {metrics["bits_per_dim"]:.4g} |\n'
  return text


def without_genjax(run: Run, options: Mapping[str, Any]) -> str:
  """The section of README.md on `sampler.stablehlo`."""
  fields = [name for name in run.example.cond if name in run.objective.conditioner.fields]
  values = {'label': f'np.arange(n, dtype=np.int32) % {len(run.classes)}'}
  zeros = lambda x: f'np.zeros((n, {", ".join(map(str, x.shape))}), np.{x.dtype})'  # noqa: E731
  cond = ', '.join(f"'{name}': {values.get(name) or zeros(run.example.cond[name])}" for name in fields)
  described = json.dumps({name: value for name, value in options.items() if isinstance(value, str | int | float | bool)})
  return f"""
## Sample without genjax

`{SAMPLER}` is the sampler with the options {described}, for {', '.join(PLATFORMS)}. It needs the packages jax,
flatbuffers and safetensors:

```python
import jax, numpy as np
from jax import export
from safetensors.numpy import load_file

sampler = export.deserialize(open('{SAMPLER}', 'rb').read())
weights = load_file('{WEIGHTS}')
n, key = 16, jax.random.key_data(jax.random.key(0))
cond = {{{cond}}}
images = sampler.call(weights, key, np.arange(n, dtype=np.int32), cond)  # float32 in [-1, 1]
```
"""
