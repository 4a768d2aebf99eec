"""What a batch of images with boxes holds."""

from __future__ import annotations

import functools

import numpy as np

from kdseg_jax.data.boxed import NO_CLASS
from kdseg_jax.errors import UserError
from kdseg_jax.tasks.base import Field


def box_fields(max_boxes: int) -> dict[str, Field]:
  """The fields of detection, by name.

  `boxes` `(M, 4)` float32 as x1 y1 x2 y2 in pixels of the image, `classes` `(M,)` int32 with -1 =
  padding, `crowd` `(M,)` bool, `area` `(M,)` float32 in pixels of the file's image, and `scale`
  `(2,)` float32, the image over the file's in x and y.

  Args:
    max_boxes: M; images with more lose the rest, with a warning.

  Raises:
    UserError: M is not positive.
  """
  if max_boxes < 1:
    raise UserError(f'max_boxes={max_boxes}: expected the most boxes of an image, 1 or more.')
  a_box = functools.partial(Field, functools.partial(_shape, (max_boxes,)), geometry='boxes')
  return {
      'boxes': Field(functools.partial(_shape, (max_boxes, 4)), np.float32, 0, 'boxes'),
      'classes': a_box(np.int32, NO_CLASS), 'crowd': a_box(bool, False),
      'area': a_box(np.float32, 0), 'scale': Field(functools.partial(_shape, (2,)), np.float32, 1)}


def _shape(shape, size):  # no lambda: sources that hold a field are pickled
  del size
  return shape
