"""Resizing and pooling that agree with the frameworks of the published models."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kdseg_jax import target_platform

Weights = np.ndarray | jax.Array  # the latter where a size is symbolic

# 32 to 128 take about the same time; blocks of 32 suit small maps too.
_BLOCK_ROWS = 32


def resize_bilinear(x: jax.Array, size: tuple[int, int], *, align_corners: bool) -> jax.Array:
  """Resizes the two middle axes bilinearly, without antialiasing.

  Output row i reads the input at row `i * (h - 1) / (H - 1)` if `align_corners`, else at
  `(i + 0.5) * h / H - 0.5`, clipped to the image; columns alike. As two matrix products with
  constant weights: their gradient is again two products, where gathers would need scatters. On the
  CPU without most of the zeros of the larger one.
  Sizes may be symbolic (`jax.export.symbolic_shape`); the weights are then computed when it runs.
  Equal to `torch.nn.functional.interpolate(mode='bilinear', antialias=False)` in both modes.

  Args:
    x: `(N, h, w, C)`, any float dtype.
    size: `(H, W)`.
    align_corners: whether the outermost pixel centres (True) or the image borders (False) of
      input and output coincide. No default: models and papers differ, and it is easily mixed up.

  Returns:
    `(N, H, W, C)` in the dtype of x, interpolated in float32 (float64 for float64).

  Raises:
    ValueError: x is not of rank 4, or a size is not positive.
  """
  if x.ndim != 4 or len(size) != 2 or not _positive(size):
    raise ValueError(
        f'resize_bilinear takes (N, h, w, C) and a size (H, W) of at least 1, got shape {x.shape} '
        f'and size {tuple(size)}.')
  if x.shape[1:3] == tuple(size):
    return x
  rows, columns = (
      _tents(source, target, align_corners) for source, target in zip(x.shape[1:3], size))
  return _separable(x, rows, columns)


def adaptive_average_pool(x: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Averages an image over a grid of `size` bins.

  Bin i of n covers the rows `floor(i * H / n)` to `ceil((i + 1) * H / n)`, the end left out;
  columns alike. Bins overlap where n does not divide H. Equal to
  `torch.nn.functional.adaptive_avg_pool2d`.

  Args:
    x: `(N, H, W, C)`, any float dtype.
    size: bins along (rows, columns); may exceed the image, whose size may be symbolic.

  Returns:
    `(N, *size, C)` in the dtype of x, averaged in float32 (float64 for float64).

  Raises:
    ValueError: x is not of rank 4, or a size is not positive.
  """
  if x.ndim != 4 or len(size) != 2 or min(size) < 1:
    raise ValueError(
        'adaptive_average_pool takes (N, H, W, C) and a size (rows, columns) of at least 1, got '
        f'shape {x.shape} and size {tuple(size)}.')
  if divides(size, x.shape):
    batch, height, width, channels = x.shape
    bins = x.reshape(batch, size[0], height // size[0], size[1], width // size[1], channels)
    return jnp.mean(bins, axis=(2, 4), dtype=jnp.promote_types(jnp.float32, x.dtype)).astype(
        x.dtype)
  rows, columns = (_bins(source, target) for source, target in zip(x.shape[1:3], size))
  return _separable(x, rows, columns)


def divides(size: tuple[int, int], shape: tuple[int, ...]) -> bool:
  """Whether an image `(N, H, W, C)` of this shape, known when traced, is of equal bins."""
  return all(isinstance(side, int) and side % bins == 0 for side, bins in zip(shape[1:3], size))


def _separable(x: jax.Array, rows: Weights, columns: Weights) -> jax.Array:
  """`y[n, i, j, c] = sum_{h, w} rows[i, h] columns[j, w] x[n, h, w, c]`."""
  dtype = jnp.promote_types(jnp.float32, x.dtype)
  product = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
  wide, rows, columns = (array.astype(dtype) for array in (x, rows, columns))
  if target_platform.current() != 'cpu' or not isinstance(rows, np.ndarray):
    return product('ih,jw,nhwc->nijc', rows, columns, wide).astype(x.dtype)
  y = product('jw,nhwc->nhjc', columns, wide)
  images, height, width, channels = y.shape
  y = _banded(rows, y.reshape(images, height, width * channels), product)
  return y.reshape(images, len(rows), width, channels).astype(x.dtype)


def _banded(weights: np.ndarray, x: jax.Array, product: Callable[..., jax.Array]) -> jax.Array:
  """`y[n, i, f] = sum_h weights[i, h] x[n, h, f]` without most of the zeros off the diagonal.

  In blocks of `_BLOCK_ROWS` or fewer rows, each of which reads a window of x, the same number of
  rows below the window of the block before: the work grows with the rows and not with their square.
  Images and blocks are one axis, for whose gradient XLA finds a product without a transpose.
  """
  height, source = weights.shape
  blocks = -(-height // _BLOCK_ROWS)
  rows = -(-height // blocks)
  weights = np.pad(weights, ((0, blocks * rows - height), (0, 0))).reshape(blocks, rows, source)
  first, step, window = _windows(weights.any(1))
  parts = -(-window // step)  # of a window, of `step` rows but for the last
  padded = (blocks + parts - 1) * step  # rows of x from `first` on
  weights = np.pad(weights, ((0, 0), (0, 0), (-first, padded)))
  weights = np.stack([block[:, number * step:number * step + window]
                      for number, block in enumerate(weights)])
  beyond = padded + first - source  # below 0: rows that nothing reads
  x = lax.pad(x, np.zeros((), x.dtype), ((0, 0, 0), (-first, beyond, 0), (0, 0, 0)))
  images, _, features = x.shape
  windows = jnp.concatenate(
      [x[:, part * step:(part + blocks) * step].reshape(images * blocks, step, features)
       [:, :window - part * step] for part in range(parts)], axis=1)
  weights = jnp.broadcast_to(weights, (images, *weights.shape)).reshape(-1, rows, window)
  y = product('bik,bkf->bif', weights, windows).reshape(images, blocks * rows, features)
  return y[:, :height]


def _windows(used: np.ndarray) -> tuple[int, int, int]:
  """Where the window of the first block begins, at most 0, how far it moves a block, its length.

  Args:
    used: bool `(blocks, source)`, what each block reads; something each.
  """
  blocks, source = used.shape
  starts, ends = used.argmax(1), source - used[:, ::-1].argmax(1)
  found = []
  for step in {max(1, source // blocks), source // blocks + 1}:
    moved = step * np.arange(blocks)
    first = min(0, int((starts - moved).min()))
    found.append((int((ends - moved).max()) - first, step, first))
  window, step, first = min(found)
  return first, step, window


def resize_nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Resizes two axes by copying: output row i is input row `floor(i * h / H)`, columns alike.

  Equal to `torch.nn.functional.interpolate(mode='nearest')`, whose float32 steps it takes. Labels
  are gathered; maps are multiplied by matrices of zeros and ones, whose gradient needs no scatter.

  Args:
    x: labels `(N, h, w)` of any dtype, or a map `(N, h, w, C)` of a float dtype.
    size: `(H, W)`.

  Returns:
    `(N, H, W)` or `(N, H, W, C)`, in the dtype of x.

  Raises:
    ValueError: x is of another rank, or a size is not positive.
  """
  if x.ndim not in (3, 4) or len(size) != 2 or min(size) < 1:
    raise ValueError(
        f'resize_nearest takes (N, h, w) or (N, h, w, C) and a size (H, W) of at least 1, got '
        f'shape {x.shape} and size {tuple(size)}.')
  if x.shape[1:3] == tuple(size):
    return x
  rows, columns = (_nearest(source, target) for source, target in zip(x.shape[1:3], size))
  if x.ndim == 3:
    return x[:, rows][:, :, columns]
  select = lambda positions, source: positions[:, None] == np.arange(source)
  return _separable(x, select(rows, x.shape[1]), select(columns, x.shape[2]))


def _nearest(source: int, target: int) -> np.ndarray:
  """The position that each of `target` outputs reads."""
  scale = np.float32(source) / np.float32(target)
  positions = (np.arange(target, dtype=np.float32) * scale).astype(np.int32)
  return np.minimum(positions, source - 1)


def _positive(size):
  """Whether the sides that are known are at least 1, as symbolic ones always are."""
  return all(side >= 1 for side in size if isinstance(side, (int, np.integer)))


def _numbers(*sides):
  """numpy and the sides themselves, or jax.numpy and arrays for them if one is symbolic."""
  if all(isinstance(side, (int, np.integer)) for side in sides):
    return np, *sides
  return jnp, *(jnp.asarray(side, jnp.int32) for side in sides)


def _bins(source, target: int):
  """Averaging weights `(target, source)` of each bin."""
  numbers, count = _numbers(source)
  starts = numbers.arange(target) * count // target
  ends = -(-numbers.arange(1, target + 1) * count // target)
  positions = numbers.arange(source)
  inside = (positions >= starts[:, None]) & (positions < ends[:, None])
  return inside / (ends - starts)[:, None]


def _tents(source, target, align_corners: bool):
  """Interpolation weights `(target, source)`: tents of width 1 around each read position."""
  # In whole numbers up to the last division, and so exact in 32 bits too.
  numbers, count, targets = _numbers(source, target)
  steps = numbers.arange(target)
  if align_corners:
    scale = numbers.maximum(targets - 1, 1)
    positions = steps * (count - 1)
  else:
    scale = 2 * targets
    positions = numbers.clip((2 * steps + 1) * count - targets, 0, scale * (count - 1))
  distances = numbers.abs(positions[:, None] - scale * numbers.arange(source))
  return numbers.maximum(0, scale - distances) / scale
