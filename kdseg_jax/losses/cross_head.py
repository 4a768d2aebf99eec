"""Cross-head distillation (CrossKD): the student's features through the teacher's head.

At level l and in each branch, classes and boxes:

  features = cross_head_input(student tower after layer i, teacher tower after layer i, layer=i)
  cross_head = teacher's layers i + 1 ... n and its predictions, frozen
  loss = cross_head_classification(cross_head cls, teacher cls)
         + cross_head_distribution (GFL), boxes.giou (RetinaNet, ATSS) or boxes.iou_log (FCOS)
         + detection.binary_cross_entropy of the centerness (ATSS)

The same losses on the student's own predictions are prediction mimicking.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from kdseg_jax.losses import _common, box_coding, detection

FORMS = ('quality_focal', 'cross_entropy', 'kl')
_EPS = 1e-6


def align_statistics(
    student: jax.Array, teacher: jax.Array, *, axis_name: str | None = None
) -> jax.Array:
  """The student's features with the mean and deviation of the teacher's, channel by channel.

  `(s - mean(s)) / (std(s) + 1e-6) * std(t) + mean(t)`, over images and positions; std is the
  unbiased one. The student's statistics are differentiated. A channel of the student that is
  constant, or one of a single element, becomes `mean(t)` with zero gradient.

  Args:
    student: features `(N, H, W, C)`, of one level.
    teacher: features of the same shape; no gradient flows into them.
    axis_name: mapped axis over which the batch is spread: statistics of all devices.

  Returns:
    `(N, H, W, C)` float32 (float64 for float64 features).

  Raises:
    ValueError: the shapes differ.

  Reference: Wang et al., "CrossKD: Cross-Head Knowledge Distillation for Object Detection" (CVPR
  2024), official `align_scale`, which is NaN for a single element, amplifies gradients of constant
  channels by 1e6 and takes the statistics of each device.
  """
  student, teacher, _ = _common.as_maps(
      'align_statistics', student, teacher, None, same_width=True)
  standardised = standardise(student, axis_name)
  mean, deviation = _statistics(teacher, axis_name)
  return standardised * deviation + mean


def cross_head_input(
    student: jax.Array, teacher: jax.Array, *, layer: int, axis_name: str | None = None
) -> jax.Array:
  """What the teacher's head from layer `layer` on is given: aligned features, rectified again.

  `relu(align_statistics(student, teacher))`, at layer 0, the levels of the pyramid, without the
  ReLU.

  Args:
    student: `(N, H, W, C)`, the tower's features of one level *after* the ReLU of that layer.
    teacher: the teacher's there, of the same shape; no gradient flows into them.
    layer: how many convolutions the features have behind them.
    axis_name: as in `align_statistics`.

  Returns:
    `(N, H, W, C)` float32 (float64 for float64 features).

  Raises:
    ValueError: the shapes differ.

  Reference: official CrossKD, which means to keep the features before the ReLU, but whose ReLU
  works in place: what it aligns are those after it.
  """
  aligned = align_statistics(student, teacher, axis_name=axis_name)
  return jax.nn.relu(aligned) if layer else aligned


def cross_head_classification(
    cross_head: jax.Array,
    teacher: jax.Array,
    *,
    form: str = 'quality_focal',
    beta: float = 1.0,
    weights: jax.Array | None = None,
    normalizer: jax.Array | float = 1.0,
    axis_name: str | None = None,
) -> jax.Array:
  """How far the classes' probabilities are from the teacher's, summed over anchors and classes.

  With p and q the sigmoids of both logits: 'quality_focal' is `|p - q|**beta * bce(p, q)`,
  'cross_entropy' is `bce(p, q)`, 'kl' is `bce(p, q)` less the entropy of q: another value, the same
  gradient.

  Args:
    cross_head: logits `(..., C)`, of the student through the teacher's head.
    teacher: logits of the same shape; no gradient flows into them.
    form: see above; the official one is 'quality_focal'.
    beta: of that form.
    weights: the leading axes; official is 1 for anchors inside the image that the student's
      assignment does not ignore, else 0 (FCOS: None).
    normalizer: official is the number of positive anchors of the student's assignment, at least one
      an image (FCOS: the sum of the centerness of positive points).
    axis_name: mapped axis over which the batch is spread: the sum is that of all devices.

  Returns:
    float32 scalar (float64 for float64 logits); 0 with zero gradient if all weights are 0.

  Raises:
    ValueError: shapes do not fit, or an option is out of range.

  Reference: Wang et al., "CrossKD" (CVPR 2024), section 3.3; official `KDQualityFocalLoss`.
  """
  _common.check_choice('form', form, FORMS)
  scores = jax.nn.sigmoid(lax.stop_gradient(
      _common.as_float('cross_head_classification', teacher)[0]))
  if form == 'quality_focal':
    return detection.quality_focal(cross_head, scores, beta=beta, weights=weights,
                                   normalizer=normalizer, axis_name=axis_name)
  if weights is not None:
    weights = _common.spread_weights(weights, scores.shape)
  summed = lambda logits: detection.binary_cross_entropy(
      logits, scores, weights=weights, normalizer=normalizer, axis_name=axis_name)
  loss = summed(cross_head)
  return loss if form == 'cross_entropy' else loss - lax.stop_gradient(summed(teacher))


def cross_head_distribution(
    cross_head: jax.Array,
    teacher: jax.Array,
    *,
    temperature: float = 1.0,
    weights: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
  """Weighted mean over anchors of the KL of the sides' distributions, averaged over the sides.

  `sum of weight * mean over sides of T**2 * KL(teacher || cross_head) / sum of weight`. The
  official weight of this loss is 4.

  Args:
    cross_head: logits `(..., 4 * bins)`, of the student through the teacher's head.
    teacher: logits of the same shape; no gradient flows into them.
    temperature: T > 0.
    weights: the leading axes, see `score_weights`; None is 1.
    axis_name: mapped axis over which the batch is spread: the mean is that of all devices, which
      the official code takes on each.

  Returns:
    float32 scalar (float64 for float64 logits); 0 with zero gradient if all weights are 0, where
    the official code divides 0 by 0.

  Raises:
    ValueError: shapes do not fit, or an option is out of range.

  Reference: Wang et al., "CrossKD" (CVPR 2024), section 3.3, for GFL.
  """
  cross_head, teacher = (box_coding.by_side(x) for x in (cross_head, teacher))
  if weights is None:
    weights = jnp.ones(cross_head.shape[:-2], cross_head.dtype)
  weights = jnp.asarray(weights).astype(cross_head.dtype)
  total = jnp.sum(weights)
  if axis_name is not None:
    total = lax.psum(total, axis_name)
  return detection.distribution_kl(
      cross_head, teacher, temperature=temperature, normalizer=4 * total, axis_name=axis_name,
      weights=_common.spread_weights(weights, cross_head.shape[:-1]))


def localization_distillation(
    student: jax.Array,
    teacher: jax.Array,
    *,
    temperature: float = 10.0,
    weights: jax.Array | None = None,
    normalizer: jax.Array | float = 1.0,
    axis_name: str | None = None,
) -> jax.Array:
  """Weighted sum over anchors of the KL of the sides' distributions (LD).

  `sum of weight * mean over sides of T**2 * mean over bins of p_t * (log p_t - log p_s)`, divided
  by the normalizer. The official weight of this loss is 0.25.

  Args:
    student: logits `(..., 4 * bins)`.
    teacher: logits of the same shape; no gradient flows into them.
    temperature: T > 0.
    weights: the leading axes; official is `score_weights(student cls, positive)`, without a
      gradient. For the valuable localization region give that region's.
    normalizer: official is 1.
    axis_name: mapped axis over which the batch is spread: the sum is that of all devices.

  Returns:
    float32 scalar (float64 for float64 logits); 0 with zero gradient if all weights are 0.

  Raises:
    ValueError: shapes do not fit, or an option is out of range.

  Reference: Zheng et al., "Localization Distillation for Dense Object Detection" (CVPR 2022), eq.
  4; mmdetection's `LDHead`, which takes the mean over bins, not the sum of the paper.
  """
  student, teacher = (box_coding.by_side(x) for x in (student, teacher))
  if weights is not None:
    weights = _common.spread_weights(weights, student.shape[:-1])
  return detection.distribution_kl(
      student, teacher, temperature=temperature, weights=weights, reduction='mean',
      normalizer=normalizer, axis_name=axis_name) / 4


def score_weights(
    logits: jax.Array, where: jax.Array | None = None, *, uniform: bool = False
) -> jax.Array:
  """The weight of every anchor in the distillation of boxes: the highest probability of a class.

  Args:
    logits: `(..., C)`, the teacher's in CrossKD; no gradient flows into them.
    where: bool, the leading axes: which anchors count; None counts all.
    uniform: 1 for each that counts: S(r) = 1, as the paper says, unlike the official code.

  Returns:
    The leading axes, float32 (float64 for float64 logits).

  Raises:
    ValueError: the mask has another shape.

  Reference: Wang et al., "CrossKD" (CVPR 2024), eq. 3 and 4.
  """
  [logits] = _common.as_float('score_weights', lax.stop_gradient(logits))
  highest = jnp.max(logits, axis=-1)
  weights = jnp.ones_like(highest) if uniform else jax.nn.sigmoid(highest)
  return weights if where is None else jnp.where(
      _common.as_mask(where, weights.shape), weights, 0)


def pearson_features(
    student: jax.Array | Sequence[jax.Array],
    teacher: jax.Array | Sequence[jax.Array],
    *,
    axis_name: str | None = None,
) -> jax.Array:
  """Half the mean squared difference of features that are standardised channel by channel (PKD).

  `sum over levels of mean((standard(s) - standard(t))**2) / 2`,
  `standard(x) = (x - mean(x)) / (std(x) + 1e-6)` over images and positions, std the unbiased one:
  up to a constant 1 - Pearson's correlation. Constant channels become 0, with zero gradient, and so
  does a map of a single element.

  Args:
    student: features `(N, H, W, C)`, or a sequence of them, of a level each.
    teacher: of the same shapes; no gradient flows into them.
    axis_name: mapped axis over which the batch is spread: statistics and mean of all devices, where
      the official code takes those of each.

  Returns:
    float32 scalar (float64 for float64 features).

  Raises:
    ValueError: shapes or numbers of levels differ, or there is none.

  Reference: Cao et al., "PKD: General Distillation Framework for Object Detectors via Pearson
  Correlation Coefficient" (NeurIPS 2022), eq. 3; official `PKDLoss`. CrossKD adds it with the
  weights 6 (GFL), 2 (RetinaNet, FCOS) and 1 (ATSS).
  """
  students, teachers = ([x] if hasattr(x, 'shape') else list(x) for x in (student, teacher))
  if not students or len(students) != len(teachers):
    raise ValueError('pearson_features takes as many levels, one or more, of the student as of the '
                     f'teacher, got {len(students)} and {len(teachers)}.')
  levels = [_pearson(*pair, axis_name) for pair in zip(students, teachers)]
  return sum(levels[1:], levels[0])


def standardise(features: jax.Array, axis_name: str | None) -> jax.Array:
  """`(x - mean(x)) / (std(x) + 1e-6)` of each channel; 0 with zero gradient where constant."""
  mean, deviation = _statistics(features, axis_name)
  return jnp.where(deviation > 0, features - mean, 0) / (deviation + _EPS)


def _pearson(student, teacher, axis_name):
  student, teacher, _ = _common.as_maps(
      'pearson_features', student, teacher, None, same_width=True)
  difference = standardise(student, axis_name) - standardise(teacher, axis_name)
  return _common.masked_mean(jnp.mean(difference**2, axis=-1), None, axis_name) / 2


def _statistics(features, axis_name):
  """Mean and unbiased deviation `(C,)`; of constant channels, and of one pixel, it is 0."""
  axes = tuple(range(features.ndim - 1))
  count = features[..., 0].size
  add = lambda x: jnp.sum(x, axis=axes)
  if axis_name is not None:
    count *= lax.axis_size(axis_name)
    add = lambda x: lax.psum(jnp.sum(x, axis=axes), axis_name)
  mean = add(features) / count
  variance = add((features - mean)**2) / max(count - 1, 1)
  varies = variance > jnp.finfo(features.dtype).tiny
  return mean, jnp.where(varies, jnp.sqrt(jnp.where(varies, variance, 1)), 0)
