"""Converts weights of another library to an export: `python -m genjax.convert FORMAT FILE --out DIR`.

  diffusers_ddpm   UNet2DModel of diffusers in the layout of google/ddpm-cifar10-32, as safetensors

`genjax.load` and `sample.py --run DIR` open the export like a run. See `docs/exporting.md` for details.
"""

import collections
import dataclasses
import hashlib
import itertools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from genjax.build import build, fill_inferred, matches_type, with_defaults
from genjax.commandline import Parser, load_config
from genjax.errors import UsageError, unknown
from genjax.export import check_empty, write_export
from genjax.files import check_writable
from genjax.run import abstract_state, recorded_example
from genjax.schema import SCHEMA
from genjax.weights import flatten, tree_hash

CONFIG = Path(__file__).parent.parent / 'configs' / 'cifar10_ddpm.py'
SHOWN = 8  # keys in an error message
Modules = Mapping[str, Mapping[str, tuple[str, ...]]]  # of genjax -> their parts ('': themselves) -> modules of diffusers
LAYOUT = 'Weights of UNet2DModel in the layout of google/ddpm-cifar10-32 can be converted.'

# Parts of a block of genjax -> of diffusers.
RES_BLOCK = {
  'GroupNorm_0': 'norm1',
  'Conv_0': 'conv1',
  'Dense_0': 'time_emb_proj',
  'GroupNorm_1': 'norm2',
  'Conv_1': 'conv2',
  'Conv_2': 'conv_shortcut',
}
QUERY_KEY_VALUE = (('to_q', 'to_k', 'to_v'), ('query', 'key', 'value'))  # of present and of old files
PROJECTION = ('to_out.0', 'proj_attn')

