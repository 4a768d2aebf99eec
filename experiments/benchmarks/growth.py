"""How time and memory of each loss, value and gradient, grow with pixels and with the queue.

Five sizes over a factor of 16. Time is the median of repeats, memory what the compiled program
needs for arguments, results and temporaries. The exponent is the slope of a straight line through
the logarithms; `EXPLAINED` says why it may be above 1.1. Command:
  .venv/bin/python -m experiments.benchmarks.growth --output=<folder>
writes growth.md, growth.json and growth.png there. `--only=cross_image*` measures some; exit status
1: an exponent above 1.1 is not explained.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import statistics
import sys
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.benchmarks import inputs, machine, our_losses, rows
from kdseg_jax import host_memory
from kdseg_jax.data import files
from kdseg_jax.report import tables

SIDES, QUADRATIC_SIDES = (32, 48, 64, 96, 128), (16, 24, 32, 48, 64)
SAMPLES = (1_024, 2_048, 4_096, 8_192, 16_384)
LARGEST = 1.1
# Loss: why an exponent may be above 1.1.
EXPLAINED = {
    ('feature_adaptation', 'pixels', 'time'):
        'with jax 0.10 the largest map takes 64 MiB within a thread of the pool, more than malloc '
        'keeps for such a thread: 16,385 fresh pages a call. With `MALLOC_ARENA_MAX=1` it was '
        'at most 1.0.',
    ('cross_image_pixel', 'pixels', 'memory'):
        'a block holds all pairs of up to 1,024 pixels, and from there on as many whatever their '
        'number.',
    ('cross_image_pixel', 'pixels', 'time'):
        'compares every pixel with every other: the pairs grow with the square of the pixels.',
    ('memory_similarity_pixel', 'queue', 'time'):
        'a block holds as many similarities whatever the queue, and so the fewer pixels the longer '
        'it is: 1,024 to 64, of which the last are slower products. In blocks of four times as '
        'many it was 0.98, in twice the memory and no faster with 8,192 pixels and 20,000 '
        'embeddings.',
}
_NOT_GROWN = ('pairwise_affinity_nodes', 'memory_similarity_region')  # as others of the table


class Growth(NamedTuple):
  """One loss over one size.

  Attributes:
    loss: its name.
    over: 'pixels' (anchors of detectors) or 'queue'.
    sizes: how many, as measured.
    seconds: of a call.
    bytes: of the compiled program.
  """

  loss: str
  over: str
  sizes: list[int]
  seconds: list[float]
  bytes: list[int]

  def exponent(self, of: str) -> float:
    """That of 'time' or 'memory'."""
    values = self.seconds if of == 'time' else self.bytes
    return float(np.polyfit(np.log(self.sizes), np.log(values), 1)[0])


def losses_and_sizes() -> list[tuple[str, str, tuple[int, ...]]]:
  """What is measured: loss, 'pixels' or 'queue', sides of maps or sizes of the queue."""
  names = [row.name.removeprefix('loss/') for row in rows.chosen(['loss/*'])]
  return [(name, 'pixels', QUADRATIC_SIDES if name == 'cross_image_pixel' else SIDES)
          for name in names if name not in _NOT_GROWN] + [
              ('memory_similarity_pixel', 'queue', SAMPLES)]


def measure(loss: str, over: str, sizes: tuple[int, ...], repeats: int) -> Growth:
  """One loss at all sizes, in turns."""
  calls, counts, found_bytes = [], [], []
  for size in sizes:
    given = {'side': size} if over == 'pixels' else {'side': 32, 'samples': size}
    arrays = inputs.arrays(loss, images=1, **given)
    counts.append(arrays['student'].size // arrays['student'].shape[-1]
                  if over == 'pixels' else size)
    arrays = jax.device_put(arrays)
    student = arrays.pop('student')
    program = our_losses.compiled(loss).lower(student, arrays).compile()
    memory = program.memory_analysis()
    found_bytes.append(memory.argument_size_in_bytes + memory.output_size_in_bytes
                       + memory.temp_size_in_bytes)
    calls.append(lambda program=program, student=student, arrays=arrays: program(student, arrays))
  taken: list[list[float]] = [[] for _ in sizes]
  for repeat in range(repeats + 1):
    for call, seconds in zip(calls, taken):
      start = time.perf_counter()
      jax.block_until_ready(call())
      if repeat:
        seconds.append(time.perf_counter() - start)
  return Growth(loss, over, counts, [statistics.median(seconds) for seconds in taken], found_bytes)


def unexplained(found: list[Growth]) -> list[str]:
  """Exponents above `LARGEST` without a line in `EXPLAINED`."""
  return [f'{growth.loss} over {growth.over}: {of} grows with the power '
          f'{growth.exponent(of):.2f}, which nothing explains yet'
          for growth in found for of in ('time', 'memory')
          if growth.exponent(of) > LARGEST and (growth.loss, growth.over, of) not in EXPLAINED]


def markdown(found: list[Growth], described: dict[str, Any]) -> str:
  """Exponents, and the reasons of those above `LARGEST`."""
  span = lambda values, scale: f'{scale * values[0]:.3g} to {scale * values[-1]:.3g}'
  table = tables.table(
      ['loss', 'over', 'sizes', 'ms', 'exponent of time', 'MB', 'exponent of memory'],
      [(growth.loss, growth.over, f'{growth.sizes[0]:,} to {growth.sizes[-1]:,}',
        span(growth.seconds, 1e3), f'{growth.exponent("time"):.2f}', span(growth.bytes, 1e-6),
        f'{growth.exponent("memory"):.2f}') for growth in found])
  reasons = [f'- `{loss}`, {of} over {over}: {EXPLAINED[loss, over, of]}'
             for growth in found for loss, over, of in EXPLAINED
             if (loss, over) == (growth.loss, growth.over) and growth.exponent(of) > LARGEST]
  reasons += [f'- {line}.' for line in unexplained(found)]
  versions = ', '.join(f'{name} {version}' for name, version in described['versions'].items())
  return '\n'.join([
      '# How the losses grow', '', f'One image, value and gradient. {described["cores"]} cores '
      f'({", ".join(described["flags"])}), Python {described["python"]}, {versions}.', '', table,
      '', 'Exponents above 1.1:', '', *(reasons or ['- none'])])


def draw(found: list[Growth]) -> np.ndarray:
  """Time and memory over size, with logarithmic axes: `(H, W, 3)` uint8 RGB."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(15, 7), layout='constrained', dpi=120)
  panels = figure.subplots(1, 2)
  for axes, of, scale, unit in zip(panels, ('time', 'memory'), (1e3, 1e-6), ('ms', 'MB')):
    for number, growth in enumerate(found):
      values = growth.seconds if of == 'time' else growth.bytes
      label = growth.loss + (', queue' if growth.over == 'queue' else '')
      axes.loglog(growth.sizes, [scale * value for value in values], marker='.',
                  color=f'C{number % 10}', linestyle=('-', '--', ':', '-.')[number // 10 % 4],
                  label=f'{label}: {growth.exponent(of):.2f}')
    axes.set_xlabel('pixels, anchors or remembered embeddings')
    axes.set_ylabel(f'{of}, {unit}')
    axes.grid(alpha=0.3, which='both')
    axes.legend(fontsize=6, title='exponents', title_fontsize=7, loc='upper left',
                bbox_to_anchor=(1, 1))
  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3]


