"""The exception for user errors, which scripts print without a traceback, and the warning for probable mistakes."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
  """An option, a file or a call is invalid. The message names the option or file and the remedy, in one or two lines."""


class DataError(UsageError):
  """An error in the data that an option of train.py can fix. `in_evaluation` is the message of scripts without this option."""

  def __init__(self, problem: str, remedy: str, remedy_in_evaluation: str):
    super().__init__(f'{problem}{remedy}.')
    self.in_evaluation = f'{problem}{remedy_in_evaluation}.'


class UsageWarning(UserWarning):
  """A setting that works but is probably unintended. The message names it and the remedy; scripts print it in one line."""


LISTED = 40  # messages with more known names than this show only the nearest


def unknown(kind: str, name: str, known: Iterable[str], hint: str = '', owner: str = '') -> str:
  """ "Unknown solver 'heum'. Did you mean heun? Available: ...". `hint` replaces the suggestion; `owner`: what lacks it."""
  known = sorted(known)
  listed = f' Available: {", ".join(known) or "none"}.' if len(known) <= LISTED else ''
  suffix = f' of {owner}' if owner else ''
  return f'Unknown {kind} {name!r}{suffix}.{hint or nearest(name, known)}{listed}'


def nearest(name: str, known: Iterable[str]) -> str:
  """' Did you mean X?' for the closest matches in `known`, '' if there are none."""
  near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.6)
  return f' Did you mean {" or ".join(near)}?' if near else ''
