"""Whose signals stop a run: those that are meant for it, and in the main thread alone."""

import os
import signal
import threading

import pytest

from kdseg_jax.training.preemption import StopSignal


@pytest.fixture
def ignored_ctrl_c():
  """As for a program that a shell has started in the background."""
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  yield
  signal.signal(signal.SIGINT, before)


def test_a_program_in_the_background_is_stopped_by_sigterm_and_goes_on_to_ignore_ctrl_c(
    ignored_ctrl_c):
  with StopSignal() as stop:
    os.kill(os.getpid(), signal.SIGINT)
    assert not stop()
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop() and stop.agree(None, step=3)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
  assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_another_thread_leaves_the_signals_as_they_are():
  before, found = signal.getsignal(signal.SIGTERM), []

  def work():
    with StopSignal() as stop:
      found.append((signal.getsignal(signal.SIGTERM) is before, stop(), stop.agree(None, step=3)))
  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert found == [(True, False, False)]
