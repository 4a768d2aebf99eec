"""Anchors and points of dense detectors, and boxes as numbers relative to them.

Levels are P3 to P7; anchors and points go row by row, and at a position anchor by anchor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from kdseg_jax.losses import _common

STRIDES = (8, 16, 32, 64, 128)
_LARGEST_RATIO = abs(math.log(16 / 1000))  # of a side of a box to that of its anchor

Shapes = Sequence[tuple[int, int]]


def anchors(
    shapes: Shapes,
    *,
    strides: Sequence[int] = STRIDES,
    octave_base_scale: float = 8.0,
    scales_per_octave: int = 1,
    ratios: Sequence[float] = (1.0,),
    center_offset: float = 0.0,
) -> list[jax.Array]:
  """Anchor boxes of every level, in pixels.

  Those of position (x, y) have the centre `((x, y) + center_offset) * stride`, the area
  `(stride * octave_base_scale * 2**(i / scales_per_octave))**2` and the ratio height / width; the
  order is ratio by ratio, and for each scale by scale. The defaults are those of GFL and ATSS;
  RetinaNet has base scale 4, 3 scales and the ratios 0.5, 1 and 2.

  Args:
    shapes: (height, width) of every level's map.
    strides: of every level.
    octave_base_scale: side of the smallest square anchor, in strides.
    scales_per_octave: number of scales.
    ratios: height / width.
    center_offset: of the first centre, in strides; mmdetection's is 0, not half a stride.

  Returns:
    For each level `(height * width * A, 4)` float32.

  Raises:
    ValueError: not as many shapes as strides.

  Reference: mmdetection's `AnchorGenerator`.
  """
  octaves = 2.0**(np.arange(scales_per_octave) / scales_per_octave)
  scales = (octave_base_scale * octaves).astype(np.float32)
  tall = np.sqrt(np.asarray(ratios, np.float32))[:, None]
  boxes = []
  for shape, stride in _levels(shapes, strides):
    sides = np.stack([stride * (1 / tall) * scales, stride * tall * scales], axis=-1).reshape(-1, 2)
    base = np.concatenate([-sides / 2, sides / 2], axis=-1)
    centers = _grid(shape, stride, center_offset)
    boxes.append((jnp.tile(centers, 2)[:, None] + base).reshape(-1, 4))
  return boxes


def points(
    shapes: Shapes, *, strides: Sequence[int] = STRIDES, offset: float = 0.5
) -> list[jax.Array]:
  """Points `((x, y) + offset) * stride` of every level, in pixels.

  Args:
    shapes: (height, width) of every level's map.
    strides: of every level.
    offset: in strides.

  Returns:
    For each level `(height * width, 2)` float32, x y.

  Raises:
    ValueError: not as many shapes as strides.

  Reference: Tian et al., "FCOS" (ICCV 2019), section 3.1; mmdetection's `MlvlPointGenerator`.
  """
  return [_grid(shape, stride, offset) for shape, stride in _levels(shapes, strides)]


def encode_distances(
    points: jax.Array, boxes: jax.Array, *, largest: float | None = None
) -> jax.Array:
  """Distances of points to the left, top, right and bottom of boxes, in the unit of both.

  For GFL both are divided by the stride before.

  Args:
    points: `(..., 2)`, x y.
    boxes: `(..., 4)`; leading axes broadcast.
    largest: distances are clamped to [0, largest]; GFL's is reg_max - 0.1. None clamps nothing.

  Returns:
    `(..., 4)`.

  Reference: mmdetection's `DistancePointBBoxCoder`.
  """
  points, boxes = _common.as_numbers(points, boxes)
  distances = jnp.concatenate([points - boxes[..., :2], boxes[..., 2:] - points], axis=-1)
  return distances if largest is None else jnp.clip(distances, 0, largest)


def decode_distances(
    points: jax.Array, distances: jax.Array, *, size: jax.Array | Sequence[int] | None = None
) -> jax.Array:
  """The boxes `x - l, y - t, x + r, y + b`.

  Args:
    points: `(..., 2)`, x y.
    distances: `(..., 4)`: left, top, right and bottom; leading axes broadcast.
    size: (height, width) to which boxes are clipped; None clips nothing.

  Returns:
    `(..., 4)`.
  """
  points, distances = _common.as_numbers(points, distances)
  boxes = jnp.concatenate([points - distances[..., :2], points + distances[..., 2:]], axis=-1)
  return clip(boxes, size)


def encode_deltas(
    anchors: jax.Array,
    boxes: jax.Array,
    *,
    means: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
    stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
) -> jax.Array:
  """Boxes relative to anchors: `dx / w_a, dy / h_a, log(w / w_a), log(h / h_a)`, standardised.

  Args:
    anchors: `(..., 4)`, of positive width and height.
    boxes: `(..., 4)`, likewise.
    means: subtracted.
    stds: what is left is divided by them; ATSS has 0.1, 0.1, 0.2, 0.2.

  Returns:
    `(..., 4)`.

  Reference: Girshick et al., "Rich feature hierarchies" (CVPR 2014); mmdetection's
  `DeltaXYWHBBoxCoder`.
  """
  anchors, boxes = _common.as_numbers(anchors, boxes)
  anchor_center, anchor_side = _center_and_side(anchors)
  center, side = _center_and_side(boxes)
  deltas = jnp.concatenate(
      [(center - anchor_center) / anchor_side, jnp.log(side / anchor_side)], axis=-1)
  return (deltas - jnp.asarray(means, deltas.dtype)) / jnp.asarray(stds, deltas.dtype)


def decode_deltas(
    anchors: jax.Array,
    deltas: jax.Array,
    *,
    means: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
    stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    size: jax.Array | Sequence[int] | None = None,
) -> jax.Array:
  """The boxes of `encode_deltas`, whose sides are at most 62.5 times the anchor's, or 1 / that.

  Args:
    anchors: `(..., 4)`.
    deltas: `(..., 4)`.
    means: as there.
    stds: as there.
    size: (height, width) to which boxes are clipped; None clips nothing.

  Returns:
    `(..., 4)`.
  """
  anchors, deltas = _common.as_numbers(anchors, deltas)
  deltas = deltas * jnp.asarray(stds, deltas.dtype) + jnp.asarray(means, deltas.dtype)
  anchor_center, anchor_side = _center_and_side(anchors)
  center = anchor_center + anchor_side * deltas[..., :2]
  half = anchor_side * jnp.exp(jnp.clip(deltas[..., 2:], -_LARGEST_RATIO, _LARGEST_RATIO)) / 2
  return clip(jnp.concatenate([center - half, center + half], axis=-1), size)


def integral(logits: jax.Array) -> jax.Array:
  """The expected distance of each side: `sum over bins i of i * softmax(logits)[i]`.

  Args:
    logits: `(..., 4 * bins)`, side by side.

  Returns:
    `(..., 4)`, in strides.

  Raises:
    ValueError: the last axis is no multiple of 4.

  Reference: Li et al., "Generalized Focal Loss" (NeurIPS 2020), eq. 4.
  """
  sides = by_side(logits)
  return _common.products(
      '...b,b->...', jax.nn.softmax(sides), jnp.arange(sides.shape[-1], dtype=sides.dtype))


def by_side(logits: jax.Array) -> jax.Array:
  """`(..., 4 * bins)` as `(..., 4, bins)`, in float32.

  Raises:
    ValueError: the last axis is no multiple of 4.
  """
  [logits] = _common.as_float('A distribution of sides', logits)
  if logits.shape[-1] % 4:
    raise ValueError(f'Distributions of sides are (..., 4 * bins), got {logits.shape}.')
  return logits.reshape(*logits.shape[:-1], 4, logits.shape[-1] // 4)


def centers(boxes: jax.Array) -> jax.Array:
  """Centres `(..., 2)` of boxes `(..., 4)`."""
  boxes = jnp.asarray(boxes)
  return (boxes[..., :2] + boxes[..., 2:]) / 2


def centerness(points: jax.Array, boxes: jax.Array) -> jax.Array:
  """How near points are to the centre of the boxes that they are in: 1 there, 0 at an edge.

  `sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))`; 0 for points outside.

  Args:
    points: `(..., 2)`.
    boxes: `(..., 4)`; leading axes broadcast.

  Returns:
    `(...)`.

  Reference: Tian et al., "FCOS" (ICCV 2019), eq. 3.
  """
  distances = encode_distances(points, boxes)
  near = jnp.minimum(distances[..., :2], distances[..., 2:])
  far = jnp.maximum(distances[..., :2], distances[..., 2:])
  inside = jnp.all(near > 0, axis=-1)
  share = near / jnp.where(inside[..., None], far, 1)
  return jnp.where(inside, jnp.sqrt(jnp.where(inside, share[..., 0] * share[..., 1], 1)), 0)


def clip(boxes: jax.Array, size: jax.Array | Sequence[int] | None) -> jax.Array:
  """Boxes `(..., 4)` inside an image of (height, width); None clips nothing."""
  if size is None:
    return boxes
  height_width = jnp.asarray(size, boxes.dtype)
  limits = jnp.stack([height_width[1], height_width[0]] * 2)
  return jnp.clip(boxes, 0, limits)


def _center_and_side(boxes):
  return centers(boxes), boxes[..., 2:] - boxes[..., :2]


def _levels(shapes, strides):
  if len(shapes) != len(strides):
    raise ValueError(f'{len(shapes)} maps, but {len(strides)} strides: {shapes}, {strides}.')
  return zip(shapes, strides)


def _grid(shape, stride, offset):
  """Positions `(height * width, 2)` in pixels, x y, row by row."""
  rows, columns = ((jnp.arange(side, dtype=jnp.float32) + offset) * stride for side in shape)
  return jnp.stack(jnp.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
