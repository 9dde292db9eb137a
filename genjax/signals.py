"""SIGINT (Ctrl-C) and SIGTERM, answered at once.

Python runs its handlers between two lines of the main thread, which comes to none while it waits for a compiled program. So the
signal wakes a thread, which answers for it.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable

import jax


def answer_signals(answer: Callable[[int], None], *numbers: signal.Signals) -> None:
  """From here on a thread calls `answer(number)` for each of these signals. Call it from the main thread."""
  waiting, woken = os.pipe()
  os.set_blocking(woken, False)
  signal.set_wakeup_fd(woken)
  take_signals(*numbers)

  def watch():
    while True:
      for number in os.read(waiting, 64):
        if number in numbers:
          answer(number)

  threading.Thread(target=watch, name='signals', daemon=True).start()


def take_signals(*numbers: signal.Signals) -> None:
  """Again: for `answer_signals`, where something else has put its handlers in place of these."""
  for number in numbers:
    signal.signal(number, lambda *_: None)  # one has to be there for the thread to be woken


def leave(number: int, text: str) -> None:
  """Ends the process at once, with a line and the status that a shell gives after a signal. Nothing is waited for."""
  sys.stdout.flush()
  tell(number, text)
  os._exit(128 + number)


def tell(number: int, text: str) -> None:
  start = '\n' if sys.stderr.isatty() else ''  # after ^C, or a progress bar
  print(f'{start}{signal.Signals(number).name}: {text}', file=sys.stderr, flush=True)


def end_on_interrupt(text: str) -> None:
  """From here on Ctrl-C ends the process with `text` and status 130, in the middle of whatever it does."""
  answer_signals(lambda number: leave(number, text), signal.SIGINT)


class Stopping:
  """How train.py answers SIGINT and SIGTERM: the first ends the training after a step, a second one ends the process.

  Attributes:
    signal: the number of the first; 0 before.
    begun: set it once a step was taken. A signal before ends the process, which has nothing to lose; of several hosts, which
      wait for each other, only until they have found each other.
  """

  def __init__(self):
    self.signal, self.begun = 0, False
    answer_signals(self.answer, signal.SIGINT, signal.SIGTERM)

  def again(self) -> None:
    """To be called after `jax.distributed` has put its own handler of SIGTERM there."""
    take_signals(signal.SIGINT, signal.SIGTERM)

  def answer(self, number: int) -> None:
    if self.signal:
      leave(number, 'ended at once; the same command resumes from the last checkpoint.')
    if not self.begun and not jax.distributed.is_initialized():
      leave(number, 'ended before the first step.')
    self.signal = number
    when = 'once all hosts know of it' if jax.distributed.is_initialized() else 'after this step'
    tell(number, f'stopping {when}; a second one ends at once.')
