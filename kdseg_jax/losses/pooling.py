"""Pooling over windows that tile a map; windows at the bottom and right edge may be partial."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jax import lax

KINDS = ('max', 'mean')


def window_of(name: str, value: int | tuple[int, int] | None) -> tuple[int, int]:
  """The window (height, width) that an argument `name` asks for; None is (1, 1).

  Raises:
    ValueError: not a positive int, nor two of them.
  """
  if value is None:
    return 1, 1
  window = tuple(value) if isinstance(value, Iterable) else (value, value)
  if len(window) != 2 or min(window) < 1:
    raise ValueError(f'{name}={value} must be a positive int or (height, width) of them.')
  return window


def pool(x: jax.Array, window: tuple[int, int], kind: str) -> jax.Array:
  """Max or mean over windows that tile the map, stride = window, ceil mode.

  Args:
    x: `(N, H, W, C)`.
    window: (height, width).
    kind: 'max', or 'mean' (edge windows divide by their own pixels). Of equal maxima the first in
      row order takes the gradient; max has no forward-mode derivative.

  Returns:
    `(N, ceil(H / height), ceil(W / width), C)`.
  """
  if window == (1, 1):
    return x
  _, height, width, _ = x.shape
  # A window beyond the map is the map: nothing is padded for it.
  (rows, high), (columns, wide) = (
      (-(-size // side), min(side, size)) for size, side in zip((height, width), window))
  padding = ((0, 0), (0, rows * high - height), (0, columns * wide - width), (0, 0))
  tile = lambda x, fill: jnp.pad(x, padding, constant_values=fill).reshape(
      x.shape[0], rows, high, columns, wide, x.shape[-1])
  # Tiles, because the gradient of lax.reduce_window is several times slower on CPU.
  if kind == 'max':
    return _first_max(_first_max(tile(x, -jnp.inf), axis=4), axis=2)
  sums = lambda x: jnp.sum(tile(x, 0), axis=(2, 4))
  return sums(x) / sums(jnp.ones((1, height, width, 1), x.dtype))


def _first_max(x: jax.Array, axis: int) -> jax.Array:
  """Maximum along an axis, NaN if one is; its gradient is that of the first of equal ones.

  The gradient is written out (and so has no forward-mode derivative): only where there is one is
  the place of the maximum found, without argmax, which takes twice as long on CPU.
  """
  return _maximum(x, axis, x.shape[axis])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _maximum(x, axis, size):
  del size
  return jnp.max(x, axis=axis)


def _maximum_and_place(x, axis, size):
  largest = jnp.max(x, axis=axis, keepdims=True)
  index = lax.broadcasted_iota(jnp.int32, x.shape, axis)
  first = jnp.min(jnp.where(x == largest, index, size), axis=axis, keepdims=True)
  return jnp.squeeze(largest, axis), first


def _to_place(axis, size, first, gradient):
  shape = first.shape[:axis] + (size,) + first.shape[axis + 1:]
  index = lax.broadcasted_iota(jnp.int32, shape, axis)
  return (jnp.where(index == first, jnp.expand_dims(gradient, axis), 0),)


_maximum.defvjp(_maximum_and_place, _to_place)
