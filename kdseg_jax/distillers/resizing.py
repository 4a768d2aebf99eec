"""Student and teacher of different output strides, and vectors in the place of maps."""

from __future__ import annotations

import jax

from kdseg_jax import losses
from kdseg_jax.errors import UserError


def as_map(x: jax.Array) -> jax.Array:
  """Vectors `(N, C)` as maps of one pixel, `(N, 1, 1, C)`; maps as they are."""
  return x[:, None, None] if x.ndim == 2 else x


def to_common_size(
    student: jax.Array, teacher: jax.Array, *, resize: bool, align_corners: bool
) -> tuple[jax.Array, jax.Array]:
  """The maps of both, `(N, h, w, C)`, at `common_size`: the smaller is resized up, bilinearly.

  Never down: bilinear weights reach the nearest pixels only, so that most of a student's larger
  map would have no gradient. Unchanged where the sizes agree.

  Raises:
    ValueError: as `common_size`.
  """
  size = common_size(student, teacher, resize=resize)
  student, teacher = (
      x if x.shape[1:3] == size else losses.resize_bilinear(x, size, align_corners=align_corners)
      for x in (student, teacher))
  return student, teacher


def common_size(
    student: jax.Array | jax.ShapeDtypeStruct, teacher: jax.Array | jax.ShapeDtypeStruct, *,
    resize: bool
) -> tuple[int, int]:
  """The larger height and the larger width of the maps `(N, h, w, C)` of student and teacher.

  Raises:
    ValueError: the sizes differ and `resize` is False.
  """
  ours, theirs = student.shape[1:3], teacher.shape[1:3]
  if ours != theirs and not resize:
    raise UserError(
        f'The maps of student and teacher are {ours} and {theirs} pixels. Set the field `resize` '
        'of this term to True (resize=True), which resizes the smaller map to the size of the '
        'larger, or give both models the same output stride.')
  return max(ours[0], theirs[0]), max(ours[1], theirs[1])
