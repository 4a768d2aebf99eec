"""Which ground truth an anchor or point learns: fixed shapes, masks, one image.

Ground truth is padded: boxes `(M, 4)` in pixels and `valid` `(M,)` bool. `jax.vmap` makes batches.
Of equal boxes the first is taken, as in mmdetection: only these depend on the order of the ground
truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from kdseg_jax.losses import box_coding
from kdseg_jax.losses.boxes import pairwise_overlaps

BACKGROUND = -1
IGNORED = -2
_INSIDE = 0.01  # pixels that a centre is at least inside a box


class Assignment(NamedTuple):
  """What each of P anchors or points learns.

  Attributes:
    box: `(P,)` int32: a box of the ground truth, `BACKGROUND` or `IGNORED`, to count nowhere.
    overlap: `(P,)` IoU with that box; of `max_iou`, of other anchors too, the highest with any; 0
      where there is none.
  """

  box: jax.Array
  overlap: jax.Array

  @property
  def positive(self) -> jax.Array:
    """`(P,)` bool: there is a box to learn."""
    return self.box >= 0


class _Candidates(NamedTuple):
  """The anchors that are nearest to each box, and the IoU that is asked of them."""

  anchor: jax.Array     # (M, K)
  usable: jax.Array     # (M, K) bool
  overlap: jax.Array    # (M, K)
  threshold: jax.Array  # (M,)


def atss(
    anchors: jax.Array,
    level_sizes: Sequence[int],
    boxes: jax.Array,
    valid: jax.Array,
    where: jax.Array | None = None,
    *,
    top_k: int = 9,
) -> Assignment:
  """Adaptive training sample selection.

  Candidates of a box are, of every level, the `top_k` anchors whose centres are nearest to its own.
  Those are positive whose IoU is at least mean + standard deviation (unbiased) of that of all
  candidates, and whose centre is more than 0.01 px inside the box. An anchor of several boxes takes
  that of the highest IoU. Of equally near anchors the last is a candidate: in the official code it
  is the sort's choice, another on each device, and this is what its outputs on small images show.

  Args:
    anchors: `(P, 4)`, level by level.
    level_sizes: number of anchors of every level.
    boxes: `(M, 4)`.
    valid: `(M,)` bool.
    where: `(P,)` bool: which anchors take part; None is all.
    top_k: of every level.

  Returns:
    Of P anchors.

  Reference: Zhang et al., "Bridging the Gap Between Anchor-based and Anchor-free Detection" (CVPR
  2020), algorithm 1; mmdetection's `ATSSAssigner`, whose threshold is NaN for a single candidate.
  """
  candidates = _candidates(anchors, level_sizes, boxes, where, top_k)
  centers = box_coding.centers(anchors)[candidates.anchor]
  positive = (candidates.usable & (candidates.overlap >= candidates.threshold[:, None])
              & _inside(centers, boxes[:, None], _INSIDE) & valid[:, None])
  return _highest(candidates.anchor, positive, candidates.overlap, len(anchors))


def valuable_region(
    anchors: jax.Array,
    level_sizes: Sequence[int],
    boxes: jax.Array,
    valid: jax.Array,
    where: jax.Array | None = None,
    *,
    top_k: int = 9,
    gamma: float = 0.25,
) -> jax.Array:
  """The valuable localization region: anchors around a box, but not near enough to learn it.

  `gamma * threshold <= DIoU(anchor, box) < threshold` for some box, with its threshold of `atss`.

  Args:
    anchors: as in `atss`, and the other arguments too.
    level_sizes: as there.
    boxes: as there.
    valid: as there.
    where: as there.
    top_k: as there.
    gamma: how far the region reaches, in [0, 1]; 1 is empty.

  Returns:
    `(P,)` bool.

  Reference: Zheng et al., "Localization Distillation for Dense Object Detection" (CVPR 2022),
  section 3.3 and algorithm 1.
  """
  threshold = _candidates(anchors, level_sizes, boxes, where, top_k).threshold[:, None]
  near = pairwise_overlaps(boxes, anchors, form='diou')
  region = jnp.any((near >= gamma * threshold) & (near < threshold) & valid[:, None], axis=0)
  return region if where is None else region & where


def max_iou(
    anchors: jax.Array,
    boxes: jax.Array,
    valid: jax.Array,
    where: jax.Array | None = None,
    *,
    positive: float = 0.5,
    negative: float = 0.4,
    low_quality: bool = True,
) -> Assignment:
  """Each anchor takes the box of its highest IoU, and each box its best anchors.

  IoU of at least `positive` takes the box, below `negative` is background, in between ignored.
  With `low_quality` every box takes all anchors that share its highest IoU, if that is positive,
  whatever it is and whatever these would take; the last such box has them.

  Args:
    anchors: `(P, 4)`.
    boxes: `(M, 4)`.
    valid: `(M,)` bool.
    where: `(P,)` bool: which anchors take part; others are `IGNORED`. None is all.
    positive: lowest IoU of a positive anchor.
    negative: IoU below which it is background.
    low_quality: see above.

  Returns:
    Of P anchors.

  Reference: Lin et al., "Focal Loss for Dense Object Detection" (ICCV 2017), section 4;
  mmdetection's `MaxIoUAssigner`, `min_pos_iou=0`, where a box that overlaps no anchor takes all.
  """
  takes_part = valid[:, None] if where is None else valid[:, None] & where
  overlaps = jnp.where(takes_part, pairwise_overlaps(boxes, anchors), -1)
  highest = jnp.max(overlaps, axis=0)
  index = jnp.where(highest >= positive, jnp.argmax(overlaps, axis=0),
                    jnp.where(highest < negative, BACKGROUND, IGNORED))
  if low_quality:
    best = jnp.max(overlaps, axis=1, keepdims=True)
    last = jnp.max(jnp.where((overlaps == best) & (best > 0),
                             jnp.arange(len(boxes))[:, None], BACKGROUND), axis=0)
    index = jnp.where(last >= 0, last, index)
  if where is not None:
    index = jnp.where(where, index, IGNORED)
  return Assignment(index.astype(jnp.int32), jnp.maximum(highest, 0))


def fcos(
    points: jax.Array,
    ranges: jax.Array,
    boxes: jax.Array,
    valid: jax.Array,
    *,
    strides: jax.Array | None = None,
    radius: float = 1.5,
) -> Assignment:
  """Each point takes the smallest of the boxes that it is in and whose size is its level's.

  The size is the largest distance of the point to a side.

  Args:
    points: `(P, 2)`, x y.
    ranges: `(P, 2)`: smallest and largest size that a point takes, both included.
    boxes: `(M, 4)`.
    valid: `(M,)` bool.
    strides: `(P,)` turns on centre sampling: points must be inside the square of side
      `2 * radius * stride` around the box's centre, cut to the box. None is without.
    radius: see `strides`.

  Returns:
    Of P points; `overlap` is 0.

  Reference: Tian et al., "FCOS" (ICCV 2019), section 3.2; mmdetection's `FCOSHead.get_targets`.
  """
  distances = box_coding.encode_distances(points, boxes[:, None])  # (M, P, 4)
  size = jnp.max(distances, axis=-1)
  inside = jnp.min(distances, axis=-1) > 0
  if strides is not None:
    reach = jnp.broadcast_to((radius * strides)[:, None], points.shape)
    center = box_coding.centers(boxes)[:, None]
    square = jnp.concatenate([jnp.maximum(center - reach, boxes[:, None, :2]),
                              jnp.minimum(center + reach, boxes[:, None, 2:])], axis=-1)
    inside = _inside(points, square, 0)
  takes = inside & (size >= ranges[:, 0]) & (size <= ranges[:, 1]) & valid[:, None]
  area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
  areas = jnp.where(takes, area[:, None], jnp.inf)
  index = jnp.where(jnp.any(takes, axis=0), jnp.argmin(areas, axis=0), BACKGROUND)
  return Assignment(index.astype(jnp.int32), jnp.zeros(len(points), distances.dtype))


def task_aligned(
    scores: jax.Array,
    predicted: jax.Array,
    centers: jax.Array,
    boxes: jax.Array,
    classes: jax.Array,
    valid: jax.Array,
    where: jax.Array | None = None,
    *,
    top_k: int = 13,
    alpha: float = 1.0,
    beta: float = 6.0,
) -> tuple[Assignment, jax.Array]:
  """Each box takes the anchors whose predictions already suit it best.

  Of every box the `top_k` anchors of the highest alignment
  `score of its class**alpha * IoU with the predicted box**beta` are positive, where that is above 0
  and their centre is more than 0.01 px inside the box. An anchor of several boxes takes that of the
  highest IoU. Nothing is differentiated.

  Args:
    scores: probabilities `(P, C)`.
    predicted: boxes `(P, 4)`.
    centers: of the anchors, `(P, 2)`.
    boxes: `(M, 4)`.
    classes: `(M,)` int in [0, C).
    valid: `(M,)` bool.
    where: `(P,)` bool: which anchors take part; None is all.
    top_k: of all levels.
    alpha: see above.
    beta: see above.

  Returns:
    The assignment, and `(P,)` the alignment with what is assigned, 0 without.

  Reference: Feng et al., "TOOD" (ICCV 2021), eq. 3 and section 3.2; mmdetection's
  `TaskAlignedAssigner`.
  """
  scores, predicted, centers = (lax.stop_gradient(jnp.asarray(x)) for x in (
      scores, predicted, centers))
  overlaps = pairwise_overlaps(boxes, predicted)
  alignment = scores.T[classes]**alpha * overlaps**beta
  if where is not None:
    alignment = jnp.where(where, alignment, 0)
  best, index = lax.top_k(alignment, min(top_k, len(predicted)))
  positive = (best > 0) & _inside(centers[index], boxes[:, None], _INSIDE) & valid[:, None]
  assigned = _highest(
      index, positive, jnp.take_along_axis(overlaps, index, axis=1), len(predicted))
  own = jnp.take_along_axis(alignment, jnp.maximum(assigned.box, 0)[None], axis=0)[0]
  return assigned, jnp.where(assigned.positive, own, 0)


def _candidates(anchors, level_sizes, boxes, where, top_k):
  if sum(level_sizes) != len(anchors):
    raise ValueError(f'{len(anchors)} anchors, but levels of {tuple(level_sizes)}.')
  offsets = box_coding.centers(boxes)[:, None] - box_coding.centers(anchors)
  # Not as a sum over the last axis, which takes several times as long on CPU for two numbers.
  distances = jnp.sqrt(offsets[..., 0]**2 + offsets[..., 1]**2)
  if where is not None:
    distances = jnp.where(where, distances, jnp.inf)
  nearest, start = [], 0
  for size in level_sizes:
    start += size
    # From the last to the first: of equally near ones the last is taken.
    _, index = lax.top_k(-distances[:, start - size:start][:, ::-1], min(top_k, size))
    nearest.append(start - 1 - index)
  index = jnp.concatenate(nearest, axis=1)
  usable = jnp.isfinite(jnp.take_along_axis(distances, index, axis=1))
  overlap = jnp.take_along_axis(pairwise_overlaps(boxes, anchors), index, axis=1)
  count = jnp.sum(usable, axis=1)
  mean = jnp.sum(jnp.where(usable, overlap, 0), axis=1) / jnp.maximum(count, 1)
  squares = jnp.where(usable, (overlap - mean[:, None])**2, 0)
  deviation = jnp.sqrt(jnp.sum(squares, axis=1) / jnp.maximum(count - 1, 1))
  return _Candidates(index, usable, overlap, mean + deviation)


def _highest(index, positive, overlap, count):
  """For each of `count` anchors the box of the highest IoU among those that take it."""
  rows = jnp.arange(len(index))[:, None]
  none = jnp.full((len(index), count), -1, overlap.dtype)
  overlaps = none.at[rows, index].set(jnp.where(positive, overlap, -1), unique_indices=True)
  highest = jnp.max(overlaps, axis=0)
  assigned = jnp.where(highest >= 0, jnp.argmax(overlaps, axis=0), BACKGROUND)
  return Assignment(assigned.astype(jnp.int32), jnp.maximum(highest, 0))


def _inside(points, boxes, margin):
  """Points `(..., 2)` more than `margin` inside of boxes `(..., 4)`."""
  return jnp.min(box_coding.encode_distances(points, boxes), axis=-1) > margin
