"""Looks at the classes of images before a run: what it is to learn, and is evaluated on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from absl import logging

from kdseg_jax.errors import UserError
from kdseg_jax.tasks.base import DataCheck

_MOST_NAMED = 10


class ClassCheck(DataCheck):
  """Counts the images of each class.

  Args:
    classes: their names.
  """

  def __init__(self, classes: Iterable[str]):
    self._classes = tuple(classes)

  def tally(self, example: Mapping[str, Any]) -> np.ndarray:
    """`(C,)` int64, 1 at the label of the example.

    Raises:
      UserError: the label is no class.
    """
    label, count = int(example['label']), len(self._classes)
    if not 0 <= label < count:
      raise UserError(f'{example["image_id"]}: its label {label} is no class; expected 0 to '
                      f'{count - 1}.')
    return np.bincount([label], minlength=count)

  def is_complete(self, total: np.ndarray) -> bool:
    """Whether every class was seen."""
    return bool(total.all())

  def check_evaluation(self, total: np.ndarray, split: str) -> None:
    """A class without an image is a warning."""
    if not total.all():
      logging.warning('%s has no image of %s: metrics are of the other classes alone.', split,
                      self._absent(total))

  def check_training(self, total: np.ndarray, split: str, *, read: int, length: int,
                     evaluated: np.ndarray | None, has_teacher: bool) -> None:
    """UserError if all images are of one class; a class without an image is a warning.

    With a teacher, whose scores can be learned from, the former is a warning too.
    """
    if total.all():
      return
    (present,) = np.nonzero(total)
    if len(present) == 1 and read == length:
      message = (f'{split}: all {length} images are of one class, {self._classes[present[0]]}, so '
                 'that nothing can be learned from their labels.')
      if not has_teacher:
        raise UserError(message)
      logging.warning('%s', message)
    else:
      where = 'has no image' if read == length else f'has, in {read} of its {length}, no image'
      logging.warning('%s %s of %s: it cannot be learned.', split, where, self._absent(total))

  def _absent(self, total):
    """The classes without an image, in words."""
    names = [name for name, count in zip(self._classes, total, strict=True) if not count]
    more = len(names) - _MOST_NAMED
    return ', '.join(names[:_MOST_NAMED]) + (f' and {more} more' if more > 0 else '')
