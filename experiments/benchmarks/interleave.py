"""Takes the sides of a row in turns, each a process that waits until it is asked."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What jax writes after the error, and lines without words.
_NO_REASON = re.compile(r'\W*$|For simplicity, JAX has removed')


class Side(NamedTuple):
  """A process: its Python, the arguments of `worker`, and what its environment has more."""

  python: str
  arguments: Sequence[str]
  environment: Mapping[str, str] = {}


class Measured(NamedTuple):
  """What was found of one side.

  Attributes:
    seconds: of each call; `cpu_seconds` those of all its threads, without child processes.
    facts: of the work: its `amount`, the `value` of a loss, and peaks of memory in bytes.
    error: the last line that it wrote before it failed; '' if it did not.
  """

  seconds: list[float]
  cpu_seconds: list[float]
  facts: dict[str, Any]
  error: str = ''

  @property
  def median(self) -> float:
    """Seconds of a call."""
    return statistics.median(self.seconds)

  @property
  def quartiles(self) -> tuple[float, float]:
    """Of the seconds; both are the median where there are fewer than two."""
    if len(self.seconds) < 2:
      return self.median, self.median
    low, _, high = statistics.quantiles(self.seconds, n=4, method='inclusive')
    return low, high


def measure(sides: Mapping[Any, Side], *, repeats: int,
            environment: Mapping[str, str] | None = None, at_once: bool = False
            ) -> dict[Any, Measured]:
  """Runs each side `repeats` times, one call of each in turn; a side that fails is left out.

  Args:
    sides: by their names.
    repeats: calls of each.
    environment: of the processes, beside what this one has.
    at_once: they start and compile together, not one after the other.
  """
  with contextlib.ExitStack() as stack:
    workers = {name: _Worker(side, environment or {}) for name, side in sides.items()}
    for worker in workers.values():
      stack.callback(worker.stop)
      if at_once:
        worker.start()
    found = {name: Measured([], [], {}) for name in workers}
    for name, worker in workers.items():
      if not at_once:
        worker.start()
      _ask(found, name, lambda worker=worker: worker.read())
    for _ in range(repeats):
      for name, worker in workers.items():
        _ask(found, name, lambda worker=worker: worker.ask())
    for name, worker in workers.items():
      _ask(found, name, lambda worker=worker: worker.end())
  return found


def _ask(found, name, request):
  """Adds what a side answers; the first answer and the last are facts."""
  if found[name].error:
    return
  try:
    answer = request()
  except _Failed as error:
    found[name] = found[name]._replace(error=str(error))
    return
  if 'seconds' in answer:
    found[name].seconds.append(answer['seconds'])
    found[name].cpu_seconds.append(answer['cpu_seconds'])
  else:
    found[name].facts.update(answer)


class _Failed(Exception):
  """A side ended before it had answered."""


class _Worker:
  """The process of a side."""

  def __init__(self, side: Side, environment: Mapping[str, str]):
    self._side, self._environment, self._process, self._log = side, environment, None, None

  def start(self):
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH'))))
    environment = (os.environ | dict(self._environment) | dict(self._side.environment)
                   | {'PYTHONPATH': path})
    self._log = tempfile.TemporaryFile('w+')  # no pipe, which would be full at some time
    self._process = subprocess.Popen(
        [self._side.python, '-m', 'experiments.benchmarks.worker', *self._side.arguments],
        cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=self._log)

  def ask(self):
    try:
      self._process.stdin.write('run\n')
      self._process.stdin.flush()
    except BrokenPipeError:
      pass  # `read` says why
    return self.read()

  def end(self):
    self._process.stdin.close()
    return self.read()

  def read(self):
    line = self._process.stdout.readline()
    if line:
      return json.loads(line)
    status = self._process.wait()
    self._log.seek(0)
    lines = [line for line in self._log.read().split('\n') if not _NO_REASON.match(line)]
    raise _Failed(lines[-1] if lines else f'exit status {status}')

  def stop(self):
    if self._process is not None:
      self._process.kill()
      self._process.wait()
      for stream in (self._process.stdin, self._process.stdout, self._log):
        stream.close()
