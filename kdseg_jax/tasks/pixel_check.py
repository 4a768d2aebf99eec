"""Looks at the labels of pixels before a run: what it is to learn, and is evaluated on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from absl import logging

from kdseg_jax.data import files
from kdseg_jax.errors import UserError
from kdseg_jax.tasks.base import DataCheck

_ADVICE = ('See python -m kdseg_jax.data.check; masks saved as 0 and 255 need "labels: 255=1" in '
           'classes.txt.')


class PixelCheck(DataCheck):
  """Counts the pixels of each class.

  Args:
    classes: their names.
  """

  def __init__(self, classes: Iterable[str]):
    self._classes = tuple(classes)

  def tally(self, example: Mapping[str, Any]) -> np.ndarray:
    """`(256,)` int64, how many pixels of the label have each value; 255 = ignore."""
    return np.bincount(example['label'].ravel(), minlength=256)

  def is_complete(self, total: np.ndarray) -> bool:
    """Whether every class was seen."""
    return bool(total[:len(self._classes)].all())

  def check_evaluation(self, total: np.ndarray, split: str) -> None:
    """UserError if no pixel is labelled; a class without a pixel is a warning."""
    if not total[:files.IGNORE_LABEL].any():
      raise UserError(f'{split}: no pixel of its labels is of a class, all are ignored '
                      f'({files.IGNORE_LABEL}), so that nothing can be evaluated. {_ADVICE}')
    absent = self._absent(total)
    if absent:
      logging.warning('%s has no pixel of %s: metrics are of the other classes alone.', split,
                      absent)

  def check_training(self, total: np.ndarray, split: str, *, read: int, length: int,
                     evaluated: np.ndarray | None, has_teacher: bool) -> None:
    """UserError if pixels are of one class or none; a class without a pixel is a warning.

    With a teacher, whose scores can be learned from, the former is a warning too.
    """
    absent = self._absent(total)
    if not absent:
      return
    present = np.flatnonzero(total[:files.IGNORE_LABEL])
    # Where not all were read, the evaluation split has to say the same.
    if len(present) < 2 and (read == length or evaluated is not None and not np.delete(
        evaluated[:files.IGNORE_LABEL], present).any()):
      what = 'no pixel of its labels is of a class, all are ignored' if not len(present) else (
          f'all labelled pixels are of one class, {self._classes[present[0]]}')
      message = f'{split}: {what}, so that nothing can be learned from them. {_ADVICE}'
      if not has_teacher:
        raise UserError(message)
      logging.warning('%s', message)
    else:
      where = 'has no pixel' if read == length else (
          f'has, in {read} of its {length} labels, no pixel')
      logging.warning('%s %s of %s: it cannot be learned. See python -m kdseg_jax.data.check.',
                      split, where, absent)

  def _absent(self, total):
    """The classes without a pixel, in words."""
    names = [name for name, count in zip(self._classes, total[:files.IGNORE_LABEL]) if not count]
    return ', '.join(names[:10]) + (f' and {len(names) - 10} more' if len(names) > 10 else '')
