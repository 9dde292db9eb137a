"""Command lines: the parser that all scripts share, config files with overrides, and options of a model."""

import argparse
import ast
import importlib.util
import json
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from genjax.build import as_spec, build, defaults, resolve, without_leftovers
from genjax.config import section_defaults
from genjax.data import contents
from genjax.errors import UsageError, UsageWarning, nearest, unknown
from genjax.files import check_path
from genjax.frozen import source_of
from genjax.run import Run, load
from genjax.schema import renamed
from genjax.workdir import read_config


def format_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
  """For `warnings.formatwarning`: formats a UsageWarning in one line, without its location in the code."""
  if issubclass(category, UsageWarning):
    return f'warning: {message}\n'
  return f'{filename}:{lineno}: {category.__name__}: {message}\n'


class Parser(argparse.ArgumentParser):
  """An ArgumentParser that raises UsageError instead of exiting, checks paths, and does not accept abbreviated flags."""

  def __init__(self, description: str | None, **options):
    warnings.formatwarning = format_warning
    warnings.simplefilter('once', UsageWarning, append=True)  # a network may be traced several times
    formatter = argparse.RawDescriptionHelpFormatter
    super().__init__(description=description, formatter_class=formatter, allow_abbrev=False, **options)

  def error(self, message):
    raise UsageError(f'{message}; see --help.')

  def parse_known_args(self, args=None, namespace=None):
    parsed, rest = super().parse_known_args(args, namespace)
    for action in self._actions:
      value = getattr(parsed, action.dest, None)
      for path in value if isinstance(value, list) else [value]:
        if action.dest != 'data_dir' and isinstance(path, str | Path):  # TensorFlow Datasets reads from buckets itself
          check_path(action.option_strings[-1] if action.option_strings else action.dest, path)
    return parsed, rest


# Configs: --config FILE --config.section.option=value


class LoadedConfig(NamedTuple):
  """A config as plain dictionaries, and its origin."""

  config: dict[str, Any]
  source: ConfigDict | dict[str, Any]  # with the options `dropped`
  overridden: dict[str, str]
  dropped: list[str]  # options that a class named on the command line does not have
  name: str  # of the file, or of the run

  def at(self, steps: int, allow: Collection[str]) -> dict[str, Any]:
    """The config for another train.steps, with all values that the config file computes from it."""
    if not isinstance(self.source, ConfigDict):
      return self.source | {'train': self.source['train'] | {'steps': steps}}
    before, self.source.train.steps = self.source.train.steps, steps
    config = drop_unsupported(self.source, self.overridden, allow)[0]
    self.source.train.steps = before
    return config


def split_overrides(words: list[str]) -> tuple[dict[str, str], list[str]]:
  """{'train.steps': '5'} of --config.train.steps=5 or --config.train.steps 5, and the other words."""
  overrides, rest, words = {}, [], list(words)
  while words:
    word = words.pop(0)
    if not word.startswith('--config.'):
      rest.append(word)
      continue
    name, equals, value = word.removeprefix('--config.').partition('=')
    if not equals and not words:
      raise UsageError(f'{word} needs a value: {word}=VALUE.')
    overrides[name] = value if equals else words.pop(0)
  return overrides, rest


def load_config(path: str, overrides: dict[str, str], allow: Collection[str]) -> LoadedConfig:
  """The config that `get_config` of a Python file returns, with overrides. 'file.py:word' calls `get_config('word')`.

  Raises:
    UsageError: there is no such file, it defines no config, or an override names no option or has another type.
  """
  file, _, argument = path.partition(':')
  if not (file.endswith('.py') and Path(file).is_file()):
    raise UsageError(f'--config {file}: there is no such config file; see configs/.')
  spec = importlib.util.spec_from_file_location('config_file', file)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    if not hasattr(module, 'get_config'):
      raise UsageError('the file does not define get_config(): see configs/digits_vae.py.')
    source = module.get_config(argument) if argument else module.get_config()
  except UsageError as error:
    raise UsageError(f'{file}: {error}') from None
  if not isinstance(source, ConfigDict):
    source = ConfigDict(source)
  refuse_shared_steps(source, overrides)
  for name, text in overrides.items():
    override(source, name, text)
  config, dropped = drop_unsupported(source, overrides, allow)
  return LoadedConfig(config, source, overrides, dropped, Path(file).stem)


