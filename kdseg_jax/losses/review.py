"""The loss of knowledge review: differences of features at several resolutions."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from kdseg_jax.losses import _common
from kdseg_jax.resizing import adaptive_average_pool, divides


def hierarchical_context(
    student_features: Sequence[jax.Array] | jax.Array,
    teacher_features: Sequence[jax.Array] | jax.Array,
    *,
    levels: Sequence[int] = (4, 2, 1),
    where: Sequence[jax.Array] | jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
  """Squared differences of features and of their means over grids, summed over the stages.

  `sum over stages of sum_k w_k mse(pool_k(student), pool_k(teacher)) / sum_k w_k`: pool_0 keeps the
  map, with w_0 = 1; the others average it adaptively over grids of l x l bins, for those l of
  `levels`, in order, that are below the map's height. Each of them has half the weight of the one
  before: 1, 1/2, 1/4, 1/8. `mse` is the mean over images, pixels or bins, and channels.

  Args:
    student_features: a map `(N, H, W, C)` or vectors `(N, C)`, or a sequence of them, a stage each;
      vectors are maps of one pixel.
    teacher_features: of the same shapes; no gradient flows into them.
    levels: sides l of the grids; () leaves the mean squared error.
    where: bool `(N, H, W)` or `(N,)` (the leading axes), a stage each as the features are, True
      where a pixel counts. Others are left out of the bins, and bins without any out of the mean.
      None counts all.
    axis_name: mapped axis over which the batch is spread: mean over the images of all devices.

  Returns:
    float32 scalar (float64 for float64 features); 0 with zero gradient if all pixels are masked.

  Raises:
    ValueError: numbers of stages or shapes differ, there is no stage, or a level is not positive.

  Reference: Chen et al., "Distilling Knowledge via Knowledge Review" (CVPR 2021), section 3.4,
  which names neither weights nor their normalisation and writes an L2 distance: all of it is the
  official code, `hcl`, that a map's height alone decides which grids it has included.
  """
  for level in levels:
    _common.check_positive('a level of hierarchical_context', level)
  students, teachers = _stages(student_features), _stages(teacher_features)
  masks = [None] * len(students) if where is None else _stages(where)
  if not students or not len(students) == len(teachers) == len(masks):
    raise ValueError(
        'hierarchical_context takes as many features, one or more, of the student as of the '
        f'teacher and as masks, got {len(students)}, {len(teachers)} and {len(masks)}.')
  stages = [_stage(*stage, levels, axis_name) for stage in zip(students, teachers, masks)]
  return sum(stages[1:], stages[0])


def _stages(arrays):
  return [arrays] if hasattr(arrays, 'shape') else list(arrays)


def _stage(student, teacher, where, levels, axis_name):
  student, teacher, where = _common.as_maps(
      'hierarchical_context', student, teacher, where, same_width=True)
  if student.ndim == 2:
    student, teacher = student[:, None, None], teacher[:, None, None]
    where = None if where is None else where[:, None, None]
  if student.ndim != 4:
    raise ValueError('hierarchical_context takes maps (N, H, W, C) or vectors (N, C), got '
                     f'{student.shape}.')
  if where is not None:
    student, teacher = (jnp.where(where[..., None], x, 0) for x in (student, teacher))
  difference = student - teacher  # a mean of differences is the difference of the means
  total, weight, weights = _mean_square(difference, where, axis_name), 1.0, 1.0
  height, finest = difference.shape[1], difference
  for level in levels:
    if level < height:
      weight /= 2
      weights += weight
      pooled, any_pixel = _pool(difference, where, level, finest)
      total += weight * _mean_square(pooled, any_pixel, axis_name)
      if divides((level, level), difference.shape):
        finest = pooled
  return total / weights


def _pool(difference, where, level, finest):
  """Means over the bins' pixels that count, and which bins have any.

  `finest` is the difference, or its means over equal bins: without a mask, and where they make up
  the bins that are wanted, it is faster to average those.
  """
  bins = (level, level)
  if where is None:
    return adaptive_average_pool(finest if divides(bins, finest.shape) else difference, bins), None
  pooled = adaptive_average_pool(difference, bins)
  share = adaptive_average_pool(where[..., None].astype(difference.dtype), (level, level))
  return pooled / jnp.where(share > 0, share, 1), share[..., 0] > 0


def _mean_square(difference, where, axis_name):
  return _common.masked_mean(jnp.mean(difference**2, axis=-1), where, axis_name)
