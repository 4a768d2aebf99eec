"""Bilinear resizing that agrees with the frameworks the published models were trained in."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def resize_bilinear(x: jax.Array, size: tuple[int, int], *, align_corners: bool) -> jax.Array:
  """Resizes the two middle axes bilinearly, without antialiasing.

  Output row i reads the input at row `i * (h - 1) / (H - 1)` if `align_corners`, else at
  `(i + 0.5) * h / H - 0.5`, clipped to the image; columns alike. As two matrix products with
  constant weights: their gradient is again two products, where gathers would need scatters.
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
  if x.ndim != 4 or len(size) != 2 or min(size) < 1:
    raise ValueError(
        f'resize_bilinear takes (N, h, w, C) and a size (H, W) of at least 1, got shape {x.shape} '
        f'and size {tuple(size)}.')
  if x.shape[1:3] == tuple(size):
    return x
  dtype = jnp.promote_types(jnp.float32, x.dtype)
  rows, columns = (
      _weights(source, target, align_corners).astype(dtype)
      for source, target in zip(x.shape[1:3], size))
  y = jnp.einsum(
      'ih,jw,nhwc->nijc', rows, columns, x.astype(dtype), precision=lax.Precision.HIGHEST)
  return y.astype(x.dtype)


def resize_nearest(labels: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Resizes labels `(N, h, w)` to `(N, *size)`: output row i is row `floor(i * h / H)`.

  Equal to `torch.nn.functional.interpolate(mode='nearest')`, rounding of the ratio included.

  Raises:
    ValueError: labels are not of rank 3, or a size is not positive.
  """
  if labels.ndim != 3 or len(size) != 2 or min(size) < 1:
    raise ValueError(
        f'resize_nearest takes labels (N, h, w) and a size (H, W) of at least 1, got shape '
        f'{labels.shape} and size {tuple(size)}.')
  rows, columns = (
      np.minimum(np.arange(target, dtype=np.float32) * np.float32(source / target),
                 source - 1).astype(np.int32)
      for source, target in zip(labels.shape[1:], size))
  return labels[:, rows[:, None], columns]


def _weights(source: int, target: int, align_corners: bool) -> np.ndarray:
  """Interpolation weights `(target, source)`: tents of width 1 around each read position."""
  steps = np.arange(target)
  if align_corners:
    positions = steps * ((source - 1) / max(target - 1, 1))
  else:
    positions = np.clip((steps + 0.5) * (source / target) - 0.5, 0, source - 1)
  return np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(source)))
