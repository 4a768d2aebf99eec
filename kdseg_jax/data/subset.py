"""A part of a source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdseg_jax.errors import UserError


class Subset:
  """Some examples of a source, in the order of their indices; a source again."""

  def __init__(self, source: Any, indices: Sequence[int]):
    self._source, self._indices = source, indices

  @property
  def classes(self) -> Sequence[str]:
    """Of the source."""
    return self._source.classes

  @property
  def palette(self) -> Any:
    """Of the source."""
    return self._source.palette

  @property
  def size(self) -> Any:
    """Of the source: (height, width) of every example; None if they differ, or are not known."""
    return getattr(self._source, 'size', None)

  @property
  def is_generated(self) -> bool:
    """Of the source: whether no file of the user's is read."""
    return getattr(self._source, 'is_generated', False)

  @property
  def size_of(self) -> Any:
    """Of the source: function of an index, the (height, width) of that example; None without."""
    size_of = getattr(self._source, 'size_of', None)
    return size_of and (lambda index: size_of(self._indices[index]))

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self._source[self._indices[index]]


def first(source: Any, limit: int) -> Any:
  """The first `limit` examples of a source; the source itself for 0, or if it has no more."""
  return Subset(source, range(limit)) if 0 < limit < len(source) else source


def spread(source: Any, limit: int) -> Any:
  """`limit` examples at even distances, so that a video's frames differ; else as `first`."""
  if not 0 < limit < len(source):
    return source
  return Subset(source, _spread_indices(source, limit))


def rest(source: Any, limit: int) -> Any:
  """What `spread` leaves out, in order.

  Raises:
    UserError: it leaves nothing out.
  """
  if not 0 < limit < len(source):
    raise UserError(
        f'config.data.unlabelled=rest: no example of the {len(source)} of the training split is '
        f'left over; set config.data.train_limit (now {limit}) to less than that.')
  taken = set(_spread_indices(source, limit))
  return Subset(source, [i for i in range(len(source)) if i not in taken])


def _spread_indices(source, limit):
  return [i * len(source) // limit for i in range(limit)]
