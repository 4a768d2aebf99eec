"""Being told to stop: SIGTERM, or machines that are to be taken away."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import jax


class StopSignal:
  """True once SIGTERM has arrived; a context, which takes the handler back at its end."""

  def __init__(self):
    self._set, self._previous = False, None
    if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
      self._previous = signal.signal(signal.SIGTERM, lambda *_: self._stop())

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
    if self._previous is not None:
      signal.signal(signal.SIGTERM, self._previous)

  def _stop(self):
    self._set = True