def config_of_run(run: str, overrides: dict[str, str], default: str, allow: Collection[str]) -> LoadedConfig:
  """The config of a run directory, for `--resume`, with overrides.

  With another `train.steps` the config file is loaded again, because it may compute other options from it.

  Args:
    run: the run directory.
    overrides: name -> value of --config.name=value.
    default: the config file of a command without --config.
    allow: as in `load_config`.

  Raises:
    UsageError: as for `load_config`; or the config file is needed and does not exist any more.
  """
  if 'train.steps' in overrides:
    file, begun_with = first_command(Path(run), default)
    try:
      return load_config(file, begun_with | overrides, allow)
    except UsageError as error:
      raise UsageError(
        f'{error}\n{file}, the config of {run}, is loaded again because it may compute options from train.steps. It is not '
        'needed if train.steps stays the same.'
      ) from None
  config = {name: value for name, value in read_config(Path(run)).items() if name not in ('schema', 'run_id')}
  config['data'] = contents.options(config['data']) | {'flip': config['data'].get('flip', False)}
  config |= {name: options | config[name] for name, options in section_defaults().items()}
  if config.get('frozen'):
    config['frozen'] = {name: source_of(record) for name, record in config['frozen'].items()}
  source = ConfigDict(config, convert_dict=True)
  for name, text in overrides.items():
    override(source, name, text)
  return LoadedConfig(source.to_dict(), source.to_dict(), overrides, [], Path(run).name)


def first_command(run: Path, default: str) -> tuple[str, dict[str, str]]:
  """The config file and the overrides that a run was started with, from its environment.json."""
  try:
    environment = json.loads((run / 'environment.json').read_text())
    commands = [entry['command'][1:] for entry in (environment, *environment['earlier'])]
    words = next(words for words in reversed(commands) if not any(word.startswith('--resume') for word in words))
  except (OSError, ValueError, KeyError, TypeError, StopIteration):
    raise UsageError(
      f'{run}/environment.json does not contain the command that started the run: use --config and --workdir, not --resume.'
    ) from None
  overrides, rest = split_overrides(words)
  parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
  parser.add_argument('--config', default=default)
  return parser.parse_known_args(rest)[0].config, overrides


def drop_unsupported(
  source: ConfigDict, overrides: Collection[str], allow: Collection[str]
) -> tuple[dict[str, Any], list[str]]:
  """The config without the options that a class set by an override does not have, and the names of those options."""
  replaced = [name.removesuffix('.cls') for name in overrides if name.endswith('.cls')]
  return without_leftovers(source.to_dict(), replaced, allow)


def override(config: ConfigDict, name: str, text: str) -> None:
  """Sets an option, named by its path, to the value that `text` has as the type of its present value."""
  *path, last = name.split('.')
  section = config
  for i, part in enumerate([*path, last]):
    known = list(section) if isinstance(section, ConfigDict) else []
    if part not in known:
      place = '.'.join(['config', *path[:i]])
      raise UsageError(f'--config.{name}: {unknown("option", part, known, renamed(part, known), place)}')
    section = section if i == len(path) else section[part]
  old = section[last]
  if isinstance(old, ConfigDict):
    raise UsageError(
      f'--config.{name} is a section: override a value in it, such as --config.{name}.NAME=VALUE (see --dry_run).'
    )
  with section.unlocked(), section.ignore_type():
    section[last] = parse_value(f'--config.{name}', text, old)


def parse_value(name: str, text: str, default: Any) -> Any:
  """`text` as the type of `default`. Raises UsageError for other text."""
  kind = type(default)
  try:
    if kind is bool:
      return {'true': True, 'false': False}[text.lower()]
    if kind in (int, float, str):
      return kind(text)
    value = ast.literal_eval(text)
    if kind in (tuple, list):
      return tuple(value) if isinstance(value, tuple | list) else (value,)
    return value
  except (ValueError, KeyError, SyntaxError):
    if default is None or not isinstance(default, bool | int | float | tuple | list):  # such as a solver
      return text
    kinds = {int: 'an integer', float: 'a number', bool: 'true or false', tuple: 'numbers, such as 0.2,3'}
    raise UsageError(f'{name}={text} must be {kinds.get(kind, "a Python value")}.') from None


def refuse_shared_steps(config: ConfigDict, overridden: Collection[str]) -> None:
  """Raises UsageError if an overridden value shares a reference with `train.steps`: ml_collections would change both."""
  for name in set(overridden) - {'train.steps'}:
    *path, last = name.split('.')
    section = config
    for part in path:
      section = section.get(part) if isinstance(section, ConfigDict) else None
    known = isinstance(section, ConfigDict) and last in section
    if known and section.get_ref(last) is config.train.get_ref('steps'):
      raise UsageError(
        f'--config.{name} shares its value with train.steps in the config file, so the override would change both: '
        'override train.steps, or set a separate value in the file.'
      )


# Runs


