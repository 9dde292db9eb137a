"""Command lines: absl's flags and the config file behind them, a model's own options; mistakes in one line."""

import argparse
import ast
import sys
import traceback
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from absl import flags

from genjax.errors import UsageError, UsageWarning, nearest


def config_path(argv: list[str]) -> str | None:
  """The config file named last on the command line."""
  path = None
  for word, after in zip(argv, [*argv[1:], ''], strict=True):
    flag, equals, value = word.partition('=')
    if flag in ('--config', '-config'):
      path = (value if equals else after).split(':')[0]
  return path


def format_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
  """For `warnings.formatwarning`: formats a UsageWarning in one line, without its location in the code."""
  if issubclass(category, UsageWarning):
    return f'warning: {message}\n'
  return f'{filename}:{lineno}: {category.__name__}: {message}\n'


def parse(argv: list[str], default: str) -> list[str]:
  """Parses absl's flags, the config file `default` if the command line names none; returns the other words.

  Raises:
    UsageError: an unknown flag, a config file that is not there or defines no config, a mistyped or misfitting override.
  """
  warnings.formatwarning = format_warning
  path = config_path(argv)
  if path is None:
    path = default
    argv = [argv[0], f'--config={path}', *argv[1:]]
  if not (path.endswith('.py') and Path(path).is_file()):
    raise UsageError(f'--config: there is no config file {path!r}; see configs/.')
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    text = str(error).strip()
    if 'Traceback' in text:  # absl's wrapping of a ValueError in the config file
      last = text.splitlines()[-1]
      if 'UsageError: ' not in last:
        sys.exit(text)
      text = f'{path}: ' + last.partition('UsageError: ')[2]
    text = ' '.join(text.split())
    if 'as a ConfigDict' in text:
      text = text.split('flag --')[-1].split('=')[0].split(':')[0]
      text = f'--{text} is a section: override a value in it, such as --{text}.NAME=VALUE; --dry_run shows them.'
    raise UsageError(text) from None
  except (AttributeError, KeyError, TypeError) as error:
    if any(frame.f_code.co_filename.endswith(path) for frame, _ in traceback.walk_tb(error.__traceback__)):
      raise  # a bug in the user's file deserves its traceback
    text = error
    while isinstance(text, BaseException):
      text = text.args[0] if text.args else repr(text)
    if 'get_config' in str(text):
      raise UsageError(f'{path} defines no get_config(): see configs/digits_vae.py.') from None
    name, *hint = str(text).splitlines()
    raise UsageError(f'--config has no {name}. {" ".join(hint)}') from None


class Parser(argparse.ArgumentParser):
  """Its errors in one line, like all others."""

  def error(self, message):
    raise UsageError(f'{message}; see --help.')


def run_parser(description: str) -> Parser:
  """A parser with what every script that opens a run takes; a script adds its own. `parse_run` reads it."""
  warnings.formatwarning = format_warning
  parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, add_help=False)
  parser.add_argument('--run', help='the run directory')
  parser.add_argument('--step', type=int, help='which checkpoint (the newest)')
  parser.add_argument('--best', action='store_true', help='the checkpoint of the lowest FID in training')
  parser.add_argument('--guide', help='a weaker run that --guidance leads away from, in the place of no label')
  parser.add_argument('--guide_step', type=int, help='which checkpoint of it (the newest)')
  parser.add_argument('--no_ema', action='store_true', help='the last parameters instead of their moving average')
  parser.add_argument('--batch_size', type=int, default=256, help='images computed at a time (256)')
  parser.add_argument('--allow_package', action='append', default=[], help='a package beside genjax that the run may name')
  parser.add_argument('-h', '--help', action='store_true', help='this text')
  return parser


def parse_run(parser: Parser, argv: list[str]) -> tuple[argparse.Namespace, list[str]] | None:
  """The parsed words and those left over for the model; None after printing help that needs no run.

  Raises:
    UsageError: no run is named, or a word does not fit.
  """
  args, rest = parser.parse_known_args(argv)
  if args.help and not args.run:
    return print(parser.format_help())
  if not args.run:
    raise UsageError('say which run: --run runs/x')
  if args.guide_step is not None and not args.guide:
    raise UsageError(f'--guide_step {args.guide_step}: say of which run, --guide runs/weaker.')
  return args, rest


def parse_options(words: list[str], known: dict, own: Collection[str] = ()) -> dict:
  """['--steps', '20'] or ['--steps=20'] as the type of the option's default. `own`: the script's, for suggestions."""
  options, words = {}, list(words)
  while words:
    name, equals, value = words.pop(0).partition('=')
    if not name.startswith('--'):
      raise UsageError(f'{name!r} is not an option.')
    name = name[2:]
    if name not in known:
      theirs = ', '.join(f'--{k}' for k in known) or 'none'
      hint = nearest(f'--{name}', [f'--{k}' for k in (*known, *own)])
      raise UsageError(f'this model has no option --{name}; it has {theirs}.{hint}')
    if not equals and not words:
      raise UsageError(f'--{name} needs a value.')
    value = value if equals else words.pop(0)
    kind = type(known[name])
    try:
      if kind is bool:
        options[name] = {'true': True, 'false': False}[value.lower()]
      else:
        options[name] = kind(value) if kind in (int, float, str) else ast.literal_eval(value)
    except (ValueError, KeyError, SyntaxError):
      kinds = {int: 'a whole number', float: 'a number', bool: 'true or false', tuple: 'numbers, as 0.2,3'}
      takes = kinds.get(kind, 'a Python value')
      raise UsageError(f'--{name}={value}: it takes {takes}.') from None
  return options


def options_help(run) -> str:
  """The options of a run's own model, for --help."""
  shown = ', '.join(f'--{name} ({default})' for name, default in run.options.items())
  return f'\noptions of {type(run.objective).__name__}: {shown or "none"}'


def check_guide(guide: str | None, options: Mapping[str, Any]) -> None:
  """Raises UsageError for a guide that would lead nowhere."""
  if guide and options['guidance'] == 1:
    raise UsageError(f'--guide {guide} leads by --guidance, and that is 1: give it, as --guidance 2.')
