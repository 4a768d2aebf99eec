"""Processes of a test run share the cores without a core that two of them have."""

import ast
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import cores, runs


@given(st.sets(st.integers(0, 300), min_size=1, max_size=40), st.integers(1, 12))
def test_workers_divide_the_cores(available, workers):
  parts = [cores.part(available, worker, workers) for worker in range(workers)]
  assert set().union(*parts) == available
  sizes = sorted(map(len, parts))
  assert sizes[0] >= 1 and sizes[-1] - sizes[0] <= 1
  assert sum(sizes) == max(len(available), workers)


@pytest.mark.skipif(not hasattr(os, 'sched_setaffinity'), reason='no cores of a process here')
@pytest.mark.parametrize('worker, count', [('gw1', '2'), ('', '')])
def test_threads_of_a_worker_keep_to_its_part(worker, count):
  """Who runs a test without pytest-xdist has all cores."""
  code = ('import os; before = os.sched_getaffinity(0); from tests import conftest; '
          'import jax; jax.block_until_ready(jax.numpy.ones((64, 64)) @ jax.numpy.ones((64, 64))); '
          'print([before, *(os.sched_getaffinity(int(task)) '
          'for task in os.listdir("/proc/self/task"))])')
  done = subprocess.run(
      [sys.executable, '-c', code], cwd=runs.ROOT, check=True, capture_output=True, text=True,
      env=os.environ | {'PYTEST_XDIST_WORKER': worker, 'PYTEST_XDIST_WORKER_COUNT': count})
  before, *threads = ast.literal_eval(done.stdout)
  assert len(threads) > 1
  assert all(thread == (cores.part(before, 1, 2) if worker else before) for thread in threads)
