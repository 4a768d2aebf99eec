"""Class-wise non-maximum suppression with a fixed number of results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kdseg_jax.losses import box_coding
from kdseg_jax.losses.boxes import box_overlaps

NO_CLASS = -1


class Detections(NamedTuple):
  """Detected boxes, the highest score first; `D` a fixed number, those beyond what was found empty.

  Attributes:
    boxes: `(D, 4)` float32, x1 y1 x2 y2; 0 where empty.
    scores: `(D,)` float32; 0 where empty.
    classes: `(D,)` int32; -1 where empty.
  """

  boxes: jax.Array
  scores: jax.Array
  classes: jax.Array

  @property
  def valid(self) -> jax.Array:
    """`(D,)` bool: found."""
    return self.classes != NO_CLASS


class Level(NamedTuple):
  """Predictions of one level of the pyramid, in pixels and probabilities.

  Attributes:
    boxes: `(P, 4)`.
    scores: `(P, C)`.
    factors: `(P,)`, centerness, by which scores are multiplied after the threshold; None is 1.
  """

  boxes: jax.Array
  scores: jax.Array
  factors: jax.Array | None = None


class Decoded(NamedTuple):
  """Predictions of all levels for N images, of P anchors or points one after the other.

  Attributes:
    boxes: `(N, P, 4)` in pixels.
    scores: `(N, P, C)` probabilities.
    factors: `(N, P)`, as in `Level`.
  """

  boxes: jax.Array
  scores: jax.Array
  factors: jax.Array | None = None


def detect_images(
    found: Decoded,
    level_sizes: Sequence[int],
    *,
    sizes: jax.Array | None = None,
    **options: Any,
) -> Detections:
  """`detect` for each of N images.

  Args:
    found: what is predicted.
    level_sizes: number of anchors of every level.
    sizes: `(N, 2)` height and width to which boxes are clipped; None clips nothing.
    **options: of `detect`.
  """
  if sizes is not None:
    found = found._replace(boxes=jax.vmap(box_coding.clip)(found.boxes, sizes))
  ends = np.cumsum(level_sizes)

  def one_image(*arrays):
    parts = [jnp.split(x, ends[:-1]) for x in arrays]
    return detect([Level(*level) for level in zip(*parts, strict=True)], **options)
  return jax.vmap(one_image)(*(x for x in found if x is not None))


def detect(
    levels: Sequence[Level],
    *,
    score_threshold: float = 0.05,
    iou_threshold: float = 0.6,
    max_detections: int = 100,
    max_candidates: int = 1000,
) -> Detections:
  """The best boxes of every level, without those that overlap a better one of their class.

  Of each level the `max_candidates` highest scores above the threshold, over boxes and classes; of
  them all, without boxes of no width or height, `suppress`.

  Args:
    levels: of one image.
    score_threshold: scores must be above it.
    iou_threshold: see `suppress`.
    max_detections: number of results.
    max_candidates: of a level.

  Returns:
    `max_detections` of them.

  Reference: mmdetection's `BaseDenseHead.predict_by_feat`.
  """
  chosen = [_candidates(level, score_threshold, max_candidates) for level in levels]
  boxes, scores, classes = (jnp.concatenate(parts) for parts in zip(*chosen))
  return suppress(boxes, scores, classes, iou_threshold=iou_threshold,
                  max_detections=max_detections)


def suppress(
    boxes: jax.Array,
    scores: jax.Array,
    classes: jax.Array,
    *,
    iou_threshold: float = 0.6,
    max_detections: int = 100,
) -> Detections:
  """Greedy non-maximum suppression within each class.

  The box of the highest score is kept, all of its class whose IoU with it is above the threshold
  are dropped, and so on. Of equal scores the first box is taken. The same as sorting all boxes
  first, but in `max_detections` steps whose memory is linear in the boxes.

  Args:
    boxes: `(K, 4)`.
    scores: `(K,)`; those that are not finite are out.
    classes: `(K,)` int.
    iou_threshold: see above.
    max_detections: number of results.

  Returns:
    `max_detections` of them.
  """
  boxes, scores, classes = map(jnp.asarray, (boxes, scores, classes))
  alive = jnp.where(jnp.isfinite(scores), scores, -jnp.inf)

  def step(alive, _):
    best = jnp.argmax(alive)
    found = alive[best] > -jnp.inf
    drop = (classes == classes[best]) & (box_overlaps(boxes, boxes[best]) > iou_threshold)
    left = jnp.where(drop & found, -jnp.inf, alive).at[best].set(-jnp.inf)
    return left, (best, found)

  _, (index, found) = lax.scan(step, alive, length=max_detections)
  keep = lambda x, empty: jnp.where(found.reshape(-1, *[1] * (x.ndim - 1)), x[index], empty)
  return Detections(keep(boxes, 0), keep(scores, 0), keep(classes, NO_CLASS).astype(jnp.int32))


def _candidates(level, score_threshold, max_candidates):
  """The highest scores of a level: boxes, scores (-inf where there is none), classes."""
  scores = level.scores.reshape(-1)
  scores = jnp.where(scores > score_threshold, scores, -jnp.inf)
  scores, index = lax.top_k(scores, min(max_candidates, scores.size))
  position, classes = jnp.divmod(index, level.scores.shape[-1])
  boxes = jnp.asarray(level.boxes)[position]
  if level.factors is not None:
    scores = scores * jnp.asarray(level.factors)[position]  # -inf stays, factors are positive
  has_area = jnp.all(boxes[:, 2:] > boxes[:, :2], axis=-1)
  return boxes, jnp.where(has_area, scores, -jnp.inf), classes
