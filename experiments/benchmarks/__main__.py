"""The command of the benchmarks; see the package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from experiments import benchmarks
from experiments.benchmarks import interleave, machine, rows, table, worker

# All sides are on the device at once: none may take its memory before it needs it.
_ENVIRONMENT = {'cpu': {'JAX_PLATFORMS': 'cpu'},
                'gpu': {'JAX_PLATFORMS': 'cuda', 'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}}
# What our programs set for themselves, `kdseg_jax.host_memory`.
_KEPT = {'MALLOC_MMAP_MAX_': '0', 'MALLOC_TRIM_THRESHOLD_': '-1'}
_KEEPS = ', keeping its memory'  # said of PyTorch in the table


def main():
  """Measures the chosen rows, and writes the table after each."""
  parser = argparse.ArgumentParser(
      prog='python -m experiments.benchmarks', description=benchmarks.__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--output', help='folder of table.md and table.json; other rows stay there')
  parser.add_argument('--only', action='append', default=[], help='pattern of names, as loss/*')
  parser.add_argument('--repeats', type=int, default=15, help='calls of each side that count')
  parser.add_argument('--together', type=int, default=1, help='rows whose processes start and '
                      'compile at once: for losses on machines of many cores')
  parser.add_argument('--torch', default=sys.executable, help='a Python that imports PyTorch')
  parser.add_argument('--torch_keeps_memory', action='store_true', help='PyTorch too keeps the '
                      'memory of a call for the next, which it does not by itself')
  parser.add_argument('--camvid', default='', help='folder of CamVid, for the input pipeline')
  parser.add_argument('--device', choices=worker.DEVICES, default=worker.DEVICES[0],
                      help='what it runs on, which has rows of its own')
  parser.add_argument('--list', action='store_true', help='names the rows and ends')
  args = parser.parse_args()
  found = rows.chosen(args.only, args.device)
  if args.list or not found:
    print('\n'.join(f'{row.name:34} {row.what}' for row in (found or rows.ROWS[args.device])))
    return 0 if found else f'ERROR: --only={args.only} fits none of these rows.'
  measured_on = machine.describe(args.torch, args.device)
  if args.torch_keeps_memory and measured_on['torch']:
    measured_on['torch'] += _KEEPS
  results, text = {}, ''
  for row in found:
    if row.needs_data and not args.camvid:
      print(f'{row.name}: left out without --camvid=<folder>.', file=sys.stderr)
  found = [row for row in found if not row.needs_data or args.camvid]
  for start in range(0, len(found), args.together):
    group = found[start:start + args.together]
    for row, measured in measure(group, args, has_torch=measured_on['torch'] is not None):
      results[row.name] = table.result(row, measured)
      ratio = results[row.name].get('ratio')
      print(f'{row.name}: {"no ratio" if ratio is None else f"{ratio:.2f}"}', file=sys.stderr,
            flush=True)
    if args.output:
      text = table.write(args.output, measured_on, results)
  print(text or table.markdown(measured_on, results))
  return 0


def measure(group: Sequence[rows.Row], args: argparse.Namespace, *, has_torch: bool
            ) -> Iterator[tuple[rows.Row, dict[str, interleave.Measured]]]:
  """The rows, each with what was found of its sides, all in turns with each other."""
  sides = {(row.name, name): side for row in group
           for name, side in sides_of(row, args, has_torch=has_torch).items()}
  found = interleave.measure(
      sides, repeats=min([args.repeats, *(row.most for row in group if row.most)]),
      environment=_ENVIRONMENT[args.device], at_once=args.together > 1)
  for row in group:
    yield row, {side: measured for (name, side), measured in found.items() if name == row.name}


def sides_of(row: rows.Row, args: argparse.Namespace, *, has_torch: bool
             ) -> dict[str, interleave.Side]:
  """The processes of a row; those of PyTorch are left out where it is missing."""
  sides = {}
  for name, work in row.sides.items():
    is_torch = name in (rows.TORCH, rows.CHANNELS_LAST)
    if is_torch and not has_torch:
      continue
    layout = ['--channels_last'] * (name == rows.CHANNELS_LAST)
    sides[name] = interleave.Side(
        args.torch if is_torch else sys.executable,
        [work, *layout, f'--data={args.camvid}', f'--device={args.device}'],
        _KEPT if is_torch and args.torch_keeps_memory else {})
  return sides


if __name__ == '__main__':
  sys.exit(main())