def run_parser(description: str) -> Parser:
  """A parser with the options of all scripts that open a run; scripts add more. See `parse_run`."""
  parser = Parser(description, add_help=False)
  parser.add_argument('--run', help='the run directory')
  parser.add_argument('--step', type=int, help='which checkpoint (the newest)')
  parser.add_argument('--best', action='store_true', help='the checkpoint with the lowest FID during training')
  parser.add_argument('--guide', help='a weaker run for --guidance, instead of the unconditional model')
  parser.add_argument('--guide_step', type=int, help='which checkpoint of the guide (the newest)')
  parser.add_argument('--no_ema', action='store_true', help='the last parameters instead of their moving average')
  parser.add_argument('--ema', help='the width of a post-hoc EMA, such as 0.1 (runs with train.posthoc_every)')
  parser.add_argument('--batch_size', type=int, default=256, help='images computed at a time (256)')
  parser.add_argument(
    '--allow_package', action='append', default=[], help='another package that the run may import (repeatable)'
  )
  parser.add_argument('-h', '--help', action='store_true', help='show this help')
  return parser


def parse_run(parser: Parser, argv: list[str]) -> tuple[argparse.Namespace, list[str]] | None:
  """The parsed options and the remaining words, which are options of the model; None after printing help without a run.

  Raises:
    UsageError: --run is missing, or an option is invalid.
  """
  args, rest = parser.parse_known_args(argv)
  if args.help and not args.run:
    return print(parser.format_help())
  if not args.run:
    raise UsageError('--run is missing: add --run runs/x.')
  if args.guide_step is not None and not args.guide:
    raise UsageError(f'--guide_step {args.guide_step} needs a guide: add --guide runs/weaker.')
  return args, rest


def open_run(args: argparse.Namespace) -> Run:
  """The run of the arguments of `run_parser`, with its guide."""
  if args.ema is not None and args.no_ema:
    raise UsageError('--ema and --no_ema cannot be combined: use one of them.')
  ema = not args.no_ema if args.ema is None else parse_value('--ema', args.ema, 0.1)
  run = load(args.run, args.step, ema, args.allow_package, args.best)
  if args.guide:
    run = run.guided_by(load(args.guide, args.guide_step, not args.no_ema, args.allow_package))
  return run


def parse_options(words: list[str], known: dict, own: Collection[str] = (), allow: Collection[str] = ()) -> dict:
  """['--steps', '20'] or ['--steps=20'] as the type of the option's default. `own`: options of the script, for suggestions."""
  options, parts, words = {}, {}, list(words)
  while words:
    name, equals, value = words.pop(0).partition('=')
    if not name.startswith('--'):
      raise UsageError(f'{name!r} is not an option: options begin with --.')
    name = name[2:]
    if name.startswith('solver.') and 'solver' in known:
      parts[name.removeprefix('solver.')] = value if equals else words.pop(0) if words else ''
      continue
    if name not in known:
      options_of_model, scripts = [f'--{k}' for k in known], [f'--{k}' for k in own]
      hint = renamed(name, known) or nearest(f'--{name}', [*options_of_model, *scripts])
      raise UsageError(unknown('option', f'--{name}', options_of_model, hint, 'this model'))
    if not equals and not words:
      raise UsageError(f'--{name} needs a value: --{name} VALUE.')
    options[name] = parse_value(f'--{name}', value if equals else words.pop(0), known[name])
  if 'solver' in known:
    options |= solver_option(options.get('solver', known['solver']), parts, allow)
  return options


def solver_option(solver: Any, parts: dict[str, str], allow: Collection[str]) -> dict[str, Any]:
  """{'solver': object} for a custom solver, named 'mine.solvers.X' or an object, with the options `parts`; {} for another."""
  if isinstance(solver, str) and '.' not in solver:
    if parts:
      raise UsageError(
        f'--solver.{next(iter(parts))} is for custom solvers, but --solver {solver} is built in: use --{next(iter(parts))}.'
      )
    return {}
  description = {'cls': solver} if isinstance(solver, str) else as_spec(solver)
  if not isinstance(description, Mapping):
    return {}
  own = defaults(resolve(description['cls'], allow))
  for name, text in parts.items():
    description[name] = parse_value(f'--solver.{name}', text, own.get(name))
  return {'solver': build(description, allow)} if isinstance(solver, str) or parts else {}


def options_help(run: Run) -> str:
  """The options of a run's model, for --help."""
  shown = ', '.join(f'--{name} ({default})' for name, default in run.options.items())
  others = ', '.join(f'--{name}' for name in run.objective.conditioner.fields if name != 'label')
  conditions = f'\nconditions: {others}' if others else ''
  return f'\noptions of {type(run.objective).__name__}: {shown or "none"}{conditions}'


def check_guide(guide: str | None, options: Mapping[str, Any]) -> None:
  """Raises UsageError for a guide that has no effect."""
  if guide and options['guidance'] == 1:
    raise UsageError(f'--guide {guide} has no effect with --guidance 1: use --guidance 2.')
