"""Distillation of how similar pixels, or channels, are to those of other images.

The others are in the same batch (`cross_image_pixel`, `cross_image_channel`) or remembered in a
queue (`memory_similarity`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from kdseg_jax.losses import _common, _divergences, pooling

_EPS = 1e-8


def cross_image_pixel(
    student: jax.Array,
    teacher: jax.Array,
    *,
    temperature: float = 0.1,
    pool: int | None = None,
    axis_name: str | None = None,
    block_size: int | None = None,
) -> jax.Array:
  """KL between the similarities of every pixel to the pixels of every image of the batch.

  `mean over images i, pixels n of i, images j of KL(p_t || p_s)`,
  `p_s = softmax over pixels m of j of (s[i, n] . s[j, m] / temperature)`, p_t likewise, with s and
  t of unit length. All ordered pairs of images count, i = j included. Student and teacher may have
  different widths. No factor temperature**2.

  The similarities are computed for a block of pixels at a time, and the gradient with the value, so
  that peak memory is linear in the number of pixels, not quadratic, and nothing is computed twice.

  Args:
    student: features `(N, H, W, D)`.
    teacher: features `(N, H, W, E)`; no gradient flows into them.
    temperature: positive; divides the cosines. No gradient flows into it.
    pool: side k of k x k mean pooling with stride k before all else; windows at the bottom and
      right edge may be partial (ceil mode) and divide by their own pixels. None is none.
    axis_name: mapped axis over which the batch is spread: the pairs are those of the images of all
      devices.
    block_size: pixels whose similarities are computed at a time; None fits them to some 100 MB.

  Returns:
    float32 scalar (float64 for float64 features), at least 0. A zero vector has cosine 0 with all
    and receives no gradient.

  Raises:
    ValueError: the spatial shapes differ, or an option is out of range.

  Reference: Yang et al., "Cross-Image Relational Knowledge Distillation for Semantic Segmentation"
  (CVPR 2022), "mini-batch-based pixel-to-pixel distillation". The official code pairs only images
  on the same GPU (its gathering is commented out): that is `axis_name=None` inside the map and a
  `lax.pmean` of the result. It pools by 2 for SegFormer, and its second version by 4 from
  256 x 256 features on.
  """
  _check_options(temperature, block_size)
  student, teacher = _common.as_features('cross_image_pixel', student, lax.stop_gradient(teacher))
  if student.ndim != 4 or teacher.ndim != 4 or student.shape[:3] != teacher.shape[:3]:
    raise ValueError(
        'cross_image_pixel takes features (N, H, W, C) of the same N, H and W, got student '
        f'{student.shape} and teacher {teacher.shape}; resize one first (losses.resize_bilinear).'
        + _common.layout_hint(student.shape, teacher.shape))
  window = pooling.window_of('pool', pool)
  images = [
      normalize(x.reshape(x.shape[0], -1, x.shape[-1]))
      for x in (pooling.pool(student, window, 'mean'), pooling.pool(teacher, window, 'mean'))]
  return _mean_over_image_pairs(images, temperature, axis_name, block_size)


def cross_image_channel(
    student: jax.Array,
    teacher: jax.Array,
    *,
    temperature: float = 0.1,
    pool: int | None = 4,
    axis_name: str | None = None,
    block_size: int | None = None,
) -> jax.Array:
  """KL between the similarities of every channel to the channels of every image of the batch.

  As `cross_image_pixel`, with a vector a channel (`channel_vectors`) in place of one a pixel.

  Args:
    student: features `(N, H, W, D)`, projected to the teacher's width.
    teacher: features of the same shape; no gradient flows into them.
    temperature: positive; divides the cosines.
    pool: as in `channel_vectors`.
    axis_name: as in `cross_image_pixel`.
    block_size: channels whose similarities are computed at a time; None chooses.

  Returns:
    float32 scalar (float64 for float64 features), at least 0.

  Raises:
    ValueError: the shapes differ, or an option is out of range.

  Reference: the official second version of CIRKD (2025).
  """
  _check_options(temperature, block_size)
  _check_same_shape('cross_image_channel', student, teacher)
  images = [channel_vectors(x, pool=pool) for x in (student, lax.stop_gradient(teacher))]
  return _mean_over_image_pairs(images, temperature, axis_name, block_size)


def channel_mse(
    student: jax.Array,
    teacher: jax.Array,
    *,
    pool: int | None = 4,
    axis_name: str | None = None,
) -> jax.Array:
  """Mean squared difference of the unit vectors of corresponding channels (`channel_vectors`).

  `mean over images, channels and positions of (s - t)**2`. Arguments, result, errors and reference
  as of `cross_image_channel`; its official weight is 100.
  """
  _check_same_shape('channel_mse', student, teacher)
  # Not `channel_vectors`: their transposes would cost nearly as much as all else.
  student, teacher = (
      _unit_columns(x, pool) for x in (student, lax.stop_gradient(teacher)))
  return _common.masked_mean((student - teacher)**2, None, axis_name)


def channel_vectors(features: jax.Array, *, pool: int | None = 4) -> jax.Array:
  """Each channel's map as a unit vector over positions: `(N, H, W, C)` to `(N, C, P)`.

  `P = ceil(H / pool) * ceil(W / pool)`: k x k mean pooling first, as in `cross_image_pixel`; None
  is none.
  """
  return jnp.swapaxes(_unit_columns(features, pool), 1, 2)


def _unit_columns(features, pool):
  """`channel_vectors` as columns, `(N, P, C)`."""
  [features] = _common.as_features('A loss of channels', features)
  pooled = pooling.pool(features, pooling.window_of('pool', pool), 'mean')
  return normalize(pooled.reshape(pooled.shape[0], -1, pooled.shape[-1]), axis=1)


def memory_similarity(
    student: jax.Array,
    teacher: jax.Array,
    contrast: jax.Array,
    *,
    where: jax.Array | None = None,
    contrast_where: jax.Array | None = None,
    temperature: float = 0.1,
    kd_temperature: float = 1.0,
    axis_name: str | None = None,
    block_size: int | None = None,
) -> jax.Array:
  """KL between the similarities of every anchor to remembered embeddings.

  `T**2 * mean over anchors of KL(p_t || p_s)`, `p_s = softmax over k of
  (s . contrast[k] / (temperature * T))`, p_t likewise, with s and t of unit length and
  T = kd_temperature. Memory is linear in the number of anchors.

  Args:
    student: anchors `(..., D)`, projected to the teacher's width.
    teacher: anchors of the same shape; no gradient flows into them.
    contrast: embeddings `(K, D)`, used as they are (queues hold them at unit length); no gradient
      flows into them.
    where: bool, the leading axes: True where an anchor counts; None counts all. Values at masked
      anchors are irrelevant, even NaN.
    contrast_where: bool `(K,)`: False leaves an embedding out of the softmax, whatever its value.
    temperature: positive; divides the cosines. No gradient flows into it.
    kd_temperature: T of the distillation; none into it.
    axis_name: mapped axis over which the anchors are spread: mean over those of all devices. The
      contrast must be the same on all.
    block_size: anchors whose similarities are computed at a time; None fits them to some 100 MB.

  Returns:
    float32 scalar (float64 for float64 anchors); 0 with zero gradient if all anchors, or all
    embeddings, are masked.

  Raises:
    ValueError: shapes do not fit, or an option is out of range.

  Reference: Yang et al., "Cross-Image Relational Knowledge Distillation for Semantic Segmentation"
  (CVPR 2022), "memory-based pixel-to-pixel" and "pixel-to-region distillation": one equation, on
  two queues. The official code returns NaN where no anchor is valid.
  """
  _check_options(temperature, block_size)
  _common.check_positive('kd_temperature', kd_temperature)
  student, teacher, contrast = _common.as_features(
      'memory_similarity', student, lax.stop_gradient(teacher), lax.stop_gradient(contrast))
  if student.shape != teacher.shape or contrast.ndim != 2 or (
      student.shape[-1:] != contrast.shape[1:]):
    raise ValueError(
        'memory_similarity takes student and teacher anchors (..., D) of the same shape and a '
        f'contrast (K, D), got {student.shape}, {teacher.shape} and {contrast.shape}; project the '
        'student to the width of the teacher first.')
  rows = [student, teacher]
  if where is not None:
    where = _common.as_mask(where, student.shape[:-1])
    # Zeros: as like to every embedding in both, they add exactly 0 and receive no gradient.
    rows = [jnp.where(where[..., None], x, 0) for x in rows]
    where = where.ravel()
  if contrast_where is not None:
    contrast_where = _common.as_mask(contrast_where, contrast.shape[:1])
    contrast = jnp.where(contrast_where[:, None], contrast, 0)
  student, teacher = (normalize(x.reshape(-1, x.shape[-1])) for x in rows)
  total = _divergences.total(
      (student, teacher), (contrast[None],) * 2,
      scale=1 / (temperature * kd_temperature),
      where=contrast_where, learned_columns=False, block_size=block_size)
  count = len(student) if where is None else jnp.sum(where, dtype=jnp.int32)
  return kd_temperature**2 * _common.mean_of(total, count, axis_name)


def normalize(x: jax.Array, axis: int = -1) -> jax.Array:
  """Vectors of unit length, as embeddings are compared and remembered; a zero one stays 0."""
  return _common.safe_normalize(x, eps=_EPS, norm='clamp', axis=axis)


def _check_same_shape(name, student, teacher):
  if student.ndim != 4 or student.shape != teacher.shape:
    raise ValueError(
        f'{name} takes features (N, H, W, C) of the same shape, got student {student.shape} and '
        f'teacher {teacher.shape}; project the student to the width of the teacher first.')


def _check_options(temperature, block_size):
  _common.check_positive('temperature', temperature)
  if block_size is not None and block_size < 1:
    raise ValueError(f'block_size={block_size} must be at least 1, or None to have it chosen.')


def _mean_over_image_pairs(images, temperature, axis_name, block_size):
  """Mean divergence of the rows of `(N, n, D)` and `(N, n, E)` from those of all images."""
  columns = images if axis_name is None else lax.all_gather(images, axis_name, tiled=True)
  rows = [x.reshape(-1, x.shape[-1]) for x in images]
  total = _divergences.total(
      rows, columns, scale=1 / temperature, learned_columns=True, block_size=block_size)
  return _common.mean_of(total, len(rows[0]), axis_name)
