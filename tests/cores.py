"""Which cores a process of a test run computes on."""

import contextlib
import os


def keep_to_own():
  """Keeps this process of several of pytest-xdist to its part of the cores, where that can be set.

  Pools of threads have a thread for every core that a process may use, so those of the processes
  would wait for each other: on two cores the suite took twice the time. It is for what is imported
  and started after it.
  """
  worker = os.environ.get('PYTEST_XDIST_WORKER', '')
  if worker and hasattr(os, 'sched_setaffinity'):
    own = part(os.sched_getaffinity(0), int(worker.removeprefix('gw')),
               int(os.environ['PYTEST_XDIST_WORKER_COUNT']))
    with contextlib.suppress(OSError):  # some containers do not let processes choose
      os.sched_setaffinity(0, own)


def part(cores, worker, workers):
  """The cores of worker 0 to workers - 1: none that others have, or one where they are too few."""
  cores = sorted(cores)
  return set(cores[worker % len(cores)::workers])
