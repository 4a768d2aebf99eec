"""Distillation of features, attention maps, channels and classes, one pixel or map at a time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from kdseg_jax.losses import _common, pixelwise


def attention_transfer(
    student: jax.Array,
    teacher: jax.Array,
    *,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
  """Mean squared difference of the normalised attention maps.

  `mean over images and pixels of (a_s - a_t)**2`, `a = A / |A|_2` over the pixels of an image,
  `A = mean over channels of x**2`. Student and teacher may have different widths.

  Args:
    student: features `(N, H, W, D)`, or any `(N, ..., D)`.
    teacher: features `(N, H, W, E)`; no gradient flows into them.
    where: bool `(N, H, W)`, True where a pixel counts; others are left out of the norm too. None
      counts all.
    axis_name: mapped axis over which the batch is spread: mean over the pixels of all devices.

  Returns:
    float32 scalar (float64 for float64 features); 0 with zero gradient if all pixels are masked.
    A map of zeros stays 0, with zero gradient.

  Raises:
    ValueError: the shapes differ in more than the width.

  Reference: Zagoruyko and Komodakis, "Paying More Attention to Attention" (ICLR 2017), eq. 2 with
  p = 2, as a squared norm and averaged over pixels, which CIRKD's weight of 10,000 makes up for.
  """
  student, teacher, where = _common.as_maps('attention_transfer', student, teacher, where)
  values = (attention_map(student, where) - attention_map(teacher, where))**2
  return _common.masked_mean(values, where, axis_name)


def attention_map(features: jax.Array, where: jax.Array | None) -> jax.Array:
  """`A / |A|_2`, `A = mean over channels of x**2`: `(N, ...)` of features `(N, ..., D)`."""
  if where is not None:
    features = jnp.where(where[..., None], features, 0)
  # Squares of small features are smaller still.
  return normalize_map(jnp.mean(features**2, axis=-1), eps=1e-12)


def normalize_map(x: jax.Array, *, eps: float = 1e-8) -> jax.Array:
  """Maps `(N, ...)` of unit length over all pixels of an image."""
  return _common.safe_normalize(x.reshape(x.shape[0], -1), eps=eps, norm='clamp').reshape(x.shape)


def fitnets(
    student: jax.Array,
    teacher: jax.Array,
    *,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
  """Mean squared difference of the features.

  `mean over pixels and channels of (student - teacher)**2`

  Args:
    student: features `(N, H, W, D)`, or any `(..., D)`, projected to the teacher's width.
    teacher: features of the same shape; no gradient flows into them.
    where: bool `(N, H, W)` (the leading axes), True where a pixel counts; None counts all.
    axis_name: mapped axis over which the batch is spread: mean over the pixels of all devices.

  Returns:
    float32 scalar (float64 for float64 features); 0 with zero gradient if all pixels are masked.

  Raises:
    ValueError: the shapes differ.

  Reference: Romero et al., "FitNets: Hints for Thin Deep Nets" (ICLR 2015), eq. 3, which sums
  over elements and halves; a mean with a weight of 10 is the official code of CIRKD.
  """
  student, teacher, where = _common.as_maps('fitnets', student, teacher, where, same_width=True)
  if where is not None:
    student = jnp.where(where[..., None], student, 0)
    teacher = jnp.where(where[..., None], teacher, 0)
  values = jnp.mean((student - teacher)**2, axis=-1)
  return _common.masked_mean(values, where, axis_name)


def channel_wise(
    student: jax.Array,
    teacher: jax.Array,
    *,
    temperature: float = 4.0,
    official_channel_count: int | None = None,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
  """KL(teacher || student) of where a channel is active, averaged over channels, times T**2.

  `T**2 * mean over images and channels of sum over pixels p of p_t * (log p_t - log p_s)`, `p_s`
  and `p_t` the softmax over the pixels of one channel, divided by T, of one image.

  Args:
    student: features or logits `(N, H, W, C)`, or any `(N, ..., C)`.
    teacher: of the same shape; no gradient flows into them.
    temperature: T > 0.
    official_channel_count: divide by this number instead of C. The official code of CIRKD takes
      the width that the student had before its projection, so that a projection from 128 to 256
      channels doubles the loss.
    where: bool `(N, H, W)`, True where a pixel counts; others are left out of the softmax, and an
      image without any counts nowhere. None counts all.
    axis_name: mapped axis over which the batch is spread: mean over the images of all devices.

  Returns:
    float32 scalar (float64 for float64 features); 0 with zero gradient if all pixels are masked.

  Raises:
    ValueError: the shapes differ, or an option is out of range.

  Reference: Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction" (ICCV 2021),
  eq. 4. Official codes take the log of a softmax, which can be -inf; here it is a log-softmax.
  """
  _common.check_positive('temperature', temperature)
  if official_channel_count is not None:
    _common.check_positive('official_channel_count', official_channel_count)
  student, teacher, where = _common.as_maps(
      'channel_wise', student, teacher, where, same_width=True)
  counts = None
  if where is not None:
    any_pixel = jnp.any(where.reshape(where.shape[0], -1), axis=1)
    # Left out of the softmax, which is that of zeros where nothing would be left.
    outside = jnp.where(any_pixel, -jnp.inf, 0).astype(student.dtype)
    outside = outside.reshape(-1, *[1] * (student.ndim - 1))
    student, teacher = (jnp.where(where[..., None], x, outside) for x in (student, teacher))
    counts = jnp.broadcast_to(any_pixel[:, None], (where.shape[0], student.shape[-1]))
  student, teacher = (x.reshape(x.shape[0], -1, x.shape[-1]) for x in (student, teacher))
  values = _divergence_over_pixels(student, teacher, temperature)
  loss = temperature**2 * _common.masked_mean(values, counts, axis_name)
  if official_channel_count is None:
    return loss
  return loss * (student.shape[-1] / official_channel_count)


def _divergence_over_pixels(student, teacher, temperature):
  """`(N, C)`: KL(teacher || student) of the softmax over the pixels of `(N, P, C)` over T.

  `sum p_t * (t - s) - log sum exp(t) + log sum exp(s)`: channels stay last and neither log-softmax
  is written out: on CPU under half the time of `pixelwise.divergence` of the transposes.
  """
  student, teacher = (
      (x - jnp.max(lax.stop_gradient(x), axis=1, keepdims=True)) / temperature
      for x in (student, teacher))
  weight = jnp.exp(teacher)
  total, of_student = (jnp.sum(x, axis=1) for x in (weight, jnp.exp(student)))
  # A pixel that the teacher excludes (-inf) adds 0, not 0 * inf.
  terms = jnp.where(jnp.isneginf(teacher), 0, weight * (teacher - student))
  return jnp.sum(terms, axis=1) / total - jnp.log(total) + jnp.log(of_student)


def decoupled_kd(
    student: jax.Array,
    teacher: jax.Array,
    labels: jax.Array,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    ignore_label: int = 255,
    axis_name: str | None = None,
) -> jax.Array:
  """Distillation of the labelled class against the rest, and of the rest among itself.

  `alpha * TCKD + beta * NCKD`, both averaged over the valid pixels and times T**2. TCKD is
  KL(teacher || student) of the two probabilities `(p[label], 1 - p[label])`, NCKD that of the
  softmax over the other classes; `p = softmax(logits / T)`. Ordinary distillation would weigh
  NCKD by the teacher's `1 - p[label]`, which is small where the teacher is sure.

  A pixel is valid if its label is in [0, C) and is not `ignore_label`.

  Args:
    student: logits `(..., C)`, C at least 2.
    teacher: logits of the same shape; no gradient flows into them.
    labels: integers `(...)`.
    alpha: weight of TCKD.
    beta: weight of NCKD.
    temperature: T > 0.
    ignore_label: label of the pixels that do not count; values there are irrelevant, even NaN.
    axis_name: mapped axis over which the batch is spread: mean over the valid pixels of all
      devices, however unevenly they are spread.

  Returns:
    float32 scalar (float64 for float64 logits); 0 with zero gradient if no pixel is valid.

  Raises:
    ValueError: the labels are not integers, the shapes do not fit, or C is 1.

  Reference: Zhao et al., "Decoupled Knowledge Distillation" (CVPR 2022), eq. 7. The official code
  takes the log of summed probabilities, which can be -inf, and removes the labelled class by
  subtracting 1,000 from its logit; here both are exact.
  """
  _common.check_positive('temperature', temperature)
  labels = _common.as_labels('decoupled_kd', labels)
  student, teacher = _common.as_logits('decoupled_kd', student, lax.stop_gradient(teacher))
  if student.shape != teacher.shape or student.shape[:-1] != labels.shape:
    raise ValueError(
        'decoupled_kd takes logits (..., C) of student and teacher and labels (...), got '
        f'{student.shape}, {teacher.shape} and {labels.shape}.')
  _common.check_classes('decoupled_kd', student.shape)
  valid = _common.valid_labels(labels, student.shape[-1], ignore_label)
  labelled = jnp.arange(student.shape[-1], dtype=jnp.int32) == labels[..., None]

  def against_the_rest(logits):
    logits = jnp.where(valid[..., None], logits, 0) / temperature
    own = jnp.sum(jnp.where(labelled, logits, 0), axis=-1)
    rest = jax.nn.logsumexp(jnp.where(labelled, -jnp.inf, logits), axis=-1)
    return jnp.stack([own, rest], axis=-1)

  rest_alone = lambda logits: jnp.where(labelled, -jnp.inf, logits)
  target = temperature**2 * pixelwise.divergence(
      against_the_rest(student), against_the_rest(teacher), where=valid, axis_name=axis_name)
  others = pixelwise.divergence(
      rest_alone(student), rest_alone(teacher), temperature=temperature, where=valid,
      axis_name=axis_name)
  return alpha * target + beta * others
