"""Checkpoints that hold a student inside the model that distilled it.

The official code of knowledge review saves `student.<key>` beside its fusion `abfs.<i>.<key>`;
mdistiller's distillers have a `student.` too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

_STUDENT, _REVIEW = 'student.', 'abfs.'


class Distilled(NamedTuple):
  """The parts of a state dict.

  Attributes:
    student: arrays of the model that is used, under its own names.
    others: keys of what taught it and is of no use afterwards.
    by_review: whether it is of the official code of knowledge review.
  """

  student: Mapping[str, np.ndarray]
  others: tuple[str, ...] = ()
  by_review: bool = False


def parts(state_dict: Mapping[str, np.ndarray]) -> Distilled:
  """Takes a student out of the model around it; a state dict without one is all of the student."""
  student = {key.removeprefix(_STUDENT): array for key, array in state_dict.items()
             if key.startswith(_STUDENT)}
  if not student:
    return Distilled(state_dict)
  others = tuple(key for key in state_dict if not key.startswith(_STUDENT))
  return Distilled(student, others, any(key.startswith(_REVIEW) for key in others))
