"""Masks from COCO's segmentations: polygons, and runs of pixels as lists or compressed text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdseg_jax.errors import UserError


def mask(segmentation: Any, size: tuple[int, int], name: object) -> np.ndarray:
  """`(H, W)` bool, True in the object.

  A pixel is in a polygon where its centre is, by the even-odd rule; an object of several polygons
  is their union. pycocotools, whose polygons follow the border in steps of a fifth of a pixel,
  differs in some pixels of it (0.8% of spiky random polygons); runs are equal.

  Args:
    segmentation: polygons `[[x1, y1, x2, y2, ...], ...]`, or runs `{'counts': numbers or text}`.
    size: (height, width) of the image.
    name: whose it is, for errors.

  Raises:
    ValueError: it is neither, a polygon has fewer than three points, or the runs do not fill the
      image.
  """
  if isinstance(segmentation, Mapping) and 'counts' in segmentation:
    return _runs(segmentation['counts'], size, name)
  if not isinstance(segmentation, Sequence) or isinstance(segmentation, str):
    raise UserError(f'{name}: its segmentation is neither a list of polygons nor runs of pixels '
                    "(an object with 'counts').")
  found = np.zeros(size, bool)
  for polygon in segmentation:
    found |= _polygon(_points(polygon, name), size)
  return found


def decompress(text: str) -> list[int]:
  """The numbers in the text form of runs.

  Each is written in groups of 5 bits, the lowest first, one character a group: its code less 48, of
  which 32 says that more follow; the last group's highest bit is the sign. From the fourth number
  on the difference to the one before the last is written.

  >>> decompress('52203')
  [5, 2, 2, 2, 5]
  """
  numbers: list[int] = []
  value = bits = 0
  for character in text:
    code = ord(character) - 48
    value |= (code & 31) << bits
    bits += 5
    if code & 32:
      continue
    if code & 16:
      value -= 1 << bits
    numbers.append(value + numbers[-2] if len(numbers) > 2 else value)
    value = bits = 0
  return numbers


def _runs(counts, size, name):
  """Runs of pixels outside and inside by turns, column after column."""
  if isinstance(counts, str):
    counts = decompress(counts)
  pixels = size[0] * size[1]
  lengths = np.asarray(counts, np.int64) if isinstance(counts, Sequence) and all(
      isinstance(n, int) and 0 <= n <= pixels for n in counts) else None
  if lengths is None or lengths.sum() != pixels:
    raise UserError(f'{name}: its runs of pixels do not fill the {size[0]}x{size[1]} (height x '
                    'width) of its image.')
  inside = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
  return inside.reshape(size, order='F')


def _points(polygon, name):
  """`(n, 2)` of x and y."""
  try:
    points = np.asarray(polygon, np.float64).reshape(-1, 2)
  except (TypeError, ValueError, OverflowError):
    points = np.zeros((0, 2))
  if len(points) < 3 or not np.isfinite(points).all():
    raise UserError(f'{name}: one of its polygons is no list of three or more points, '
                    '[x1, y1, x2, y2, x3, y3, ...].')
  return points


def _polygon(points, size):
  height, width = size
  (x, y), (next_x, next_y) = points.T, np.roll(points, -1, axis=0).T
  centres = np.arange(height) + 0.5
  above, next_above = y <= centres[:, None], next_y <= centres[:, None]
  row, edge = np.nonzero(above != next_above)
  share = (centres[row] - y[edge]) / (next_y - y)[edge]
  crossing = x[edge] + share * (next_x - x)[edge]
  # From the first pixel whose centre the border has passed, inside and outside change places.
  column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(int)
  changes = np.zeros((height, width + 1), bool)
  np.logical_xor.at(changes, (row, column), True)
  return np.logical_xor.accumulate(changes, axis=1)[:, :width]