def main():
  """Measures, and writes the table, its numbers and the plot."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--output', required=True, help='folder of growth.md, .json and .png')
  parser.add_argument('--only', default='*', help='pattern of names of losses')
  parser.add_argument('--repeats', type=int, default=7)
  args = parser.parse_args()
  # As runs do: pages that the system clears for the largest sizes alone look like growth.
  host_memory.keep_freed()
  found = []
  for loss, over, sizes in losses_and_sizes():
    if fnmatch.fnmatch(loss, args.only):
      found.append(measure(loss, over, sizes, args.repeats))
      print(f'{loss} over {over}: {found[-1].exponent("time"):.2f} in time, '
            f'{found[-1].exponent("memory"):.2f} in memory', file=sys.stderr, flush=True)
  described = machine.describe(sys.executable)
  os.makedirs(args.output, exist_ok=True)
  text = markdown(found, described)
  with open(os.path.join(args.output, 'growth.md'), 'w') as file:
    file.write(text + '\n\n![Time and memory over size](growth.png)\n')
  with open(os.path.join(args.output, 'growth.json'), 'w') as file:
    json.dump({'machine': described, 'losses': [growth._asdict() for growth in found]}, file)
  files.write_png(os.path.join(args.output, 'growth.png'), draw(found))
  print(text)
  return '\n'.join(unexplained(found)) or 0


if __name__ == '__main__':
  sys.exit(main())
