"""A trace of steps, for TensorBoard and Perfetto, and what it says of each kind of operation."""

from __future__ import annotations

import collections
import gzip
import json
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from kdseg_jax.errors import NotFoundError

# Of a fusion its name says what it fuses: those of YNNPACK are matrix products.
_PRODUCTS = re.compile(r'ynn|dot|gemm|matmul')
_END = 'end: '


class Operation(NamedTuple):
  """One kind of operation in a step.

  Attributes:
    kind: HLO opcode, 'product' of matrix products and what is fused into them.
    seconds: of a step, from start to end of each; those that run at once count all.
    count: how many a step runs.
  """

  kind: str
  seconds: float
  count: float


def record(folder: str, run: Callable[[], Any], *, steps: int = 3) -> None:
  """Traces `run()`, which is compiled, this often.

  TensorBoard opens the folder (with its profile plugin), ui.perfetto.dev the file
  `perfetto_trace.json.gz` in it.
  """
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = 0  # else the calls of Python are most of it
  with jax.profiler.trace(folder, create_perfetto_trace=True, profiler_options=options):
    for _ in range(steps):
      jax.block_until_ready(run())


def operations(folder: str, hlo: str, *, steps: int = 3) -> list[Operation]:
  """The kinds of operation in the newest trace of a folder, the one that took longest first.

  Args:
    folder: of `record`.
    hlo: text of the compiled program; what else was traced is left out.
    steps: as there.

  Raises:
    NotFoundError: the folder holds no trace.
  """
  opcodes = _opcodes(hlo)
  seconds: collections.Counter[str] = collections.Counter()
  counts: collections.Counter[str] = collections.Counter()
  for name, runs in _runs(_events(folder)).items():
    if name in opcodes:
      seconds[opcodes[name]] += sum(runs)
      counts[opcodes[name]] += len(runs)
  return [Operation(kind, total / steps, counts[kind] / steps)
          for kind, total in seconds.most_common()]


def _events(folder):
  files = list(pathlib.Path(folder).rglob('*.trace.json.gz'))
  if not files:
    raise NotFoundError(f'{folder} holds no trace.')
  with gzip.open(max(files, key=os.path.getmtime)) as file:
    return json.load(file)['traceEvents']


def _runs(events):
  """Name -> seconds of each run, in order.

  On the CPU what runs on other threads, as convolutions do, is started by an event of its name and
  ended by another, 'end: <name>'.
  """
  spans = collections.defaultdict(list)
  for event in events:
    if event.get('ph') == 'X':
      spans[event.get('name')].append((event['ts'], event['ts'] + event['dur']))
  found = {}
  for name, runs in spans.items():
    runs, ends = sorted(runs), sorted(spans.get(f'{_END}{name}', []))
    if len(ends) != len(runs):
      ends = runs
    found[name] = [(max(end, last) - start) / 1e6 for (start, end), (_, last) in zip(runs, ends)]
  return found


def _opcodes(hlo):
  """Instruction -> kind, of all that is not inside a fusion."""
  found = {}
  for name, opcode in re.findall(r'^\s*(?:ROOT )?%?([\w.-]+) = .*? ([a-z][\w-]*)\(', hlo, re.M):
    is_product = opcode == 'dot' or (
        opcode in ('fusion', 'custom-call') and _PRODUCTS.search(name))
    found[name] = 'product' if is_product else opcode
  return found
