"""Losses of classes, distributions and numbers of dense detectors: weighted sums over a normalizer.

Weights and normalizers are those of `boxes.giou`: weights have the leading axes, values at weight 0
are irrelevant, the sum is that of all devices of `axis_name`, all weights 0 give 0 with zero
gradient. Nothing flows into targets.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from kdseg_jax.losses import _common

REDUCTIONS = ('sum', 'mean')


def quality_focal(
    logits: jax.Array,
    scores: jax.Array,
    *,
    beta: float = 1.0,
    weights: jax.Array | None = None,
    normalizer: jax.Array | float = 1.0,
    axis_name: str | None = None,
) -> jax.Array:
  """Binary cross-entropy against scores in [0, 1], weighed by how far the prediction is off.

  `sum over anchors and classes of weight * |sigmoid(logit) - score|**beta * bce(logit, score)`,
  divided by the normalizer. The factor is differentiated too.

  Args:
    logits: `(N, C)` or `(..., C)`.
    scores: probabilities of the same shape: the quality (IoU) at the class of a positive anchor and
      0 elsewhere, or `sigmoid` of a teacher's logits.
    beta: 1 for distillation (CrossKD), 2 for training (GFL).
    weights: `(N,)`, the leading axes, over all classes; None is 1.
    normalizer: number or scalar.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    float32 scalar (float64 for float64 logits).

  Raises:
    ValueError: shapes do not fit, beta or normalizer is a number that is not positive, or scores
      are known to leave [0, 1].

  Reference: Li et al., "Generalized Focal Loss" (NeurIPS 2020), eq. 5; Wang et al., "CrossKD"
  (CVPR 2024); mmdetection's `QualityFocalLoss` and CrossKD's `KDQualityFocalLoss`, whose plain mean
  is a normalizer of N and of N * C.
  """
  _common.check_positive('beta', beta)
  logits, scores = _pair('quality_focal', logits, scores, weights)
  _common.check_probabilities('quality_focal', scores)
  distance = jnp.abs(jax.nn.sigmoid(logits) - scores)
  values = jnp.sum(_power(distance, beta) * cross_entropy_with_logits(logits, scores), axis=-1)
  return _common.weighted_sum(values, weights, normalizer, axis_name)


def sigmoid_focal(
    logits: jax.Array,
    targets: jax.Array,
    *,
    gamma: float = 2.0,
    alpha: float = 0.25,
    weights: jax.Array | None = None,
    normalizer: jax.Array | float = 1.0,
    axis_name: str | None = None,
) -> jax.Array:
  """Binary cross-entropy in which well classified anchors count little.

  `sum over anchors and classes of weight * a * (1 - p)**gamma * -log p`, divided by the normalizer;
  p is the probability of what is right: `sigmoid(logit)` and a = alpha where the target is 1,
  `1 - sigmoid(logit)` and a = 1 - alpha where it is 0.

  Args:
    logits: `(N, C)` or `(..., C)`.
    targets: one-hot, of the same shape; a row of zeros is background.
    gamma: positive.
    alpha: in [0, 1].
    weights: `(N,)`, the leading axes; None is 1.
    normalizer: number or scalar, usually the number of positive anchors.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    float32 scalar (float64 for float64 logits).

  Raises:
    ValueError: shapes do not fit, gamma or normalizer is a number that is not positive, alpha is
      not in [0, 1], or targets are known to leave it.

  Reference: Lin et al., "Focal Loss for Dense Object Detection" (ICCV 2017), eq. 5.
  """
  _common.check_positive('gamma', gamma)
  _common.check_range('alpha', alpha, 0, 1)
  logits, targets = _pair('sigmoid_focal', logits, targets, weights)
  _common.check_probabilities('sigmoid_focal', targets)
  probability = jax.nn.sigmoid(logits)
  wrong = (1 - probability) * targets + probability * (1 - targets)
  balance = alpha * targets + (1 - alpha) * (1 - targets)
  values = balance * _power(wrong, gamma) * cross_entropy_with_logits(logits, targets)
  return _common.weighted_sum(jnp.sum(values, axis=-1), weights, normalizer, axis_name)


def distribution_focal(
    logits: jax.Array,
    targets: jax.Array,
    *,
    weights: jax.Array | None = None,
    normalizer: jax.Array | float = 1.0,
    axis_name: str | None = None,
) -> jax.Array:
  """Cross-entropy against the two bins around a real number, by how near each is.

  `sum of weight * -((r - y) * log p[l] + (y - l) * log p[r])`, divided by the normalizer;
  l = floor(y), r = l + 1, p = softmax(logits).

  Args:
    logits: `(N, bins)` or `(..., bins)`: of the numbers 0, 1, ..., bins - 1.
    targets: y, `(N,)`, the leading axes; beyond the first or last bin they are taken as that.
    weights: of the targets' shape; None is 1.
    normalizer: number or scalar.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    float32 scalar (float64 for float64 logits).

  Raises:
    ValueError: shapes do not fit, or the normalizer is a number that is not positive.

  Reference: Li et al., "Generalized Focal Loss" (NeurIPS 2020), eq. 6. The official code indexes
  beyond the last bin for y = bins - 1.
  """
  logits, targets = _float_and_numbers('distribution_focal', logits, targets)
  if logits.ndim < 1 or logits.shape[:-1] != targets.shape:
    raise ValueError('distribution_focal takes logits (..., bins) and targets (...), got '
                     f'{logits.shape} and {targets.shape}.')
  logits, column = _common.where_weighted(weights, logits, targets[..., None])
  bins = jnp.arange(logits.shape[-1], dtype=logits.dtype)
  nearness = jnp.maximum(1 - jnp.abs(bins - jnp.clip(column, 0, logits.shape[-1] - 1)), 0)
  values = -jnp.sum(nearness * jax.nn.log_softmax(logits), axis=-1)
  return _common.weighted_sum(values, weights, normalizer, axis_name)


def distribution_kl(
    student: jax.Array,
    teacher: jax.Array,
    *,
    temperature: float = 1.0,
    weights: jax.Array | None = None,
    normalizer: jax.Array | float = 1.0,
    reduction: str = 'sum',
    axis_name: str | None = None,
) -> jax.Array:
  """KL(teacher || student) of the distributions over bins, weighted and summed, times T**2.

  `T**2 * sum over rows of weight * sum over bins of p_t * (log p_t - log p_s)`, divided by the
  normalizer; `p = softmax(logits / T)`.

  Args:
    student: logits `(N, bins)` or `(..., bins)`, a row for each side of a box.
    teacher: logits of the same shape; no gradient flows into them.
    temperature: T > 0; 1 in CrossKD, 10 in localization distillation.
    weights: `(N,)`, the leading axes; None is 1.
    normalizer: number or scalar; the official heads divide by 4, the sides of a box.
    reduction: over bins, 'sum' (CrossKD) or 'mean' (localization distillation).
    axis_name: mapped axis over which the batch is spread.

  Returns:
    float32 scalar (float64 for float64 logits).

  Raises:
    ValueError: shapes do not fit, or an option is out of range.

  Reference: Zheng et al., "Localization Distillation for Dense Object Detection" (CVPR 2022), eq.
  3; mmdetection's `KnowledgeDistillationKLDivLoss`.
  """
  _common.check_positive('temperature', temperature)
  _common.check_choice('reduction', reduction, REDUCTIONS)
  [teacher] = _common.as_float('distribution_kl', teacher)
  student, teacher = _pair('distribution_kl', student, teacher, weights)
  student, teacher = (jax.nn.log_softmax(x / temperature) for x in (student, teacher))
  terms = jnp.exp(teacher) * jnp.where(jnp.isneginf(teacher), 0, teacher - student)
  values = (jnp.sum if reduction == 'sum' else jnp.mean)(terms, axis=-1)
  return temperature**2 * _common.weighted_sum(values, weights, normalizer, axis_name)


def binary_cross_entropy(
    logits: jax.Array,
    targets: jax.Array,
    *,
    weights: jax.Array | None = None,
    normalizer: jax.Array | float = 1.0,
    axis_name: str | None = None,
) -> jax.Array:
  """Weighted sum of the binary cross-entropies against targets in [0, 1]: of centerness.

  `sum of weight * -(y * log sigmoid(x) + (1 - y) * log(1 - sigmoid(x)))`, over the normalizer.

  Args:
    logits: x, `(...)`.
    targets: y, of the same shape.
    weights: of the same shape; None is 1.
    normalizer: number or scalar.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    float32 scalar (float64 for float64 logits).

  Raises:
    ValueError: shapes do not fit, the normalizer is a number that is not positive, or targets are
      known to leave [0, 1].

  Reference: centerness in Tian et al., "FCOS" (ICCV 2019), eq. 3.
  """
  logits, targets = _pair('binary_cross_entropy', logits, targets, None)
  logits, targets = (_common.where_weighted(weights, x[..., None])[0][..., 0]
                     for x in (logits, targets))
  _common.check_probabilities('binary_cross_entropy', targets)
  return _common.weighted_sum(
      cross_entropy_with_logits(logits, targets), weights, normalizer, axis_name)


def smooth_l1(
    predicted: jax.Array,
    target: jax.Array,
    *,
    beta: float = 0.0,
    weights: jax.Array | None = None,
    normalizer: jax.Array | float = 1.0,
    axis_name: str | None = None,
) -> jax.Array:
  """Weighted sum of absolute differences, quadratic below `beta`.

  `sum over rows and numbers of weight * l(|predicted - target|)`, divided by the normalizer;
  `l(d) = d**2 / (2 beta)` for d < beta, else `d - beta / 2`.

  Args:
    predicted: `(N, 4)` or `(..., D)`: deltas of boxes.
    target: of the same shape.
    beta: 0 is L1, as RetinaNet is trained with.
    weights: `(N,)`, the leading axes; None is 1.
    normalizer: number or scalar.
    axis_name: mapped axis over which the batch is spread.

  Returns:
    float32 scalar (float64 for float64 numbers).

  Raises:
    ValueError: shapes do not fit, the normalizer is a number that is not positive, or beta is
      negative.

  Reference: Girshick, "Fast R-CNN" (ICCV 2015), eq. 3, there with beta = 1.
  """
  _common.check_range('beta', beta, 0)
  predicted, target = _pair('smooth_l1', predicted, target, weights)
  difference = jnp.abs(predicted - target)
  if beta:
    difference = jnp.where(
        difference < beta, difference**2 / (2 * beta), difference - beta / 2)
  return _common.weighted_sum(jnp.sum(difference, axis=-1), weights, normalizer, axis_name)


def cross_entropy_with_logits(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Binary cross-entropy of each element; exact for large logits of either sign."""
  # With one exponential, where each softplus has its own; and no kink at 0 for autodiff to halve.
  positive = logits > 0
  linear = jnp.where(positive, logits * (1 - targets), -logits * targets)
  return linear + jnp.log1p(jnp.exp(jnp.where(positive, -logits, logits)))


def _pair(name, logits, targets, weights):
  """Floats, the targets stopped, both 0 at weight 0, or ValueError unless the shapes fit."""
  logits, targets = _float_and_numbers(name, logits, targets)
  if logits.shape != targets.shape:
    raise ValueError(f'{name} takes two arrays of the same shape, got {logits.shape} and '
                     f'{targets.shape}.')
  return _common.where_weighted(weights, logits, targets)


def _float_and_numbers(name, logits, targets):
  """Both as floats, the targets stopped: these may be 0 and 1 of any dtype, the logits not."""
  [logits] = _common.as_float(name, logits)
  logits, targets = _common.as_numbers(logits, lax.stop_gradient(targets))
  return logits, targets


def _power(x, exponent):
  """`x**exponent` of x >= 0; the derivative at 0, infinite for exponents below 1, is taken as 0."""
  return jnp.where(x > 0, jnp.where(x > 0, x, 1)**exponent, 0)
