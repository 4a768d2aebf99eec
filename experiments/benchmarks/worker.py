"""One side of a row in a process of its own: `python -m experiments.benchmarks.worker <side>`.

Reads lines on standard input and answers each with one line of JSON: at the start, once the work
has run twice, with facts of it; to `run` with the seconds of one call; at the end of input with the
memory of the process: the peak of the calls that counted, what it held before the first of all,
and the peak with all that came before, compiling too; on a GPU with the peak of the device's, of
all that it held. What libraries print goes to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import importlib
import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

DEVICES = ('cpu', 'gpu')


class Work(NamedTuple):
  """What a side does.

  Attributes:
    run: does it once, to the end.
    amount: of what a rate is of: images, operations.
    facts: of the result of a call, that are reported: `value` of a loss, which must be that of the
      other sides.
    warm: calls before the first that counts; at least 1.
    in_a_loop: whether a call that does not count goes before each that does, as in a loop: while
      others have their turns a machine may take back the memory that the call before has freed.
  """

  run: Callable[[], Any]
  amount: float = 1.0
  facts: Callable[[Any], dict[str, Any]] = lambda result: {}
  warm: int = 2
  in_a_loop: bool = True


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('side', help='<module of this package>:<name>')
  parser.add_argument('--channels_last', action='store_true', help="PyTorch's layout")
  parser.add_argument('--data', default='', help='folder of CamVid')
  parser.add_argument('--device', choices=DEVICES, default=DEVICES[0])
  args = parser.parse_args()
  answers = os.fdopen(os.dup(1), 'w', buffering=1)
  os.dup2(2, 1)
  answer = lambda **found: print(json.dumps(found), file=answers)

  module, _, name = args.side.partition(':')
  framework, _, _ = module.partition('_')
  device = None if args.device == 'cpu' else importlib.import_module(
      f'{__package__}.{framework}_device')
  if framework != 'torch':  # as a run does
    importlib.import_module('kdseg_jax.host_memory').keep_freed()
  work = importlib.import_module(f'{__package__}.{module}').create(name, args)
  before = _resident()  # later there is what jax keeps for the next call
  for _ in range(work.warm):
    result = work.run()
  facts = work.facts(result)
  del result
  if device:
    device.start()
  peak_with_start = _peak()
  _resident()  # what compiling has left is given back
  _forget_peak()
  answer(amount=work.amount, **facts)
  for line in sys.stdin:
    assert line.strip() == 'run', line
    if work.in_a_loop:
      work.run()
    start = time.perf_counter(), time.process_time()
    result = work.run()
    if device:
      device.wait()
    del result
    answer(seconds=time.perf_counter() - start[0], cpu_seconds=time.process_time() - start[1])
  found = {} if device is None else {'device_peak_bytes': device.peak_bytes()}
  answer(peak_bytes=_peak(), before_bytes=before,
         peak_with_start_bytes=max(peak_with_start, _peak()), **found)


def _status(field):
  """A field of /proc/self/status in bytes, None where there is no such file (macOS)."""
  try:
    with open('/proc/self/status') as file:
      return int(re.search(rf'{field}:\s+(\d+) kB', file.read())[1]) * 1024
  except OSError:
    return None


def _resident():
  """Bytes that the process holds once free memory is given back."""
  gc.collect()
  with contextlib.suppress(AttributeError):  # of the GNU library alone
    ctypes.CDLL(None).malloc_trim(0)
  return _status('VmRSS')


def _peak():
  found = _status('VmHWM')
  if found is not None:
    return found
  unit = 1 if sys.platform == 'darwin' else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _forget_peak():
  """From here on the peak is that of the work alone, and not of compiling it."""
  with contextlib.suppress(OSError), open('/proc/self/clear_refs', 'w') as file:
    file.write('5')  # where there is no such file it stays that of the whole process


if __name__ == '__main__':
  main()
