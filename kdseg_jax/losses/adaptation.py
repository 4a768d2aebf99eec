"""The losses of knowledge adaptation: of an autoencoder, and of features against its code."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from kdseg_jax.losses import _common
from kdseg_jax.resizing import resize_nearest

_EPS = 1e-8


def autoencoder_reconstruction(
    features: jax.Array,
    reconstruction: jax.Array,
    code: jax.Array,
    *,
    alpha: float = 1e-7,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
  """Mean squared error of what an autoencoder makes of features, and the absolute sum of its code.

  `mean over images, pixels and channels of (features - reconstruction)**2
  + alpha * sum over the batch of |code|`

  Args:
    features: of the teacher, `(N, H, W, C)`, or any `(N, ..., C)`; no gradient flows into them.
    reconstruction: of the same shape.
    code: `(N, h, w, D)`, or any `(N, ..., D)` of as many axes.
    alpha: at least 0, how sparse the code is to be.
    where: bool `(N, H, W)` (the leading axes), True where a pixel of the features counts; a pixel
      of the code counts where the nearest one of the features does. None counts all.
    axis_name: mapped axis over which the batch is spread: mean and sum over all devices.

  Returns:
    float32 scalar (float64 for float64 features); 0 with zero gradient if all pixels are masked.

  Raises:
    ValueError: shapes differ, or alpha is negative.

  Reference: He et al., "Knowledge Adaptation for Efficient Semantic Segmentation" (CVPR 2019), the
  loss of the autoencoder, `|features - reconstruction|**2 + alpha |code|_1`. No official code was
  released. The paper prints alpha = 10e-7 and names no reduction: 1e-7, the mean and the sum are
  the choice made here, as in the third-party code of torchdistill.
  """
  _common.check_range('alpha', alpha, 0)
  reconstruction, features, where = _common.as_maps(
      'autoencoder_reconstruction', reconstruction, features, where, same_width=True)
  code, reconstruction, features = _common.as_features(
      'autoencoder_reconstruction', code, reconstruction, features)
  if code.ndim != features.ndim or code.shape[0] != features.shape[0]:
    raise ValueError(
        'autoencoder_reconstruction takes features (N, H, W, C) and their code (N, h, w, D), got '
        f'{features.shape} and {code.shape}.')
  code_where = None
  if where is not None:
    code_where = _nearest(where, code.shape[:-1])
    features, reconstruction = (
        jnp.where(where[..., None], x, 0) for x in (features, reconstruction))
    code = jnp.where(code_where[..., None], code, 0)
  error = _common.masked_mean(
      jnp.mean((features - reconstruction)**2, axis=-1), where, axis_name)
  magnitude, _ = _common.masked_sum(jnp.sum(jnp.abs(code), axis=-1), code_where, axis_name)
  return error + alpha * magnitude


def feature_adaptation(
    student: jax.Array,
    code: jax.Array,
    *,
    p: float = 2,
    q: float = 2,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
  """Distance between the directions of the student's features and of the teacher's code.

  `mean over images and pixels of |s / |s|_q - c / |c|_q|_p`, where s and c are the vectors of one
  pixel and `|x|_p = (sum over channels of |x|**p)**(1/p)`, not squared.

  Args:
    student: adapted features `(N, H, W, C)`, or any `(..., C)`.
    code: of the teacher's autoencoder, of the same shape; no gradient flows into it.
    p: of the distance, at least 1.
    q: of the lengths, at least 1. A vector is divided by its length + 1e-8; zeros stay 0, with zero
      gradient. With 2, lengths whose square float32 cannot hold (1e-19, 1e19) count as 0.
    where: bool `(N, H, W)` (the leading axes), True where a pixel counts; None counts all.
    axis_name: mapped axis over which the batch is spread: mean over the pixels of all devices.

  Returns:
    float32 scalar (float64 for float64 features); 0 with zero gradient if all pixels are masked.

  Raises:
    ValueError: the shapes differ, or p or q is below 1.

  Reference: He et al., "Knowledge Adaptation for Efficient Semantic Segmentation" (CVPR 2019), the
  loss of feature adaptation. No official code was released. The paper leaves p and q, "types of
  norms", open: 2 and 2 are the choice made here. The third-party code of torchdistill (p = 1,
  q = 2) takes the length of a whole map instead of a pixel's, and the mean over channels too.
  """
  for name, value in (('p', p), ('q', q)):
    _common.check_range(name, value, 1)
  student, code, where = _common.as_maps(
      'feature_adaptation', student, code, where, same_width=True)
  if where is not None:
    student, code = (jnp.where(where[..., None], x, 0) for x in (student, code))
  student, code = (_direction(x, q) for x in (student, code))
  length, is_zero = _length(student - code, p)
  return _common.masked_mean(jnp.where(is_zero, 0, length)[..., 0], where, axis_name)


def _direction(x, order):
  length, is_zero = _length(x, order)
  return jnp.where(is_zero, 0, x) / (length + _EPS)


def _length(x: jax.Array, order: float) -> tuple[jax.Array, jax.Array]:
  """`|x|_order` along the last axis, `(..., 1)`, and which are 0.

  Those that are 0 have another, constant value here: the root has no gradient there.
  """
  if order == 2:  # without the scale, as the other losses have it: 0.3 to 0.7 of the time
    return _common.length_of(x)
  largest = lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
  is_zero = largest < jnp.finfo(x.dtype).tiny
  scale = jnp.where(is_zero, 1, largest)  # which cancels: neither large nor small powers are lost
  powers = jnp.abs(jnp.where(is_zero, 1, x / scale))**order
  return scale * jnp.sum(powers, axis=-1, keepdims=True)**(1 / order), is_zero


def _nearest(where: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """A mask `(N, H, W)` at the size of a code; masks `(N,)` of vectors have none."""
  if where.shape == shape:
    return where
  if where.ndim != 3:
    raise ValueError(f'where {where.shape} cannot be brought to the code, {shape}.')
  height, width = shape[1:]
  return resize_nearest(where, (height, width))
