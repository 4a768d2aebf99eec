"""Overlaps of boxes `x1 y1 x2 y2`, and the losses made of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from kdseg_jax.losses import _common

FORMS = ('iou', 'giou', 'diou')
_EPS = 1e-6


def box_overlaps(a: jax.Array, b: jax.Array, *, form: str = 'iou') -> jax.Array:
  """How far boxes overlap, one by one.

  `iou = intersection / union`; `giou = iou - (hull - union) / hull`, hull the area of the smallest
  box around both; `diou = iou - |distance of the centres|**2 / |diagonal of the hull|**2`. Union,
  hull and squared diagonal are at least 1e-6.

  Args:
    a: boxes `(..., 4)` with x1 <= x2 and y1 <= y2, in any unit.
    b: boxes whose leading axes broadcast with those of `a`.
    form: 'iou', 'giou' or 'diou'.

  Returns:
    `(...)`: 'iou' in [0, 1], the others in [-1, 1].

  Raises:
    ValueError: the last axis is not 4, or the form is unknown.

  Reference: Rezatofighi et al., "Generalized Intersection over Union" (CVPR 2019), algorithm 1;
  Zheng et al., "Distance-IoU Loss" (AAAI 2020), eq. 6. The clamps are mmdetection's
  (`bbox_overlaps`), whose DIoU adds its epsilon instead.
  """
  _common.check_choice('form', form, FORMS)
  a, b = _common.as_numbers(a, b)
  for boxes in (a, b):
    if boxes.shape[-1:] != (4,):
      raise ValueError(f'Boxes are (..., 4), got {boxes.shape}.')
  (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = (jnp.moveaxis(x, -1, 0) for x in (a, b))
  width = _not_negative(jnp.minimum(ax2, bx2) - jnp.maximum(ax1, bx1))
  height = _not_negative(jnp.minimum(ay2, by2) - jnp.maximum(ay1, by1))
  intersection = width * height
  union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - intersection
  union = jnp.maximum(union, _EPS)
  iou = intersection / union
  if form == 'iou':
    return iou
  hull_width = _not_negative(jnp.maximum(ax2, bx2) - jnp.minimum(ax1, bx1))
  hull_height = _not_negative(jnp.maximum(ay2, by2) - jnp.minimum(ay1, by1))
  if form == 'giou':
    hull = jnp.maximum(hull_width * hull_height, _EPS)
    return iou - (hull - union) / hull
  distance = ((bx1 + bx2 - ax1 - ax2)**2 + (by1 + by2 - ay1 - ay2)**2) / 4
  return iou - distance / jnp.maximum(hull_width**2 + hull_height**2, _EPS)


def pairwise_overlaps(a: jax.Array, b: jax.Array, *, form: str = 'iou') -> jax.Array:
  """`box_overlaps` of every box of `a` `(..., M, 4)` with every one of `b` `(..., P, 4)`.

  Returns:
    `(..., M, P)`.

  Raises:
    ValueError: as `box_overlaps`.
  """
  return box_overlaps(jnp.asarray(a)[..., :, None, :], jnp.asarray(b)[..., None, :, :], form=form)


def giou(
    predicted: jax.Array,
    target: jax.Array,
    *,
    weights: jax.Array | None = None,
    normalizer: jax.Array | float = 1.0,
    axis_name: str | None = None,
) -> jax.Array:
  """Weighted sum of 1 - GIoU: `sum(weight * (1 - giou(predicted, target))) / normalizer`.

  Args:
    predicted: boxes `(..., 4)`, see `box_overlaps`.
    target: boxes of the same shape and unit, e.g. of the ground truth or of the teacher; no
      gradient flows into them.
    weights: `(...)`, not negative; values at weight 0 are irrelevant, even NaN. None is 1.
    normalizer: number or scalar, that of the whole batch; an array of 0, where nothing counts, is
      taken as 1.
    axis_name: mapped axis over which the batch is spread: the sum is that of all devices.

  Returns:
    float32 scalar (float64 for float64 boxes); 0 with zero gradient if all weights are 0.

  Raises:
    ValueError: the shapes do not fit, or the normalizer is a number that is not positive.

  Reference: Rezatofighi et al., "Generalized Intersection over Union" (CVPR 2019); mmdetection's
  `GIoULoss`.
  """
  return _box_loss(lambda a, b: 1 - box_overlaps(a, b, form='giou'), 'giou', predicted, target,
                   weights, normalizer, axis_name)


def diou(
    predicted: jax.Array,
    target: jax.Array,
    *,
    weights: jax.Array | None = None,
    normalizer: jax.Array | float = 1.0,
    axis_name: str | None = None,
) -> jax.Array:
  """Weighted sum of 1 - DIoU: `sum(weight * (1 - diou(predicted, target))) / normalizer`.

  Arguments, result and errors are those of `giou`.

  Reference: Zheng et al., "Distance-IoU Loss" (AAAI 2020), eq. 7.
  """
  return _box_loss(lambda a, b: 1 - box_overlaps(a, b, form='diou'), 'diou', predicted, target,
                   weights, normalizer, axis_name)


def iou_log(
    predicted: jax.Array,
    target: jax.Array,
    *,
    weights: jax.Array | None = None,
    normalizer: jax.Array | float = 1.0,
    axis_name: str | None = None,
) -> jax.Array:
  """Weighted sum of -log IoU: `sum(weight * -log max(iou, 1e-6)) / normalizer`.

  Boxes that overlap by less have a constant loss, without gradient. Arguments, result and errors
  are those of `giou`.

  Reference: Yu et al., "UnitBox" (2016); mmdetection's `IoULoss`, which FCOS is trained with.
  """
  return _box_loss(lambda a, b: -jnp.log(jnp.maximum(box_overlaps(a, b), _EPS)), 'iou_log',
                   predicted, target, weights, normalizer, axis_name)


def _box_loss(of_each, name, predicted, target, weights, normalizer, axis_name):
  predicted, target = _common.as_numbers(predicted, lax.stop_gradient(target))
  if predicted.shape != target.shape:
    raise ValueError(f'{name} takes boxes (..., 4) of the same shape, got {predicted.shape} and '
                     f'{target.shape}.')
  predicted, target = _common.where_weighted(weights, predicted, target)
  return _common.weighted_sum(of_each(predicted, target), weights, normalizer, axis_name)


def _not_negative(x):
  """As `torch.clamp(x, min=0)`: the derivative at 0 is 1, so that boxes that touch are moved."""
  return jnp.where(x >= 0, x, 0)
