"""Immediate handling of SIGINT (Ctrl-C) and SIGTERM.

Python runs signal handlers in the main thread, between two bytecode instructions. That is too late while it waits for a
compiled program, so here a signal wakes another thread, which handles it.
"""

import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Callable

import jax


def handle_signals(handler: Callable[[int], None], *numbers: signal.Signals) -> None:
  """Starts a thread that calls `handler(number)` for each of these signals. Must be called from the main thread."""
  read_end, write_end = os.pipe()
  os.set_blocking(write_end, False)
  signal.set_wakeup_fd(write_end)
  install_handlers(*numbers)

  def watch():
    while True:
      for number in os.read(read_end, 64):
        if number in numbers:
          handler(number)

  threading.Thread(target=watch, name='signals', daemon=True).start()


def install_handlers(*numbers: signal.Signals) -> None:
  """Installs the handlers that `handle_signals` needs; to be repeated after other code has replaced them."""
  for number in numbers:
    signal.signal(number, lambda *_: None)  # without a Python handler the thread is not woken


def exit_now(number: int, text: str) -> None:
  """Prints a line and exits at once, with the status that a shell reports after a signal. Waits for nothing."""
  sys.stdout.flush()
  print_notice(number, text)
  os._exit(128 + number)


def print_notice(number: int, text: str) -> None:
  start = '\n' if sys.stderr.isatty() else ''  # after ^C, or a progress bar
  print(f'{start}{signal.Signals(number).name}: {text}', file=sys.stderr, flush=True)


@dataclasses.dataclass
class OnInterrupt:
  """The message that Ctrl-C prints; scripts update it as they finish parts of their work."""

  text: str


def exit_on_interrupt(notice: OnInterrupt) -> None:
  """Makes Ctrl-C exit the process at once, with the current text of `notice` and status 130."""
  handle_signals(lambda number: exit_now(number, notice.text), signal.SIGINT)


STEP, SAMPLES, EVALUATION = 'this step', 'these samples', 'this evaluation'


class StopRequest:
  """Handles SIGINT and SIGTERM in train.py: the first signal stops the training after a step, a second one exits at once.

  Attributes:
    signal: the number of the first signal; 0 if there was none.
    after: what is completed before training stops, for the message.
    started: to be set after the first step. Before it, a signal exits at once, since there is nothing to save; with several
      hosts, which wait for each other, only until they are connected.
  """

  def __init__(self):
    self.signal, self.started, self.after = 0, False, STEP
    handle_signals(self.handle, signal.SIGINT, signal.SIGTERM)

  def reinstall(self) -> None:
    """Reinstalls the handlers after `jax.distributed` has installed its handler of SIGTERM."""
    install_handlers(signal.SIGINT, signal.SIGTERM)

  def handle(self, number: int) -> None:
    if self.signal:
      exit_now(number, 'stopped at once; the same command resumes from the last checkpoint.')
    if not self.started and not jax.distributed.is_initialized():
      exit_now(number, 'stopped before the first step.')
    self.signal = number
    when = 'when all hosts have received the signal' if jax.distributed.is_initialized() else f'after {self.after}'
    print_notice(number, f'stopping {when}; a second signal stops at once.')
