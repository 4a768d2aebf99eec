"""The results as JSON and Markdown."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from experiments.benchmarks import rows as rows_of
from experiments.benchmarks.interleave import Measured
from kdseg_jax.report import tables

JSON, MARKDOWN = 'table.json', 'table.md'
_SAME_VALUE = 1e-3  # relative difference of a loss between the sides

_DEVICE_MEMORY = ('Memory is the peak of all that the device held: arrays, weights, programs\' '
                  'buffers; on our side also what choosing among kernels took.')
_MEMORY = ('Memory is what the work adds to its process, its program too; of rows model/ and step/ '
           'it is the peak of the whole process. What compiling took is in neither.')


def result(row: rows_of.Row, measured: Mapping[str, Measured]) -> dict[str, Any]:
  """What is written of a row."""
  sides = {name: _side(row, found) for name, found in measured.items()}
  ours, *others = sides
  peers = [name for name in others if not sides[name]['error']]
  found = {'what': row.what, 'clock': row.clock, 'sides': sides}
  if sides[ours]['error'] or not peers:
    return found
  peer = min(peers, key=lambda name: sides[name]['median'])
  return found | {
      'peer': peer, 'ratio': _ratio(row, sides[ours], sides[peer]),
      'memory_ratio': _memory_ratio(row, sides[ours], sides[peer]),
      'same_value': _same(sides[ours], sides[peer])}


def _by_name(device):
  return {row.name: row for row in rows_of.ROWS[device]}


def _side(row, found):
  own = {'error': found.error, 'facts': found.facts}
  if found.error or not found.seconds:
    return own | {'error': found.error or 'it answered nothing'}
  clocked = found if row.clock == 'seconds' else found._replace(seconds=found.cpu_seconds)
  return own | {'repeats': len(found.seconds), 'median': clocked.median,
                'quartiles': clocked.quartiles, 'all': clocked.seconds}


def _ratio(row, ours, peer):
  ratio = ours['median'] / peer['median']
  return peer['facts']['amount'] and (
      ours['facts']['amount'] / peer['facts']['amount'] / ratio) if row.rate else ratio


def _memory(row, side):
  """Bytes of the device or the process, or that the work adds; None where that is not told."""
  facts = side['facts']
  if 'device_peak_bytes' in facts:
    return facts['device_peak_bytes']
  if row.resident:
    return facts['peak_bytes']
  return facts['peak_bytes'] - facts['before_bytes'] if facts.get('before_bytes') else None


def _memory_ratio(row, ours, peer):
  taken = _memory(row, ours), _memory(row, peer)
  return None if None in taken or taken[1] <= 0 else taken[0] / taken[1]


def _same(ours, peer):
  """Whether both computed the same number; None where there is none to compare."""
  a, b = (side['facts'].get('value', side['facts'].get('parameters')) for side in (ours, peer))
  return None if None in (a, b) else abs(a - b) <= _SAME_VALUE * max(abs(a), abs(b))


def write(folder: str, machine: dict[str, Any], results: Mapping[str, Any]) -> str:
  """Writes both files, together with what the folder holds of other rows; returns the Markdown.

  Results of another machine or other versions are kept out: the folder is then said to be wrong.
  """
  os.makedirs(folder, exist_ok=True)
  path = os.path.join(folder, JSON)
  before = {}
  if os.path.exists(path):
    with open(path) as file:
      known = json.load(file)
    if known['machine'] != json.loads(json.dumps(machine)):
      raise SystemExit(f'ERROR: {path} is of another machine or of other versions. Use another '
                       '--output.')
    before = known['rows']
  order = list(_by_name(_device(machine)))
  merged = before | results
  merged = {name: merged[name] for name in sorted(merged, key=order.index)}
  with open(path, 'w') as file:
    json.dump({'machine': machine, 'rows': merged}, file, indent=1)
  text = markdown(machine, merged)
  with open(os.path.join(folder, MARKDOWN), 'w') as file:
    file.write(text + '\n')
  return text


def markdown(machine: Mapping[str, Any], results: Mapping[str, Any]) -> str:
  """The table, and what it was measured with."""
  by_name = _by_name(_device(machine))
  versions = ', '.join(f'{name} {version}' for name, version in machine['versions'].items())
  is_device = 'device' in machine
  head = (f'{machine["device"] + "; " if is_device else ""}{machine["cores"]} cores '
          f'({machine["architecture"]}: {", ".join(machine["flags"]) or "flags unknown"}), '
          f'{machine["memory_gb"]} GB, {machine["system"]}. Python {machine["python"]}, {versions}'
          f'; PyTorch {machine["torch"] or "none"}.')
  lines = [_line(by_name[name], found) for name, found in results.items()]
  table = tables.table(
      ['row', 'ours, ms', 'quartiles', 'peer, ms', 'quartiles', 'peer', 'ratio', 'reach', 'aim',
       'memory, MB', 'peer, MB', 'ratio', 'reach', 'repeats'], lines)
  notes = [f'- `{name}`: {found["what"]}.' for name, found in results.items()]
  return '\n'.join([
      '# Benchmarks', '', head, '', table, '', _DEVICE_MEMORY if is_device else _MEMORY, '',
      *_remarks(results), 'Rows:', '', *notes])


def _device(machine):
  return 'gpu' if 'device' in machine else 'cpu'


def _line(row, found):
  sides = found['sides']
  ours, peer = sides[next(iter(sides))], sides.get(found.get('peer'))
  times = lambda side: ('-', '-') if side is None or side['error'] else (
      f'{1e3 * side["median"]:.4g}', '-'.join(f'{1e3 * x:.4g}' for x in side['quartiles']))
  number = lambda x: '-' if x is None else f'{x:.2f}'
  bound = lambda x: '-' if x is None else f'{">=" if row.rate else "<="} {x:g}'
  ratio = number(found.get('ratio'))
  taken = [None if side is None or side['error'] else _memory(row, side)
           for side in (ours, peer)]
  megabytes = ('-' if x is None else f'{x / 1e6:.0f}' for x in taken)
  return (row.name, *times(ours), *times(peer), found.get('peer', 'none'), ratio,
          bound(row.reach), bound(row.aim), *megabytes, number(found.get('memory_ratio')),
          number(row.memory[0]), str(ours.get('repeats', 0)))


def _remarks(results):
  """What went wrong, how starts divide, and the operations of a step."""
  lines = []
  for name, found in results.items():
    for side, facts in found['sides'].items():
      if facts['error']:
        lines.append(f'- `{name}`, {side}: {facts["error"]}')
      phases = facts['facts'].get('phases')
      if phases:
        lines.append(f'- `{name}`, {side}: ' + ', '.join(
            f'{phase} {seconds:.1f} s' for phase, seconds in phases.items()) + '.')
      operations = facts['facts'].get('operations')
      if operations:
        total = sum(operations.values())
        lines.append(f'- `{name}`, {side}, by operation, all threads: ' + ', '.join(
            f'{kind} {1e3 * seconds:.1f} ms ({seconds / total:.0%})'
            for kind, seconds in operations.items() if seconds > total / 200) + '.')
    if found.get('same_value') is False:
      lines.append(f'- `{name}`: the sides computed different values.')
  return ['Remarks:', '', *lines, ''] if lines else []
