"""Peak memory and time of the losses that compare all pixels with all others.

Each case runs in a process of its own: value and gradient of one loss on random features, once to
compile and `--repeats` times for the best time. Peak is the process's maximum resident set, of
which the last column but one is what came after jax was loaded and the features were made. CPU
seconds are those of all threads, which a busy machine does not lengthen.
Command (results of it: loss_memory.md):
  .venv/bin/python -m experiments.benchmarks.loss_memory
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from kdseg_jax import losses

# Name: loss, shape of both features, limit of the whole process in GB (None: no limit is claimed).
CASES = {
    'cross_image_pixel 1': (losses.cross_image_pixel, (1, 64, 64, 256), None),
    'cross_image_pixel 2': (losses.cross_image_pixel, (2, 64, 64, 256), None),
    'cross_image_pixel 4': (losses.cross_image_pixel, (4, 64, 64, 256), 2.0),
    'pairwise_affinity': (losses.pairwise_affinity, (1, 128, 128, 256), 1.0),
}


def measure(function: Callable, *arguments, repeats: int = 1) -> dict[str, float]:
  """Peak memory and time of a function in this process; call it once a process.

  Returns:
    `before_gb` and `peak_gb`, the maximum resident set before and after, `seconds` and
    `cpu_seconds`, the best of the calls after the first.
  """
  gigabytes = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
  before, times = gigabytes(), []
  for _ in range(repeats + 1):
    start = time.perf_counter(), time.process_time()
    jax.block_until_ready(function(*arguments))
    times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
  seconds, cpu_seconds = map(min, zip(*times[1:]))  # the first call compiles
  return {'before_gb': before, 'peak_gb': gigabytes(), 'seconds': seconds,
          'cpu_seconds': cpu_seconds}


def run_case(name: str, repeats: int) -> dict[str, float]:
  """Value and gradient of one case, in this process."""
  loss, shape, _ = CASES[name]
  student, teacher = (
      jax.block_until_ready(jax.random.normal(jax.random.key(seed), shape, jnp.float32))
      for seed in range(2))
  return measure(jax.jit(jax.value_and_grad(loss)), student, teacher, repeats=repeats)


def in_child(name: str, repeats: int) -> dict[str, float]:
  """The same in a process of its own, whose peak is no other case's."""
  output = subprocess.run(
      [sys.executable, __file__, '--case', name, '--repeats', str(repeats)], check=True,
      stdout=subprocess.PIPE, text=True).stdout
  return json.loads(output.splitlines()[-1])


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--case', choices=CASES, help='run this one here and print JSON')
  parser.add_argument('--repeats', type=int, default=2)
  args = parser.parse_args()
  if args.case:
    print(json.dumps(run_case(args.case, args.repeats)))
    return

  print('| loss | features | pairs of pixels | seconds | CPU seconds | CPU ns a pair | '
        'dense similarities | process peak | of it by the loss | limit |')
  print('|---|---|---|---|---|---|---|---|---|---|')
  over = []
  for name, (loss, shape, limit) in CASES.items():
    result = in_child(name, args.repeats)
    images, height, width, _ = shape
    across = images if loss is losses.cross_image_pixel else 1
    pairs = images * across * (height * width)**2
    peak = result['peak_gb']
    if limit and peak > limit:
      over.append(name)
    print(f'| {loss.__name__} | {"x".join(map(str, shape))} | {pairs / 1e6:.0f} M | '
          f'{result["seconds"]:.2f} | {result["cpu_seconds"]:.2f} | '
          f'{1e9 * result["cpu_seconds"] / pairs:.1f} | '
          f'{2 * 4 * pairs / 1e9:.2f} GB | {peak:.2f} GB | {peak - result["before_gb"]:.2f} GB | '
          f'{f"{limit:g} GB" if limit else "-"} |', flush=True)
  if over:
    sys.exit(f'Above their limit: {", ".join(over)}.')


if __name__ == '__main__':
  main()
