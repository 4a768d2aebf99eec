"""How a convolution is written out, by its shapes and the platform that it is compiled for.

Everywhere but on CPU it is `lax.conv_general_dilated`. XLA's CPU lowering of that is slow for 1x1,
for depthwise, for kernels that mostly read padding (dilation near the size of the map, as in ASPP),
for 3x3 on small maps and for gradients of strided ones; these are written out there as matrix
products, shifted multiply-adds, `winograd` and `strided`. `experiments/benchmarks/convolutions.py`
prints what that gains.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from kdseg_jax.models import strided, winograd

Array = jax.Array

# Per-tap products win on CPU where at most this share of the multiply-adds reads the image rather
# than padding; measured with the benchmark named above.
_MAX_VALID_SHARE = 0.6

# Winograd's products win on CPU between as many channels, on maps of at most so many pixels (larger
# ones leave the caches, which many channels outweigh), with as many tiles a batch, and where their
# multiply-adds are at most this share of the plain ones: 4/9 where tiles and phases fit the map.
# Measured alike on jax 0.10, 0.12.
_WINOGRAD_MIN_CHANNELS = 64
_WINOGRAD_MAX_PIXELS = 32 * 32
_WINOGRAD_WIDE, _WINOGRAD_MAX_PIXELS_WIDE = 256, 128 * 128
_WINOGRAD_MIN_TILES = 64
_WINOGRAD_MAX_SHARE = 0.65


class Geometry(NamedTuple):
  """How a kernel moves over an image: `(rows, columns)` each, and the channel groups."""

  strides: tuple[int, int]
  dilation: tuple[int, int]
  padding: tuple[int, int]
  groups: int


def choose_lowering(
    x_shape: tuple[int, ...],
    kernel_shape: tuple[int, ...],
    geometry: Geometry,
    backend: str,
    dtype: jnp.dtype = jnp.float32,
) -> Callable[[Array, Array, Geometry], Array]:
  """The function that computes a convolution, chosen from its shapes, backend and dtype."""
  if backend != 'cpu':
    return lower_general
  channels, outputs = x_shape[3], kernel_shape[3]
  if geometry.groups == channels == outputs > 1:
    return lower_depthwise
  if geometry.groups > 1:
    return lower_general
  if kernel_shape[:2] == (1, 1) and geometry.padding == (0, 0):
    return lower_pointwise
  if not all(isinstance(side, int) for side in x_shape[1:3]):
    return lower_general  # symbolic: which taps read the image is not known
  if 0 < valid_share(x_shape, kernel_shape, geometry) <= _MAX_VALID_SHARE:
    return lower_taps
  if _is_for_winograd(x_shape, kernel_shape, geometry, dtype):
    return lower_winograd
  if geometry.strides != (1, 1) and geometry.dilation == (1, 1):
    return lower_strided
  return lower_general


def _is_for_winograd(x_shape, kernel_shape, geometry, dtype):
  if (kernel_shape[:2] != (3, 3) or geometry.strides != (1, 1) or jnp.finfo(dtype).bits < 32
      or min(kernel_shape[2:]) < _WINOGRAD_MIN_CHANNELS):
    return False
  size = output_size(x_shape, kernel_shape, geometry)
  pixels = math.prod(size)
  tiles = winograd.tiles_of(size, geometry.dilation)
  images = x_shape[0] if isinstance(x_shape[0], int) else 1
  is_wide = min(kernel_shape[2:]) >= _WINOGRAD_WIDE
  most = _WINOGRAD_MAX_PIXELS_WIDE if is_wide else _WINOGRAD_MAX_PIXELS
  return (pixels <= most and images * tiles >= _WINOGRAD_MIN_TILES
          and 16 * tiles <= _WINOGRAD_MAX_SHARE * 9 * pixels)


def lower_general(x: Array, kernel: Array, geometry: Geometry) -> Array:
  """XLA's own convolution."""
  return lax.conv_general_dilated(
      x, kernel, geometry.strides, [(p, p) for p in geometry.padding],
      rhs_dilation=geometry.dilation, feature_group_count=geometry.groups,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def lower_pointwise(x: Array, kernel: Array, geometry: Geometry) -> Array:
  """A 1x1 kernel without padding: one matrix product, on the pixels that the stride keeps."""
  # With its end, so that a symbolic size comes out as the same expression as elsewhere.
  rows, columns = (slice(0, (size - 1) * stride + 1, stride) for size, stride in zip(
      output_size(x.shape, kernel.shape, geometry), geometry.strides))
  x = x[:, rows, columns]
  return _matmul(x, kernel[0, 0]).astype(x.dtype)


def lower_depthwise(x: Array, kernel: Array, geometry: Geometry) -> Array:
  """One kernel a channel: for each tap a multiply-add of the shifted image.

  The gradient is written out (and so has no forward-mode derivative). Derived automatically, every
  shifted image would be kept from forward to backward, and read once more for every tap.
  """
  return _depthwise(*_varying_alike(x, kernel), geometry)


def _varying_alike(x, kernel):
  """Both, device-varying under shard_map if one is, as a custom_vjp needs them."""
  return x + lax.full_like(kernel, 0, shape=()), kernel + lax.full_like(x, 0, shape=())


def _multiply_add(x, kernel, geometry):
  size = output_size(x.shape, kernel.shape, geometry)
  shifts = _shifts(
      _padded(x, geometry), kernel.shape, geometry.strides, geometry.dilation, size)
  return _weighted_sum(shifts, kernel).astype(x.dtype)


def _padded(x, geometry):
  return jnp.pad(x, ((0, 0), *((p, p) for p in geometry.padding), (0, 0)))


def _multiply_add_backward(geometry, residuals, gradient):
  x, kernel = residuals
  if geometry.strides != (1, 1):
    x_gradient, = jax.linear_transpose(lambda x: _multiply_add(x, kernel, geometry), x)(gradient)
    kernel_gradient = _tap_sums(gradient, _padded(x, geometry), kernel.shape, geometry)
    return x_gradient, kernel_gradient.astype(kernel.dtype)
  # Shifts the gradient instead of the image, for both.
  margins = [  # negative ones crop
      (d * (k - 1) - p,) * 2 + (0,)
      for k, d, p in zip(kernel.shape, geometry.dilation, geometry.padding)]
  padded = lax.pad(gradient, jnp.zeros((), gradient.dtype), [(0, 0, 0), *margins, (0, 0, 0)])
  shifts = _shifts(padded, kernel.shape, (1, 1), geometry.dilation, x.shape[1:3])
  x_gradient = _weighted_sum(shifts, kernel[::-1, ::-1])
  kernel_gradient = _tap_sums(x, padded, kernel.shape, geometry)[::-1, ::-1]
  return x_gradient.astype(x.dtype), kernel_gradient.astype(kernel.dtype)


_depthwise = jax.custom_vjp(_multiply_add, nondiff_argnums=(2,))
_depthwise.defvjp(
    lambda x, kernel, geometry: (_multiply_add(x, kernel, geometry), (x, kernel)),
    _multiply_add_backward)


def _tap_sums(image, padded, kernel_shape, geometry):
  """`sum over n, i, j of image[n, i, j, c] padded[n, i s + a d, j t + b e, c]`, `(a, b, 1, c)`.

  Row by row, so that what all taps read is in the cache: nine sums over whole images would read
  them from memory nine times.
  """
  (s, t), (d, e), (taps, across) = geometry.strides, geometry.dilation, kernel_shape[:2]
  batch, rows, columns, channels = image.shape
  size = (1, (taps - 1) * d + 1, padded.shape[2], channels)
  dtype = _accumulator(image)

  def add(sums, row):
    position, pixels = row[0], row[1].astype(dtype)
    corner = (position // rows, position % rows * s, 0, 0)
    read = lax.dynamic_slice(padded, corner, size)[0, ::d].astype(dtype)
    return [total + pixels * read[:, b * e:b * e + (columns - 1) * t + 1:t]
            for b, total in enumerate(sums)], None

  start = lax.full_like(image, 0, dtype=dtype, shape=(taps, columns, channels))
  sums, _ = lax.scan(add, [start] * across, (
      jnp.arange(batch * rows), image.reshape(-1, columns, channels)))
  return jnp.stack([total.sum(1) for total in sums], axis=1)[:, :, None]


def _shifts(padded, kernel_shape, strides, dilation, size):
  """What each tap reads of a padded image, in the order of the taps."""
  (s, t), (d, e), (rows, columns) = strides, dilation, size
  return [
      padded[:, i * d:i * d + (rows - 1) * s + 1:s, j * e:j * e + (columns - 1) * t + 1:t]
      for i in range(kernel_shape[0]) for j in range(kernel_shape[1])]


def _weighted_sum(shifts, kernel):
  weights = kernel.reshape(-1, kernel.shape[-1]).astype(_accumulator(kernel))
  return functools.reduce(jnp.add, (shift * weight for shift, weight in zip(shifts, weights)))


def lower_taps(x: Array, kernel: Array, geometry: Geometry) -> Array:
  """A matrix product a tap, on those pixels only where the tap reads the image, not padding."""
  size = output_size(x.shape, kernel.shape, geometry)
  total = None
  for i, (row, rows) in enumerate(_reads(0, x.shape, kernel.shape, geometry)):
    for j, (column, columns) in enumerate(_reads(1, x.shape, kernel.shape, geometry)):
      if not rows or not columns:
        continue
      read = x[:, _positions(row, rows, i, 0, geometry),
               _positions(column, columns, j, 1, geometry)]
      margins = (row, size[0] - row - rows), (column, size[1] - column - columns)
      term = jnp.pad(_matmul(read, kernel[i, j]), ((0, 0), *margins, (0, 0)))
      total = term if total is None else total + term
  return total.astype(x.dtype)


def lower_winograd(x: Array, kernel: Array, geometry: Geometry) -> Array:
  """A 3x3 kernel at stride 1 in 16 instead of 36 products for 2x2 pixels.

  The transformed image, four times the size of the image, is made again in the backward pass.
  """
  convolve = functools.partial(
      winograd.convolve, dilation=geometry.dilation, padding=geometry.padding)
  return jax.checkpoint(convolve)(x, kernel)


def lower_strided(x: Array, kernel: Array, geometry: Geometry) -> Array:
  """XLA's own, and its gradient with respect to the image as a matrix product; see `strided`.

  The gradient is written out (and so has no forward-mode derivative).
  """
  return _strided(*_varying_alike(x, kernel), geometry)


def _strided_backward(geometry, residuals, gradient):
  x, kernel = residuals
  x_gradient = strided.transpose(
      gradient, kernel, geometry.strides, geometry.padding, x.shape[1:3])
  of_kernel = jax.linear_transpose(lambda kernel: lower_general(x, kernel, geometry), kernel)
  return x_gradient.astype(x.dtype), of_kernel(gradient)[0]


_strided = jax.custom_vjp(lower_general, nondiff_argnums=(2,))
_strided.defvjp(
    lambda x, kernel, geometry: (lower_general(x, kernel, geometry), (x, kernel)),
    _strided_backward)


def valid_share(
    x_shape: tuple[int, ...], kernel_shape: tuple[int, ...], geometry: Geometry) -> float:
  """The share of a convolution's multiply-adds that reads the image rather than padding."""
  size = output_size(x_shape, kernel_shape, geometry)
  return math.prod(
      sum(count for _, count in _reads(axis, x_shape, kernel_shape, geometry))
      / (kernel_shape[axis] * size[axis])
      for axis in (0, 1))


def _reads(axis, x_shape, kernel_shape, geometry):
  """For each tap along an axis: the first output that reads the image, and their number."""
  size = x_shape[1 + axis]
  stride = geometry.strides[axis]
  outputs = output_size(x_shape, kernel_shape, geometry)[axis]
  ranges = []
  for tap in range(kernel_shape[axis]):
    offset = tap * geometry.dilation[axis] - geometry.padding[axis]
    first = max(0, -(offset // stride))
    last = min(outputs - 1, (size - 1 - offset) // stride)
    ranges.append((first, max(0, last - first + 1)))
  return ranges


def _positions(first, count, tap, axis, geometry):
  """The slice of the image that `count` outputs from `first` on read through a tap."""
  stride = geometry.strides[axis]
  start = first * stride + tap * geometry.dilation[axis] - geometry.padding[axis]
  return slice(start, start + (count - 1) * stride + 1, stride)


def output_size(x_shape, kernel_shape, geometry):
  """`(height, width)` of the result."""
  return tuple(
      (size + 2 * p - d * (k - 1) - 1) // s + 1
      for size, k, s, d, p in zip(
          x_shape[1:3], kernel_shape, geometry.strides, geometry.dilation, geometry.padding))


def _matmul(x, matrix):
  """`(N, H, W, C) @ (C, O)` in float32 or better; as rank 2, which XLA's CPU backend likes best."""
  product = jnp.matmul(
      x.reshape(-1, x.shape[-1]), matrix, preferred_element_type=_accumulator(x))
  return product.reshape(*x.shape[:-1], matrix.shape[-1])


def _accumulator(x):
  return jnp.promote_types(x.dtype, jnp.float32)
