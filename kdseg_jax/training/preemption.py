"""Being told to stop: Ctrl-C, SIGTERM, or machines that are to be taken away."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import jax

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
  """True once Ctrl-C or SIGTERM has arrived; a context, which takes the handlers back at its end.

  A second Ctrl-C ends the process at once, whatever it does; further SIGTERMs change nothing.
  """

  def __init__(self):
    self._set, self._previous = False, {}
    if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
      for number in _SIGNALS:
        # A program in the background of a shell is not meant by Ctrl-C.
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
          self._previous[number] = signal.signal(number, lambda *_: self._stop())

  def __call__(self) -> bool:
    return self._set

  def agree(self, reached_preemption: Callable[[int], bool], step: int) -> bool:
    """Whether to stop after this step, the same on all processes.

    Args:
      reached_preemption: of a `Checkpointer`; several processes must stop at the same step, which
        Orbax lets them agree on.
      step: number of the step that was done.
    """
    if jax.process_count() > 1:
      self._set = reached_preemption(step)
    return self._set

  def __enter__(self) -> StopSignal:
    return self

  def __exit__(self, *_) -> None:
    for number, previous in self._previous.items():
      signal.signal(number, previous)

  def _stop(self):
    if not self._set and signal.SIGINT in self._previous:
      # The system's own handler: Python's would wait for a program that is being compiled.
      signal.signal(signal.SIGINT, signal.SIG_DFL)
      # Not print: the signal may have come in the middle of one.
      os.write(2, b'\nTold to stop: the step is finished and saved first. '
               b'Ctrl-C again ends at once, without saving.\n')
    self._set = True