# Options of UNet2DModel that genjax's UNet has only one value of. The defaults of UNet2DModel are these, too.
FIXED = {
  'act_fn': ('silu', 'swish'),
  'add_attention': (True,),
  'attn_norm_num_groups': (None,),
  'center_input_sample': (False,),
  'class_embed_type': (None,),
  'downsample_type': ('conv',),
  'mid_block_scale_factor': (1,),
  'num_class_embeds': (None,),
  'resnet_time_scale_shift': ('default',),
  'time_embedding_type': ('positional',),
  'upsample_type': ('conv',),
}
# Options of a scheduler. The defaults of diffusers' DDPMScheduler are these, too.
SCHEDULE = {
  'num_train_timesteps': (1000,),
  'beta_start': (1e-4,),
  'beta_end': (0.02,),
  'beta_schedule': ('linear',),
  'trained_betas': (None,),
  'prediction_type': ('epsilon',),
  'rescale_betas_zero_snr': (False,),
}


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of UNet2DModel that the shapes of its arrays do not show; the defaults are those of google/ddpm-cifar10-32."""

  sample_size: int = 32  # side of the images
  attention_head_dim: int | None = None  # channels of an attention head; None: one head
  downsample_padding: int = 0  # 1: on all sides; 0: only at the bottom and right
  flip_sin_to_cos: bool = False  # embedding of the time: cosines before sines
  freq_shift: float = 1  # lowest frequency of the embedding: 10,000^-((n - 1) / (n - freq_shift)) for n frequencies
  norm_eps: float = 1e-6
  norm_num_groups: int = 32


# Defaults of UNet2DModel, for a config.json without these options.
UNET2D_MODEL = {
  'sample_size': None,
  'attention_head_dim': 8,
  'downsample_padding': 1,
  'flip_sin_to_cos': True,
  'freq_shift': 0,
  'norm_eps': 1e-5,
  'norm_num_groups': 32,
}


def convert_ddpm(file: str | Path, folder: str | Path) -> Path:
  """Converts a UNet2DModel of diffusers to an export with the config of configs/cifar10_ddpm.py.

  Widths and depths are inferred from the shapes of the arrays. Other options are read from diffusers' config.json next to
  `file`; without it, they are those of google/ddpm-cifar10-32.

  Args:
    file: a safetensors file.
    folder: created; must be empty or not exist.

  Raises:
    UsageError: the folder is not empty or not writable, a file cannot be read, or the network differs from genjax's UNet.
  """
  file, folder = Path(file), Path(folder)
  check_empty(folder)
  check_writable(folder, 'use another path for --out')
  tensors = read_safetensors(file)
  options = read_options(file.parent / 'config.json')
  for path in (file.parent / 'scheduler_config.json', file.parent.parent / 'scheduler' / 'scheduler_config.json'):
    check_values(path, read_json(path), SCHEDULE)
  layout = infer_layout(file, tensors)
  modules = layout.modules(is_old=any(key.endswith('.query.weight') for key in tensors))
  check_keys(file, tensors, modules)
  network = network_options(file, layout, options)
  config = resolved_config((options.sample_size, options.sample_size, layout.channels), network)
  objective = build(config['objective'])
  like = abstract_state(objective, recorded_example(config['data'], objective)).variables()
  arrays = convert_arrays(file, tensors, modules, flatten(like._asdict()), network['head_features'])
  name = 'params/model/Embedding/Dense_0/kernel'
  arrays[name] = shifted_embedding(arrays[name], network['max_period'], options.flip_sin_to_cos)
  config['export'] = {
    'step': 0,
    'ema': True,
    'hash': tree_hash(arrays),
    'cost': {'training_device_seconds': 0.0, 'training_kimg': 0.0, 'training_device': 'unknown'},
    'converted': {'format': 'diffusers_ddpm', 'file': file.name, 'sha256': hashlib.sha256(file.read_bytes()).hexdigest()},
  }
  write_export(folder, arrays, config, readme(folder.name, config, sum(x.size for x in arrays.values())))
  return folder


FORMATS = {'diffusers_ddpm': convert_ddpm}


# Files


def read_safetensors(file: Path) -> dict[str, np.ndarray]:
  """Name -> array. Raises UsageError if the file is not a safetensors file, or has arrays of a type that NumPy lacks."""
  try:
    return load_file(file)
  except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
    raise UsageError(f'{file} cannot be read ({error}): use a safetensors file of float32 arrays.') from None


def read_json(path: Path) -> dict[str, Any]:
  """The dictionary in a JSON file; empty if there is no such file. Raises UsageError for other content."""
  if not path.is_file():
    return {}
  try:
    content = json.loads(path.read_text())
  except (OSError, ValueError, RecursionError) as error:
    raise UsageError(f'{path} is not valid JSON ({error}): copy it again, or remove it.') from None
  if not isinstance(content, dict):
    raise UsageError(f'{path} is not a config of diffusers: copy it again, or remove it.')
  return content


def read_options(path: Path) -> Options:
  """The options in a config.json of diffusers, or those of google/ddpm-cifar10-32 if there is no such file.

  Raises:
    UsageError: it is the config of another class, or an option has a value that genjax's UNet does not have.
  """
  config = read_json(path)
  if not config:
    return Options()
  if config.get('_class_name', 'UNet2DModel') != 'UNet2DModel':
    raise UsageError(f'{path}: _class_name={config["_class_name"]!r} cannot be converted. {LAYOUT}')
  check_values(path, config, FIXED)
  options = Options(**{name: config.get(name, default) for name, default in UNET2D_MODEL.items()})
  for field in dataclasses.fields(Options):
    value = getattr(options, field.name)
    if not matches_type(value, field.type):
      kind = getattr(field.type, '__name__', field.type)
      raise UsageError(f'{path}: {field.name}={value!r} must be of type {kind}: correct it.')
  for name, valid in (
    ('sample_size', options.sample_size > 0),
    ('attention_head_dim', options.attention_head_dim is None or options.attention_head_dim > 0),
    ('downsample_padding', options.downsample_padding in (0, 1)),
    ('norm_eps', options.norm_eps > 0),
    ('norm_num_groups', options.norm_num_groups > 0),
  ):
    if not valid:
      raise UsageError(f'{path}: {name}={getattr(options, name)!r} cannot be converted. {LAYOUT}')
  return options


def check_values(path: Path, config: Mapping[str, Any], values: Mapping[str, tuple]) -> None:
  """Raises UsageError if an option in `config` has none of its `values`."""
  for name, allowed in values.items():
    if name in config and config[name] not in allowed:
      expected = ' or '.join(map(repr, allowed))
      raise UsageError(f'{path}: {name}={config[name]!r} cannot be converted; it must be {expected}. {LAYOUT}')


# The network


@dataclasses.dataclass(frozen=True)
class Layout:
  """Widths and depths of a UNet2DModel."""

  channels: int  # of the images
  widths: tuple[int, ...]  # channels of each resolution
  blocks: int  # residual blocks of each resolution
  attention: tuple[int, ...]  # resolutions with attention: 0 is that of the images, 1 half of it, ...

  def modules(self, is_old: bool) -> Modules:
    """The modules of genjax's UNet, in the order in which it creates them.

    Args:
      is_old: use the names that attention layers have in old files.
    """
    single = lambda prefix, parts: {ours: (f'{prefix}.{theirs}',) for ours, theirs in parts.items()}  # noqa: E731
    embedding = single('time_embedding', {'Dense_0': 'linear_1', 'Dense_1': 'linear_2'})
    modules, counts = {'Embedding': embedding}, collections.Counter()

    def add(kind, parts):
      modules[f'{kind}_{counts[kind]}'] = parts
      counts[kind] += 1

    def layer(kind, name):
      add(kind, {'': (name,)})

    def block(prefix, number, attends):
      add('ResBlock', single(f'{prefix}.resnets.{number}', RES_BLOCK))
      if attends:
        place = f'{prefix}.attentions.{number}'
        heads = tuple(f'{place}.{name}' for name in QUERY_KEY_VALUE[is_old])
        add('Attention', single(place, {'GroupNorm_0': 'group_norm', 'Dense_1': PROJECTION[is_old]}) | {'Dense_0': heads})

    last = len(self.widths) - 1
    layer('Conv', 'conv_in')
    for level in range(last + 1):
      for number in range(self.blocks):
        block(f'down_blocks.{level}', number, level in self.attention)
      if level < last:
        layer('Conv', f'down_blocks.{level}.downsamplers.0.conv')
    block('mid_block', 0, True)
    block('mid_block', 1, False)
    for level in range(last + 1):
      for number in range(self.blocks + 1):
        block(f'up_blocks.{level}', number, last - level in self.attention)
      if level < last:
        layer('Conv', f'up_blocks.{level}.upsamplers.0.conv')
    layer('GroupNorm', 'conv_norm_out')
    layer('Conv', 'conv_out')
    return modules


def infer_layout(file: Path, tensors: Mapping[str, np.ndarray]) -> Layout:
  """The layout that the names and shapes of the arrays show. Raises UsageError if they are not those of a UNet2DModel."""
  first = lambda level, block: f'down_blocks.{level}.resnets.{block}.conv1.weight'  # noqa: E731
  levels = next(level for level in itertools.count() if first(level, 0) not in tensors)
  blocks = next(block for block in itertools.count() if first(0, block) not in tensors)
  keys = ['conv_in.weight', first(0, 0), *(first(level, 0) for level in range(1, levels))]
  for key in keys:
    if key not in tensors:
      raise UsageError(f'{file} has no array {key}. {LAYOUT}')
    if tensors[key].ndim != 4 or not tensors[key].size:
      raise UsageError(f'{file}: {key} has the shape {tensors[key].shape}, which is not that of a convolution. {LAYOUT}')
  attended = [level for level in range(levels) if any(key.startswith(f'down_blocks.{level}.attentions.') for key in tensors)]
  widths = tuple(tensors[key].shape[0] for key in keys[1:])
  if tensors[keys[0]].shape[0] != widths[0] or any(width % widths[0] for width in widths):
    raise UsageError(
      f'{file}: conv_in has {tensors[keys[0]].shape[0]} channels and the resolutions have {widths}. They must be multiples '
      f"of the first resolution's, which conv_in must have. {LAYOUT}"
    )
  return Layout(tensors[keys[0]].shape[1], widths, blocks, tuple(attended))


def network_options(file: Path, layout: Layout, options: Options) -> dict[str, Any]:
  """The options of genjax's UNet for the same network. Raises UsageError if there are none."""
  remedy = f'put the config.json of diffusers with the right value next to {file.name}'
  for level, width in enumerate(layout.widths):
    if width % options.norm_num_groups:
      raise UsageError(
        f'{file}: norm_num_groups={options.norm_num_groups} does not divide the {width} channels of down_blocks.{level}: '
        f'{remedy}.'
      )
  if options.sample_size % (1 << (len(layout.widths) - 1)):
    raise UsageError(
      f'{file}: sample_size={options.sample_size} cannot be halved {len(layout.widths) - 1} times, as the {len(layout.widths)} '
      f'down_blocks require: {remedy}.'
    )
  attended = {f'down_blocks.{level}': layout.widths[level] for level in layout.attention} | {'mid_block': layout.widths[-1]}
  if options.attention_head_dim is None and len(set(attended.values())) > 1:
    raise UsageError(
      f'{file}: with attention_head_dim=None, the attention layers have heads of different sizes '
      f'({", ".join(f"{name} {width}" for name, width in attended.items())}), but those of a UNet of genjax have the same. '
      f'If the model has another attention_head_dim, {remedy}.'
    )
  head_features = options.attention_head_dim or layout.widths[-1]
  for name, width in attended.items():
    if width % head_features:
      raise UsageError(f'{file}: attention_head_dim={head_features} does not divide the {width} channels of {name}: {remedy}.')
  frequencies = layout.widths[0] // 2
  if not 0 <= options.freq_shift < frequencies:
    raise UsageError(f'{file}: freq_shift={options.freq_shift} must be from 0 to below {frequencies}: {remedy}.')
  return {
    'width': layout.widths[0],
    'multipliers': tuple(width // layout.widths[0] for width in layout.widths),
    'blocks': layout.blocks,
    'attention': tuple(options.sample_size >> level for level in layout.attention),
    'head_features': head_features,
    # 10,000^-(i / (n - shift)) = max_period^-(i / n)
    'max_period': 10_000.0 ** (frequencies / (frequencies - options.freq_shift)),
    'norm_groups': options.norm_num_groups,
    'norm_group_size': 1,
    'norm_epsilon': float(options.norm_eps),
    'symmetric_padding': options.downsample_padding == 1,
  }


def resolved_config(image_shape: tuple[int, int, int], network: dict[str, Any]) -> dict[str, Any]:
  """The config of configs/cifar10_ddpm.py with these options of the network, and every default written out."""
  config = load_config(str(CONFIG), {}, ()).config
  config['objective']['network'] |= network
  specs = {name: with_defaults(config[name]) for name in ('objective', 'optim')}
  specs['objective'] = fill_inferred(specs['objective'], {'image_shape': image_shape, 'classes': 0, 'dtype': 'float32'})
  name = config['data']['name'] if image_shape == (32, 32, 3) else ''
  data = config['data'] | {'name': name, 'resolution': image_shape[0], 'image_shape': image_shape, 'classes': [], 'cond': {}}
  return json.loads(json.dumps({'schema': SCHEMA} | config | specs | {'data': data}))


# The arrays


def check_keys(file: Path, tensors: Mapping[str, np.ndarray], modules: Modules) -> None:
  """Raises UsageError if arrays are missing or unknown. Shortcuts of residual blocks are optional."""
  names = {name for parts in modules.values() for part in parts.values() for name in part}
  known = {f'{name}.{suffix}' for name in names for suffix in ('weight', 'bias')}
  required = {key for key in known if '.conv_shortcut.' not in key}
  problems = []
  for problem, keys in (('missing', required - tensors.keys()), ('unknown', tensors.keys() - known)):
    if keys:
      more = f' and {len(keys) - SHOWN} more' if len(keys) > SHOWN else ''
      problems.append(f'{problem} arrays {", ".join(sorted(keys)[:SHOWN])}{more}')
  if problems:
    raise UsageError(f'{file}: {"; ".join(problems)}. {LAYOUT}')


def convert_arrays(
  file: Path, tensors: Mapping[str, np.ndarray], modules: Modules, expected: Mapping[str, Any], head_features: int
) -> dict[str, np.ndarray]:
  """'params/model/...' -> array, for each name in `expected`, which has the shapes.

  Raises:
    UsageError: an array has another shape or is not floating-point, or a shortcut is missing or unknown.
  """
  arrays, left = {}, set(tensors)
  for name, like in expected.items():
    keys, shape = torch_arrays(name, like.shape, modules)
    for key in keys:
      if key not in tensors:
        raise UsageError(f'{file} has no array {key}, although the number of channels changes there. {LAYOUT}')
      if tensors[key].shape != shape:
        raise UsageError(f'{file}: {key} has the shape {tensors[key].shape}, but the other arrays require {shape}. {LAYOUT}')
      if not np.issubdtype(tensors[key].dtype, np.floating):
        raise UsageError(f'{file}: {key} has the type {tensors[key].dtype}: save it as float32.')
    parts = [transpose(tensors[key]) for key in keys]
    if len(parts) > 1:  # each head has its query, key and value
      heads = [part.reshape(*part.shape[:-1], -1, head_features) for part in parts]
      parts = [np.concatenate(heads, axis=-1).reshape(like.shape)]
    arrays[name] = np.ascontiguousarray(parts[0], np.float32)
    left -= set(keys)
  if left:
    key = min(left)
    raise UsageError(f'{file}: {key} is a shortcut between equal numbers of channels, where genjax has none. {LAYOUT}')
  return arrays


def torch_arrays(name: str, shape: tuple[int, ...], modules: Modules) -> tuple[tuple[str, ...], tuple[int, ...]]:
  """The keys of diffusers for an array 'params/model/...' of genjax, and the shape of each of these arrays."""
  _, _, module, *part, kind = name.split('/')
  names = modules[module][part[0] if part else '']
  shape = (*shape[:-1], shape[-1] // len(names))
  suffix = 'bias' if kind == 'bias' else 'weight'
  axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[len(shape)]
  return tuple(f'{name}.{suffix}' for name in names), tuple(shape[axis] for axis in axes)


def transpose(x: np.ndarray) -> np.ndarray:
  """An array of PyTorch in the order of Flax: kernels [O, I, H, W] and [O, I] become [H, W, I, O] and [I, O]."""
  return x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T


def shifted_embedding(kernel: np.ndarray, max_period: float, cosines_first: bool) -> np.ndarray:
  """The first layer [2 n, D] of the embedding of times, for genjax's times 1, ..., 1000 instead of diffusers' 0, ..., 999.

  Its inputs are sines and cosines of w (t - 1), and become cosines and sines of w t, of which those are linear functions:
  cos(w (t - 1)) = cos(w) cos(w t) + sin(w) sin(w t), and sin(w (t - 1)) = cos(w) sin(w t) - sin(w) cos(w t).
  """
  n = len(kernel) // 2
  first, second = kernel[:n].astype(np.float64), kernel[n:].astype(np.float64)
  cosine, sine = (first, second) if cosines_first else (second, first)
  w = (max_period ** (-np.arange(n) / n))[:, None]
  of_cosine, of_sine = np.cos(w) * cosine - np.sin(w) * sine, np.sin(w) * cosine + np.cos(w) * sine
  return np.concatenate([of_cosine, of_sine]).astype(np.float32)


def readme(name: str, config: Mapping[str, Any], parameters: int) -> str:
  """README.md of the export."""
  height, width, channels = config['data']['image_shape']
  converted = config['export']['converted']
  return f"""# {name}

A DDPM of {height} x {width} x {channels} images for genjax, converted from diffusers.

* Parameters: {parameters:,}
* Source: `{converted['file']}`, sha256 `{converted['sha256']}`
* Sampling: {config['objective']['sampler']['steps']:,} steps of `{config['objective']['sampler']['solver']}` by default

## Sample

```bash
python sample.py --run {name} --n 64
python sample.py --run {name} --n 64 --solver dpmpp_2m --steps 20
```

```python
import genjax, jax

run = genjax.load('{name}')
images = run.sample(jax.random.key(0), 16)  # float32 [16, {height}, {width}, {channels}] in [-1, 1]
```
"""


def main(argv: list[str]) -> None:
  parser = Parser(__doc__, prog='python -m genjax.convert')
  parser.add_argument('format', help=', '.join(FORMATS))
  parser.add_argument('file', type=Path, help='the weights')
  parser.add_argument('--out', type=Path, required=True, help='a new folder')
  args = parser.parse_args(argv)
  if args.format not in FORMATS:
    raise UsageError(unknown('format', args.format, FORMATS))
  folder = FORMATS[args.format](args.file, args.out)
  for path in sorted(folder.iterdir()):
    print(f'{path}: {path.stat().st_size:,} bytes')


if __name__ == '__main__':
  try:
    main(sys.argv[1:])
  except UsageError as error:
    sys.exit(f'error: {error}')
