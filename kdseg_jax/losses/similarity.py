"""Distillation of similarities within an image: to class centres, between layers, of classes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from kdseg_jax import resizing
from kdseg_jax.losses import _common, baselines, pooling


def intra_class_variation(
    student: jax.Array,
    teacher: jax.Array,
    labels: jax.Array,
    *,
    num_classes: int,
    ignore_label: int = 255,
    axis_name: str | None = None,
) -> jax.Array:
  """Mean squared difference of how similar pixels are to the centre of their class.

  `mean over images and pixels of (m_s - m_t)**2`, `m` the cosine of a pixel's feature and the mean
  feature of all pixels of its class in its image. Student and teacher may have different widths;
  the gradient flows into the student's centres too.

  Args:
    student: features `(N, H, W, D)`.
    teacher: features `(N, H, W, E)`; no gradient flows into them.
    labels: integers `(N, H', W')` of any size, resized to (H, W) by the nearest.
    num_classes: number of classes.
    ignore_label: label of pixels without a class. They, and those of labels outside
      [0, num_classes), contribute 0 and count in the mean; their values are irrelevant, even NaN.
    axis_name: mapped axis over which the batch is spread: mean over the pixels of all devices.

  Returns:
    float32 scalar (float64 for float64 features); 0 with zero gradient if no pixel has a class. A
    zero feature has similarity 0, with zero gradient.

  Raises:
    ValueError: the labels are not integers, or the shapes do not fit.

  Reference: Wang et al., "Intra-class Feature Variation Distillation for Semantic Segmentation"
  (ECCV 2020), eqs. 1 and 2. The official code lets an ignored pixel be its own centre, which is
  the same but for features that are exactly 0 there.
  """
  labels = _common.as_labels('intra_class_variation', labels)
  student, teacher = _common.as_features(
      'intra_class_variation', student, lax.stop_gradient(teacher))
  if (student.ndim != 4 or student.shape[:-1] != teacher.shape[:-1] or labels.ndim != 3
      or labels.shape[0] != student.shape[0]):
    raise ValueError(
        'intra_class_variation takes features (N, H, W, C) of the same N, H and W and labels of '
        f'shape (N, H, W), got student {student.shape}, teacher {teacher.shape} and labels '
        f'{labels.shape}.')
  _common.check_channels_last('intra_class_variation', student.shape, labels.shape)
  _, height, width, _ = student.shape
  labels = resizing.resize_nearest(labels, (height, width)).reshape(labels.shape[0], -1)
  valid = _common.valid_labels(labels, num_classes, ignore_label)
  member = valid[..., None] & (jnp.arange(num_classes, dtype=jnp.int32) == labels[..., None])
  ours, theirs = (_similarity_to_centre(x, member) for x in (student, teacher))
  return _common.masked_mean((ours - theirs)**2, None, axis_name)


def _similarity_to_centre(features: jax.Array, member: jax.Array) -> jax.Array:
  """Cosine `(N, P)` of every pixel and the mean of its class; `member` is bool `(N, P, K)`.

  All classes at once as two matrix products: gathering the centres would be scattered backwards.
  """
  features = features.reshape(*member.shape[:2], -1)
  features = jnp.where(jnp.any(member, axis=-1, keepdims=True), features, 0)
  sums = _common.products('npk,npc->nkc', member.astype(features.dtype), features)
  counts = jnp.sum(member, axis=1, dtype=jnp.int32)[..., None]
  centres = sums / jnp.maximum(counts, 1).astype(features.dtype)
  features, centres = (
      _common.safe_normalize(x, eps=1e-8, norm='clamp') for x in (features, centres))
  similarity = _common.products('npc,nkc->npk', features, centres)
  return jnp.sum(jnp.where(member, similarity, 0), axis=-1)


def double_similarity_pixel(
    student_taps: Sequence[jax.Array],
    teacher_taps: Sequence[jax.Array],
    *,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
  """Mean squared difference of how attention changes from layer to layer.

  `mean over pairs n < m, images and pixels of (r_s - r_t)**2`, `r = (a_m - a_n) / |a_m - a_n|_2`
  over the pixels of an image, `a` the normalised attention maps of `attention_transfer`. Widths
  may differ.

  Args:
    student_taps: two or more arrays `(N, H, W, D_i)`: `[aux_logits, embedding, logits]`, or
      without an auxiliary head `[embedding, logits]`.
    teacher_taps: as many arrays `(N, H, W, E_i)` of the same layers; no gradient flows into them.
    where: bool `(N, H, W)`, True where a pixel counts; others are left out of the norms too. None
      counts all.
    axis_name: mapped axis over which the batch is spread: mean over the pixels of all devices.

  Returns:
    float32 scalar (float64 for float64 taps); 0 with zero gradient if all pixels are masked. A
    residual of zeros stays 0, with zero gradient.

  Raises:
    ValueError: unequal numbers of taps, fewer than two, or shapes that differ in more than the
      width.

  Reference: Feng et al., "Double Similarity Distillation for Semantic Image Segmentation" (IEEE
  TIP 2021), pixel-wise similarity. For a student without an auxiliary head CIRKD's code compares
  `[logits, embedding, logits]` with `[aux_logits, embedding, logits]`; give two taps of each.
  """
  student_taps, teacher_taps = list(student_taps), list(teacher_taps)
  if len(student_taps) != len(teacher_taps) or len(student_taps) < 2:
    raise ValueError(
        'double_similarity_pixel takes as many taps of the student as of the teacher, at least 2, '
        f'got {len(student_taps)} and {len(teacher_taps)}.')
  everything = _common.as_features(
      'double_similarity_pixel', *student_taps, *map(lax.stop_gradient, teacher_taps))
  shapes = [x.shape for x in everything]
  if len({shape[:-1] for shape in shapes}) > 1 or len(shapes[0]) < 2:
    raise ValueError(
        'double_similarity_pixel takes taps (N, H, W, C) of the same N, H and W, got '
        f'{shapes}; resize them first (losses.resize_bilinear).' + _common.layout_hint(*shapes))
  if where is not None:
    where = _common.as_mask(where, shapes[0][:-1])
  maps = [baselines.attention_map(x, where) for x in everything]
  changes = lambda maps: jnp.stack(
      [baselines.normalize_map(m - n) for n, m in itertools.combinations(maps, 2)])
  ours, theirs = changes(maps[:len(student_taps)]), changes(maps[len(student_taps):])
  return _common.masked_mean(jnp.mean((ours - theirs)**2, axis=0), where, axis_name)


def double_similarity_category(
    student: jax.Array,
    teacher: jax.Array,
    *,
    temperature: float = 4.0,
    axis_name: str | None = None,
) -> jax.Array:
  """Mean squared difference of how much the activations of two classes overlap.

  `mean over images and class pairs of (g_s - g_t)**2`, `g[a, b] = sum over positions of p_a p_b`,
  `p` the softmax over the positions of one class, divided by T, after 2x2 mean pooling.

  Args:
    student: logits `(N, H, W, C)`.
    teacher: logits of the same shape; no gradient flows into them.
    temperature: T > 0.
    axis_name: mapped axis over which the batch is spread: mean over the images of all devices.

  Returns:
    float32 scalar (float64 for float64 logits).

  Raises:
    ValueError: shapes differ, C is 1, or the temperature is not positive.

  Reference: Feng et al., "Double Similarity Distillation for Semantic Image Segmentation" (IEEE
  TIP 2021), category-wise similarity; pooling (partial windows at the edge are kept and divide by
  their own pixels) and T are those of CIRKD's code.
  """
  _common.check_positive('temperature', temperature)
  student, teacher = _common.as_logits(
      'double_similarity_category', student, lax.stop_gradient(teacher))
  if student.shape != teacher.shape or student.ndim != 4:
    raise ValueError(
        'double_similarity_category takes logits (N, H, W, C) of the same shape, got student '
        f'{student.shape} and teacher {teacher.shape}; resize one first (losses.resize_bilinear).')
  _common.check_classes('double_similarity_category', student.shape)

  def overlaps(logits):
    pooled = pooling.pool(logits, (2, 2), 'mean')
    pooled = pooled.reshape(pooled.shape[0], -1, pooled.shape[-1])
    share = jax.nn.softmax(pooled / temperature, axis=1)
    return _common.products('npa,npb->nab', share, share)

  return _common.masked_mean((overlaps(student) - overlaps(teacher))**2, None, axis_name)
