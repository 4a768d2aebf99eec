"""The endless stream of a source's examples, from which batches are cut one after the other."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np

from kdseg_jax.data import fitted
from kdseg_jax.data.subset import Subset
from kdseg_jax.errors import UserError


def shuffled(source: Any, *, batch_size: int, seed: int, by_orientation: bool = False,
             num_threads: int = 1) -> grain.MapDataset:
  """The stream, in which example kB + i is number i of batch k; shuffled anew in each epoch.

  A source of two with a share (`data.Concatenated`) is shuffled part by part: `round(share * B)`
  examples of every batch, spread evenly over it, come from the second, the others from the first.

  Args:
    source: of examples.
    batch_size: B.
    seed: 0 to 2**32 - 1.
    by_orientation: a batch holds upright images, higher than wide, or others. Each kind is shuffled
      by itself, and has its share of the batches, spread evenly.
    num_threads: that ask for the sizes of images.

  Raises:
    UserError: `by_orientation` of a source with a share, or of one that has no `size_of`.
  """
  if by_orientation:
    parts = _by_orientation(source, batch_size, is_upright(source, num_threads))
  elif getattr(source, 'share', None) is None:
    return _endless(source, seed)
  else:
    parts = _mixture(source, batch_size)
  return grain.MapDataset.source(_Joined(*parts, batch_size=batch_size, seed=seed)).seed(seed)


def unlabelled_places(share: float, batch_size: int) -> np.ndarray:
  """Which examples of a batch are of the second source, bool `(batch_size,)`.

  `round(share * batch_size)` of them, so placed that each contiguous part of a batch, and so each
  device, has about as many.

  Raises:
    UserError: that leaves none of one source.
  """
  second = round(share * batch_size)
  if not 0 < second < batch_size:
    raise UserError(
        f'config.data.unlabelled_share={share} of batches of {batch_size} examples leaves '
        f'{second} unlabelled and {batch_size - second} labelled; expected one of each at least.')
  return np.diff(np.arange(batch_size + 1) * second // batch_size).astype(bool)


def is_upright(source: Any, num_threads: int = 1) -> np.ndarray:
  """`(N,)` bool, whether each image of a source is higher than wide.

  Raises:
    UserError: its sizes are not known before images are read.
  """
  require_sizes(source)
  with concurrent.futures.ThreadPoolExecutor(max(1, num_threads)) as pool:
    return np.array([fitted.is_upright(size)
                     for size in pool.map(source.size_of, range(len(source)))], bool)


def require_sizes(source: Any) -> None:
  """Raises UserError unless a source knows the sizes of its images before they are read."""
  if getattr(source, 'size_of', None) is None:
    raise UserError(
        'config.data.by_orientation=True: this source does not tell the sizes of its images before '
        'they are read (size_of), as those of coco and voc_boxes do. Leave it False.')


class _Joined:
  """Sources of which each is shuffled by itself, joined to one whose examples come in batches.

  Args:
    sources: of examples.
    locate: `(batch, place in it) -> (source, number in its stream)`.
    batch_size: of the batches.
    seed: of all.
  """

  def __init__(self, sources: Sequence[Any], locate: Callable[[int, int], tuple[int, int]], *,
               batch_size: int, seed: int):
    self._locate, self._batch_size = locate, batch_size
    # Seeds of their own: equal ones would shuffle sources of one length alike.
    self._streams = [_endless(source, seed + i) for i, source in enumerate(sources)]

  def __len__(self) -> int:
    return min(map(len, self._streams))

  def __getitem__(self, index: int) -> Any:
    part, number = self._locate(*divmod(int(index), self._batch_size))
    return self._streams[part][number]


def _mixture(source, batch_size):
  """Two sources, and where the examples are of batches with a share of the second."""
  is_second = unlabelled_places(source.share, batch_size)
  before = np.cumsum(is_second) - is_second  # of the second, before each example
  rank = np.where(is_second, before, np.arange(batch_size) - before)
  second = int(is_second.sum())
  counts = batch_size - second, second

  def locate(batch, place):
    part = int(is_second[place])
    return part, batch * counts[part] + int(rank[place])
  return (source.first, source.second), locate


def _by_orientation(source, batch_size, upright):
  """The images of each orientation, and where the examples are of batches of one."""
  kinds = [kind for kind in (False, True) if (upright == kind).any()]
  last, total = int((upright == kinds[-1]).sum()), len(upright)

  def locate(batch, place):
    before, after = (number * last // total for number in (batch, batch + 1))  # batches of the last
    part, rank = (len(kinds) - 1, before) if after > before else (0, batch - before)
    return part, rank * batch_size + place
  return [Subset(source, np.flatnonzero(upright == kind).tolist()) for kind in kinds], locate


def _endless(source, seed):
  return grain.MapDataset.source(source).seed(seed).shuffle().repeat()
