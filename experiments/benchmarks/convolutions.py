"""What the CPU lowerings of `kdseg_jax/models/lowerings.py` gain over XLA's own convolution.

Forward and backward, side by side, on the shapes of DeepLabV3 at output stride 8: what is chosen,
and what taps and Winograd would gain wherever they can be. Commands:
  .venv/bin/python -m experiments.benchmarks.convolutions --size 64 64 --batch 16 --width 0.25
  .venv/bin/python -m experiments.benchmarks.convolutions --size 128 128 --batch 4 --width 1
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
from jax import lax

from kdseg_jax.models import lowerings
from kdseg_jax.models.layers import scale_channels


def cases(height: int, width: int, multiplier: float):
  """Name, map size, channels in and out, kernel size, stride, dilation, groups."""
  channels = lambda count: scale_channels(count, multiplier)
  at = lambda stride: (-(-height // stride), -(-width // stride))
  return [
      ('stem 7x7', (height, width), 3, channels(64), 7, 2, 1, 1),
      ('stage1 3x3', at(4), channels(64), channels(64), 3, 1, 1, 1),
      ('stage2 3x3 stride 2', at(4), channels(64), channels(128), 3, 2, 1, 1),
      ('critic 4x4 stride 2', at(4), channels(64), channels(128), 4, 2, 1, 1),
      ('stage2 3x3', at(8), channels(128), channels(128), 3, 1, 1, 1),
      ('stage3 3x3 dilation 2', at(8), channels(256), channels(256), 3, 1, 2, 1),
      ('stage4 3x3 dilation 4', at(8), channels(512), channels(512), 3, 1, 4, 1),
      ('aspp 3x3 dilation 12', at(8), channels(512), channels(128), 3, 1, 12, 1),
      ('aspp 3x3 dilation 24', at(8), channels(512), channels(128), 3, 1, 24, 1),
      ('shortcut 1x1 stride 2', at(4), channels(64), channels(128), 1, 2, 1, 1),
      ('project 1x1', at(8), 5 * channels(128), channels(128), 1, 1, 1, 1),
      ('depthwise stride 2', at(2), channels(96), channels(96), 3, 2, 1, channels(96)),
      ('depthwise dilation 2', at(8), channels(384), channels(384), 3, 1, 2, channels(384)),
  ]


def forward_backward(lowering, geometry):
  """A compiled function of (x, kernel): gradients of the sum of squares of the result."""
  objective = lambda x, kernel: jnp.sum(lowering(x, kernel, geometry) ** 2)
  return jax.jit(jax.grad(objective, argnums=(0, 1)))


def milliseconds(functions, arguments, repeats):
  """The best time of each function, taken in turns so that a busy machine hits all alike."""
  best = [float('inf')] * len(functions)
  for repeat in range(repeats + 1):
    for i, function in enumerate(functions):
      start = time.perf_counter()
      jax.block_until_ready(function(*arguments))
      if repeat:  # the first call compiles
        best[i] = min(best[i], 1e3 * (time.perf_counter() - start))
  return best


def max_pool(x, kernel, geometry):
  """The ResNet's max pooling, in the form of a lowering."""
  return lax.reduce_window(
      x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--size', type=int, nargs=2, default=(64, 64), help='of the image')
  parser.add_argument('--batch', type=int, default=16)
  parser.add_argument('--width', type=float, default=0.25, help='multiplier of the channels')
  parser.add_argument('--repeats', type=int, default=5)
  args = parser.parse_args()

  print('| case | shape | valid taps | XLA ms | chosen | ms | ratio | taps | Winograd |')
  print('|---|---|---|---|---|---|---|---|---|')
  for name, size, channels, features, k, s, d, groups in cases(*args.size, args.width):
    x = jax.random.normal(jax.random.key(0), (args.batch, *size, channels))
    kernel = jax.random.normal(jax.random.key(1), (k, k, channels // groups, features))
    geometry = lowerings.Geometry((s, s), (d, d), (k // 2 * d,) * 2, groups)
    chosen = lowerings.choose_lowering(x.shape, kernel.shape, geometry, jax.default_backend())
    candidates = [lowerings.lower_general, chosen] + [lowerings.lower_taps] * (groups == 1)
    candidates += [lowerings.lower_winograd] * ((k, s, groups) == (3, 1, 1))
    times = milliseconds(
        [forward_backward(f, geometry) for f in candidates], (x, kernel), args.repeats)
    ratios = ' | '.join([f'{times[0] / t:.2f}x' for t in times[1:]] + ['-'] * (4 - len(times)))
    print(f'| {name} | {"x".join(map(str, x.shape))} > {features} | '
          f'{lowerings.valid_share(x.shape, kernel.shape, geometry):.2f} | {times[0]:.2f} | '
          f'{chosen.__name__.removeprefix("lower_")} | {times[1]:.2f} | {ratios} |', flush=True)
  size = [-(-length // 2) for length in args.size]
  x = jax.random.normal(jax.random.key(0), (args.batch, *size, scale_channels(64, args.width)))
  [pool] = milliseconds([forward_backward(max_pool, None)], (x, x), args.repeats)
  print(f'\nMax pooling {"x".join(map(str, x.shape))}: {pool:.2f} ms.')


if __name__ == '__main__':
  main()
