"""Winograd's F(2x2, 3x3): a 3x3 convolution in 16 products where plain taps take 36.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), section 4.1. Each
2x2 of the result is made from 4x4 of the image: `y = A' [(G k G') * (B' x B)] A`, so that over the
tiles of a map it is a batch of 16 matrix products. A dilation d splits the image into d x d phases,
each of which is convolved without dilation.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

Array = jax.Array


def convolve(
    x: Array, kernel: Array, dilation: tuple[int, int], padding: tuple[int, int]) -> Array:
  """The convolution of stride 1 with a 3x3 kernel, written out.

  Differentiated by transposition, which is the same form again. Values and gradients differ from
  the plain sum by rounding.

  Args:
    x: `(N, H, W, C)`; N may be symbolic.
    kernel: `(3, 3, C, O)`.
    dilation: of rows and columns.
    padding: of rows and columns, on both sides.
  """
  return convolve_transformed(x, transform_kernel(kernel), dilation, padding)


def convolve_transformed(
    x: Array, transformed: Array, dilation: tuple[int, int], padding: tuple[int, int]) -> Array:
  """`convolve` with a kernel that is `transform_kernel`'s already, `(16, C, O)`."""
  batch, *sides, channels = x.shape
  size = [side + 2 * p - 2 * d for side, d, p in zip(sides, dilation, padding)]
  tiles = _tiles(size, dilation)
  (rows, columns), (d, e) = tiles, dilation
  margins = [  # each phase is two pixels larger than its tiles
      (p, d * (2 * count + 2) - side - p)
      for side, d, p, count in zip(sides, dilation, padding, tiles)]
  x = jnp.pad(x, ((0, 0), *margins, (0, 0)))
  x = x.reshape(batch, rows + 1, 2, d, columns + 1, 2, e, channels)
  x = jnp.stack(_transform_image(jnp.stack(_transform_image(x, 1)), 4))
  products = jnp.einsum('tmc,tco->tmo', x.reshape(16, -1, channels), transformed)
  outputs = transformed.shape[-1]
  y = products.reshape(4, 4, batch, rows, d, columns, e, outputs)
  left, right = map(_transform_result, _transform_result(y))
  # (batch, rows, 2, d, columns, 2, e, outputs)
  y = jnp.stack([jnp.stack(pair, axis=4) for pair in zip(left, right)], axis=2)
  y = y.reshape(batch, rows * 2 * d, columns * 2 * e, outputs)
  return y[:, :size[0], :size[1]]


def tiles_of(size: tuple[int, int], dilation: tuple[int, int]) -> int:
  """How many tiles a result of this size is made of, partial ones included."""
  return math.prod(_tiles(size, dilation)) * math.prod(dilation)


def _tiles(size, dilation):
  """Of two results each, along each axis of one phase."""
  return [-(-side // (2 * d)) for side, d in zip(size, dilation)]


def transform_kernel(kernel: Array) -> Array:
  """`G k G'`: `(16, C, O)` of a kernel `(3, 3, C, O)`, columns first."""
  kernel = kernel.swapaxes(0, 1)
  for axis in (0, 1):
    first, middle, last = jnp.unstack(kernel, axis=axis)
    both = first + last
    kernel = jnp.stack([first, (both + middle) / 2, (both - middle) / 2, last], axis=axis)
  return kernel.reshape(16, *kernel.shape[2:])


def _transform_image(x, axis):
  """The four rows of `B' x` for each tile, x having pairs of pixels along `axis` and the next."""
  even, odd = jnp.unstack(x, axis=axis + 1)
  count = x.shape[axis]
  here = lambda pixels: jax.lax.slice_in_dim(pixels, 0, count - 1, axis=axis)
  after = lambda pixels: jax.lax.slice_in_dim(pixels, 1, count, axis=axis)
  return (here(even) - after(even), here(odd) + after(even),
          after(even) - here(odd), here(odd) - after(odd))


def _transform_result(y):
  """The two rows of `A' y` along the first axis."""
  first, second, third, fourth = y
  return first + second + third, second - third - fourth
