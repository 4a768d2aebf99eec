"""Looks at the boxes of images before a run: what it is to learn, and is evaluated on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from absl import logging

from kdseg_jax.errors import UserError
from kdseg_jax.tasks.base import DataCheck

_MOST_NAMED = 10


class BoxCheck(DataCheck):
  """Counts the boxes of each class, and those beyond what a batch holds.

  Args:
    classes: their names.
    max_boxes: the most boxes of an image that a batch holds.
  """

  def __init__(self, classes: Iterable[str], max_boxes: int):
    self._classes, self._max_boxes = tuple(classes), max_boxes

  def tally(self, example: Mapping[str, Any]) -> np.ndarray:
    """`(C + 2,)` int64: boxes of each class without crowds; too many; images with too many.

    Raises:
      UserError: a class is none.
    """
    classes, count = example['classes'], len(self._classes)
    real = classes >= 0
    if classes.max(initial=-1) >= count:
      raise UserError(f'{example["image_id"]}: a box is of class {classes.max()}; expected 0 to '
                      f'{count - 1}.')
    beyond = max(0, int(real.sum()) - self._max_boxes)
    return np.concatenate([np.bincount(classes[real & ~example['crowd']], minlength=count),
                           [beyond, beyond > 0]])

  def is_complete(self, total: np.ndarray) -> bool:
    """Whether every class was seen."""
    return bool(total[:-2].all())

  def check_evaluation(self, total: np.ndarray, split: str) -> None:
    """UserError if there is no box; a class without one, and too many boxes, are warnings."""
    if not total[:-2].any():
      raise UserError(f'{split}: none of its images has a box that counts, so that nothing can be '
                      'evaluated. See python -m kdseg_jax.data.check.')
    if total[-1]:
      logging.warning('%s: %s, and what is found of these counts as wrong: AP is too low. Set '
                      'config.task.max_boxes to more.', split, self._too_many(total))
    if not total[:-2].all():
      logging.warning('%s has no box of %s: metrics are of the other classes alone.', split,
                      self._absent(total))

  def check_training(self, total: np.ndarray, split: str, *, read: int, length: int,
                     evaluated: np.ndarray | None, has_teacher: bool) -> None:
    """UserError if there is no box; a class without one, and too many boxes, are warnings.

    With a teacher, whose scores can be learned from, the former is a warning too.
    """
    if total[-1]:
      where = split if read == length else f'{split} ({read} of its {length} images were read)'
      logging.warning('%s: %s, and are not learned. Set config.task.max_boxes to more.', where,
                      self._too_many(total))
    if total[:-2].all():
      return
    if read == length and not total[:-2].any():
      message = (f'{split}: none of its {length} images has a box that counts, so that nothing can '
                 'be learned from them.')
      if not has_teacher:
        raise UserError(message)
      logging.warning('%s', message)
    else:
      where = 'has no box' if read == length else f'has, in {read} of its {length} images, no box'
      logging.warning('%s %s of %s: it cannot be learned.', split, where, self._absent(total))

  def _too_many(self, total):
    beyond, images = total[-2:]
    return f'{images} images have more than {self._max_boxes} boxes: {beyond} are left out'

  def _absent(self, total):
    """The classes without a box, in words."""
    names = [name for name, count in zip(self._classes, total) if not count]
    more = len(names) - _MOST_NAMED
    return ', '.join(names[:_MOST_NAMED]) + (f' and {more} more' if more > 0 else '')
