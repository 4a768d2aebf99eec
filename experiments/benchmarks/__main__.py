"""The command of the benchmarks; see the package."""

from __future__ import annotations

import argparse
import sys

from experiments import benchmarks
from experiments.benchmarks import interleave, machine, rows, table


def main():
  """Measures the chosen rows, and writes the table after each."""
  parser = argparse.ArgumentParser(
      prog='python -m experiments.benchmarks', description=benchmarks.__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--output', help='folder of table.md and table.json; other rows stay there')
  parser.add_argument('--only', action='append', default=[], help='pattern of names, as loss/*')
  parser.add_argument('--repeats', type=int, default=15, help='calls of each side that count')
  parser.add_argument('--torch', default=sys.executable, help='a Python that imports PyTorch')
  parser.add_argument('--camvid', default='', help='folder of CamVid, for the input pipeline')
  parser.add_argument('--list', action='store_true', help='names the rows and ends')
  args = parser.parse_args()
  found = rows.chosen(args.only)
  if args.list or not found:
    print('\n'.join(f'{row.name:34} {row.what}' for row in (found or rows.ROWS)))
    return 0 if found else f'ERROR: --only={args.only} fits none of these rows.'
  measured_on = machine.describe(args.torch)
  results, text = {}, ''
  for row in found:
    if row.needs_data and not args.camvid:
      print(f'{row.name}: left out without --camvid=<folder>.', file=sys.stderr)
      continue
    sides = sides_of(row, args, has_torch=measured_on['torch'] is not None)
    repeats = min(args.repeats, row.most or args.repeats)
    results[row.name] = table.result(row, interleave.measure(sides, repeats=repeats))
    ratio = results[row.name].get('ratio')
    print(f'{row.name}: {"no ratio" if ratio is None else f"{ratio:.2f}"}', file=sys.stderr,
          flush=True)
    if args.output:
      text = table.write(args.output, measured_on, results)
  print(text or table.markdown(measured_on, results))
  return 0


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
        args.torch if is_torch else sys.executable, [work, *layout, f'--data={args.camvid}'])
  return sides


if __name__ == '__main__':
  sys.exit(main())
