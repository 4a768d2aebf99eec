"""Student and teacher of different output strides."""

from __future__ import annotations

import jax

from kdseg_jax import losses
from kdseg_jax.errors import UserError


def to_teacher_size(
    student: jax.Array, teacher: jax.Array, *, resize: bool, align_corners: bool
) -> jax.Array:
  """The student's map `(N, h, w, C)` at the teacher's size; unchanged where they agree.

  Raises:
    ValueError: the sizes differ and `resize` is False.
  """
  if student.shape[:-1] == teacher.shape[:-1]:
    return student
  if not resize:
    raise UserError(
        f'The maps of student and teacher are {student.shape[1:-1]} and {teacher.shape[1:-1]} '
        'pixels. Set resize=True, or give both models the same output stride.')
  _, height, width, _ = teacher.shape
  return losses.resize_bilinear(student, (height, width), align_corners=align_corners)
