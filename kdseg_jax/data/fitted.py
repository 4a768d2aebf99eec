"""Images of any size on one canvas, their shape kept, and boxes back on the image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdseg_jax.data import files, pairs
from kdseg_jax.errors import UserError

Size = tuple[int, int]


def is_upright(size: Size) -> bool:
  """Whether an image of (height, width) is higher than wide."""
  return size[0] > size[1]


def turned(canvas: Size, *, like: Size) -> Size:
  """(height, width) of a canvas for an image of a size: its sides change places if it is upright.

  A canvas is written for images that are not, wider than high or square.
  """
  return canvas[::-1] if is_upright(like) else canvas


def fitted_size(size: Size, canvas: Size | None, sides: Size | None = None) -> Size:
  """(height, width) of an image, its shape kept, that is as large as it may be.

  Args:
    size: (height, width) of the image.
    canvas: (height, width) in which it must lie; None leaves it to `sides`.
    sides: what its shorter and its longer side may be at most, e.g. (800, 1333), as is usual on
      COCO; None leaves them to the canvas.
  """
  factors = [total / side for total, side in zip(canvas, size, strict=True)] if canvas else []
  if sides:
    factors += [sides[0] / min(size), sides[1] / max(size)]
  factor = min(factors)
  most = canvas or (math.inf, math.inf)
  return tuple(max(1, min(math.floor(side * factor + 0.5), total))
               for side, total in zip(size, most, strict=True))


def resize(example: Mapping[str, Any], size: Size, boxes: Sequence[str] = ('boxes',)
           ) -> dict[str, Any]:
  """An example with its image at a size, by area when shrinking, else bilinear, and its boxes.

  Args:
    example: `image` `(H, W, 3)`, and what `scaled_boxes` takes.
    size: (height, width).
    boxes: see `scaled_boxes`.
  """
  if example['image'].shape[:2] == tuple(size):
    return dict(example)
  return dict(example) | scaled_boxes(example, size, boxes) | {
      'image': files.resize_image(example['image'], size)}


def scaled_boxes(example: Mapping[str, Any], size: Size, boxes: Sequence[str] = ('boxes',)
                 ) -> dict[str, np.ndarray]:
  """The boxes, and the `scale` where it has one, of an example whose image gets another size.

  Args:
    example: `image` as it is, the boxes, and where it has it `scale` `(2,)`, the image over the
      file's in x and y, which is multiplied.
    size: (height, width) that the image gets.
    boxes: the names of what is moved as boxes are, `(M, 4)`.
  """
  height, width = example['image'].shape[:2]
  factors = np.array([size[1] / width, size[0] / height], np.float32)
  scale = {'scale': example['scale'] * factors} if 'scale' in example else {}
  return scale | {name: example[name] * np.tile(factors, 2) for name in boxes}


class Fitted:
  """The examples of a source of boxes at one size: resized with their shape kept, then padded.

  Padding is 0, at the bottom and right, where the `mask` that is added is False. Of all images a
  model is compiled once. `boxes / [*scale, *scale]` are boxes on the file's image.

  Args:
    source: of images with boxes, see `boxed.BoxSource`.
    canvas: (height, width), a multiple of the model's largest stride, usually 32; None pads
      nothing, and images keep the sizes that `sides` gives them.
    sides: see `fitted_size`.
    by_orientation: whether the canvas is `turned` for upright images: there are two sizes.

  Raises:
    UserError: a size is not positive, or there is none; `by_orientation` without a canvas.
  """

  def __init__(self, source: Any, canvas: Size | None, sides: Size | None = None, *,
               by_orientation: bool = False):
    check_sizes(canvas, sides)
    if by_orientation and canvas is None:
      raise UserError('by_orientation turns a canvas, and there is none.')
    self._source, self._canvas = source, tuple(canvas) if canvas else None
    self.size = None if by_orientation else self._canvas
    self._sides, self._by_orientation = tuple(sides) if sides else None, by_orientation
    self.classes, self.palette = source.classes, source.palette
    self.is_generated = getattr(source, 'is_generated', False)
    self.pairs = getattr(source, 'pairs', ())

  def __len__(self) -> int:
    return len(self._source)

  @property
  def size_of(self) -> Any:
    """Function of an index, the (height, width) of that example; None where it is not known."""
    size_of = getattr(self._source, 'size_of', None)
    if size_of is None:
      return None

    def fitted_to(index):
      size = size_of(index)
      return self._canvas_of(size) or fitted_size(size, None, self._sides)
    return fitted_to

  def _canvas_of(self, size):
    """The canvas of an image of a size, or None."""
    return turned(self._canvas, like=size) if self._by_orientation else self._canvas

  def __getitem__(self, index: int) -> dict[str, Any]:
    pairs.check_index(index, len(self))
    example = self._source[index]
    if 'boxes' not in example:
      raise UserError(f'config.eval.canvas={self._canvas or ()} and sides={self._sides or ()} are '
                      f'for images with boxes, and example {index} has none. Leave both ().')
    size = example['image'].shape[:2]
    canvas = self._canvas_of(size)
    example = resize(example, fitted_size(size, canvas, self._sides))
    image, mask = on_canvas(example['image'], canvas or example['image'].shape[:2])
    return example | {'image': image, 'mask': mask}


def on_canvas(image: np.ndarray, canvas: Size) -> tuple[np.ndarray, np.ndarray]:
  """An image padded at the bottom and right to a size, and its mask, False there."""
  height, width = image.shape[:2]
  padded, mask = np.zeros((*canvas, 3), np.uint8), np.zeros(canvas, bool)
  padded[:height, :width], mask[:height, :width] = image, True
  return padded, mask


def check_sizes(canvas: Size | None, sides: Size | None) -> None:
  """Raises UserError unless both are two positive numbers, or one of them is None."""
  if canvas is None and sides is None:
    raise UserError('Neither a canvas nor sides say how large images are to be.')
  if canvas is not None and (len(canvas) != 2 or min(canvas) < 1):
    raise UserError(f'The size {tuple(canvas)} is no (height, width) of positive numbers.')
  if sides is not None and not (len(sides) == 2 and 0 < sides[0] <= sides[1]):
    raise UserError(f'{tuple(sides)}: expected (shorter side, longer side), both positive.')
