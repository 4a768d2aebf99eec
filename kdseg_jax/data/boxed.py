"""Images with boxes: what stands in annotations, what is wrong with it, a source of examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from kdseg_jax.data import files, metadata, pairs, palettes
from kdseg_jax.errors import NotFoundError, UserError

NO_CLASS = -1  # of padding
_LARGEST = float(np.finfo(np.float32).max)
_MOST_OUTSIDE = 1.0  # pixels that a box may lie outside, as rounding gives them; cut off

Size = tuple[int, int]


class Box(NamedTuple):
  """An object as its file has it.

  Attributes:
    place: of it, for errors: the file, and its line or number there.
    label: index of its class.
    corners: x1 y1 x2 y2 in pixels; x2, y2 is the end, of the last pixel.
    crowd: whether it is a crowd, or else neither to be learned nor to be counted.
    area: of the object in pixels; None is that of the box.
  """

  place: str
  label: int
  corners: tuple[float, float, float, float]
  crowd: bool = False
  area: float | None = None


class Annotated(NamedTuple):
  """An image file and its boxes, all of which have an area and lie in the image.

  Attributes:
    image: the file, or its name.
    image_id: its name.
    size: (height, width) for which it was annotated.
    boxes: `(M, 4)` float32, x1 y1 x2 y2.
    classes: `(M,)` int32.
    crowd: `(M,)` bool.
    area: `(M,)` float32.
    place: of the annotation, for errors.
  """

  image: Any
  image_id: str
  size: Size
  boxes: np.ndarray
  classes: np.ndarray
  crowd: np.ndarray
  area: np.ndarray
  place: str


class Found(NamedTuple):
  """The images of a split; a line for each box without an area, and for each problem."""

  images: list[Annotated]
  degenerate: list[str]
  problems: list[str]

  @classmethod
  def of(cls, images: list[Annotated], degenerate: list[str], problems: list[str]) -> Found:
    """With a problem more where the boxes of the whole split are no pixels."""
    return cls(images, degenerate, problems + _shares(images))


class BoxSource:
  """Examples of annotated images.

  `source[i]` is a dict of
    image: `(H, W, 3)` uint8 RGB.
    boxes: `(M, 4)` float32, x1 y1 x2 y2 in pixels of `image`, M as many as there are.
    classes: `(M,)` int32.
    crowd: `(M,)` bool: a crowd, or an object that is hard to tell: neither learned nor counted.
    area: `(M,)` float32, of the objects in pixels of the file's image, as AP groups them.
    scale: `(2,)` float32, `image` over the file's image in x and y: `boxes / [*scale, *scale]` are
      the boxes there.
    image_id: str.

  Args:
    found: of the split.
    classes: names in label order.
    where: the split, for errors and logs.
    size: (height, width) to which images are resized, whatever their shape; None keeps their own.
      `Fitted` keeps their shape.

  Raises:
    UserError: there are problems, such as boxes in shares of their images; on reading, a damaged
      file, one of another size than it was annotated for, or an EXIF orientation.
    NotFoundError: there is no image.
  """

  def __init__(self, found: Found, *, classes: Sequence[str], where: str,
               size: Size | None = None):
    pairs.require_none(found.problems)
    if not found.images:
      raise NotFoundError(f'{where}: holds no image.')
    self._images = found.images
    self.classes, self.palette = tuple(classes), palette(len(classes))
    self.size = tuple(size) if size else None
    self.degenerate = len(found.degenerate)
    if found.degenerate:
      logging.warning('%s: %d boxes have no area and are left out; the first: %s', where,
                      self.degenerate, found.degenerate[0])
    logging.info('%s: %d images, %d boxes, %d of them crowds or difficult.', where,
                 len(self._images), *(sum(int(count(one.crowd)) for one in self._images)
                                      for count in (np.size, np.count_nonzero)))

  def __len__(self) -> int:
    return len(self._images)

  def size_of(self, index: int) -> Size:
    """(height, width) of an example, without reading it."""
    return self.size or self._images[index].size

  def __getitem__(self, index: int) -> dict[str, Any]:
    pairs.check_index(index, len(self))
    one = self._images[index]
    image = read_image(one, files.read_bytes(one.image))
    return example(image, {name: getattr(one, name) for name in ('boxes', 'classes', 'crowd',
                                                                 'area')}, one.image_id, self.size)


def palette(count: int) -> np.ndarray:
  """`(count, 3)` uint8, the colours of classes; above 255 they come again."""
  return np.resize(palettes.default_palette(min(count, files.IGNORE_LABEL)), (count, 3))


def example(image: np.ndarray, arrays: dict[str, np.ndarray], image_id: str,
            size: Size | None) -> dict[str, Any]:
  """An example, see `BoxSource`, resized to (height, width) unless it is None."""
  scale = np.ones(2, np.float32)
  if size and image.shape[:2] != size:
    scale = np.array([size[1] / image.shape[1], size[0] / image.shape[0]], np.float32)
    image = files.resize_image(image, size)
  return {'image': image, **arrays, 'boxes': arrays['boxes'] * np.tile(scale, 2), 'scale': scale,
          'image_id': image_id}


def read_image(one: Annotated, content: bytes) -> np.ndarray:
  """The pixels of an image from its file's content; UserError unless they are as annotated."""
  image = files.decode_image(content, one.image)
  # Which view was annotated, its size tells where EXIF data swap unequal sides.
  swapped = metadata.strip(content).orientation > 4 and one.size[0] != one.size[1]
  if not swapped:
    files.check_upright(content, one.image, f'annotation {one.place}')
  if image.shape[:2] != one.size:
    raise UserError(f'{one.place}: was made for an image of {one.size} (height, width), but '
                    f'{one.image} is {image.shape[:2]}; expected the same size.')
  return image


def gather(boxes: Iterable[Box], size: Size) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
  """The boxes of an image as arrays, and a line for each that has no area, or cannot be right.

  Up to one pixel outside the image is cut off, as rounding gives it.

  Args:
    boxes: of an image.
    size: its (height, width).

  Returns:
    `boxes`, `classes`, `crowd` and `area`; lines of boxes without an area; problems.
  """
  kept, degenerate, problems = [], [], []
  end = np.array([size[1], size[0]] * 2, np.float64)
  for box in boxes:
    corners = np.array(box.corners, np.float64)
    inside = np.clip(corners, 0, end)
    if not (np.abs([*corners, box.area or 0]) <= _LARGEST).all():  # neither is NaN
      problems.append(f'{box.place}: holds a number that is not finite, or too large.')
    elif (corners[2:] <= corners[:2]).any():
      degenerate.append(f'{box.place}: x {corners[0]:g} to {corners[2]:g}, y {corners[1]:g} to '
                        f'{corners[3]:g}.')
    elif np.abs(inside - corners).max() > _MOST_OUTSIDE:
      problems.append(
          f'{box.place}: the box reaches from ({corners[0]:g}, {corners[1]:g}) to '
          f'({corners[2]:g}, {corners[3]:g}), outside its image of {size[1]}x{size[0]} (width x '
          'height). Correct it, or take it out.')
    elif (inside[2:] <= inside[:2]).any():
      degenerate.append(f'{box.place}: only the rim of the image is in it.')
    else:
      area = (inside[2:] - inside[:2]).prod() if box.area is None else box.area
      kept.append((inside, box.label, box.crowd, area))
  corners, labels, crowd, area = zip(*kept) if kept else ((),) * 4
  return {'boxes': np.array(corners, np.float32).reshape(-1, 4),
          'classes': np.array(labels, np.int32), 'crowd': np.array(crowd, bool),
          'area': np.array(area, np.float32)}, degenerate, problems


def _shares(images):
  """A line if no box of a split starts beyond the first pixel or is larger than one."""
  boxes = np.concatenate([np.zeros((0, 4)), *(one.boxes for one in images)])
  # YOLO's centres, taken for corners, end beyond 1; rounding may end there too.
  if not len(boxes) or boxes[:, :2].max() > 1 or (boxes[:, 2:] - boxes[:, :2]).max() > 1 + 1e-6:
    return []
  first = next(one for one in images if len(one.boxes))
  return [f'{first.place}: its coordinates, and those of all {len(boxes)} boxes of the split, look '
          'like shares of the image, 0 to 1; expected pixels. Multiply x by the width of each '
          'image and y by its height.']


def corner_fields(fields: Mapping[str, Any]) -> list[str]:
  """The names of the fields that are boxes, `(M, 4)`; see `tasks.Field`."""
  return [name for name, field in fields.items()
          if field.geometry == 'boxes' and len(field.shape((1, 1))) == 2]


def _warn_of_learned(*numbers):
  logging.log_first_n(
      logging.WARNING, 'An image has %d boxes, and config.task.max_boxes is %d: %d are left out '
      'and not learned, as of other such images.', 1, *numbers)


def _warn_of_evaluated(*numbers):
  logging.log_first_n(
      logging.WARNING, 'An image has %d boxes, and config.task.max_boxes is %d: %d are left out, '
      'and where they are found that counts as wrong, as of other such images: AP is too low. Set '
      'it to more.', 1, *numbers)


def fill(example: Mapping[str, Any], fields: Mapping[str, Any], *, evaluated: bool = False
         ) -> dict[str, Any]:
  """An example with as many boxes as its fields hold, filled up with their padding.

  Boxes without an area are left out, and what is too many with a warning: first what is not
  learned, crowds and difficult objects, then others, the last ones first.

  Args:
    example: what a source gives.
    fields: of the task.
    evaluated: whether a model is evaluated on it, which the warning then speaks of.
  """
  corners = corner_fields(fields)
  if not corners:
    return dict(example)
  boxes = example[corners[0]]
  rows = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
  most = fields[corners[0]].shape(example['image'].shape[:2])[0]
  if len(rows) > most:
    # Each is said once.
    warn = _warn_of_evaluated if evaluated else _warn_of_learned
    warn(len(rows), most, len(rows) - most)
    crowd = example.get('crowd', np.zeros(len(boxes), bool))
    rows = np.sort(rows[np.argsort(crowd[rows], kind='stable')[:most]])
  filled = dict(example)
  for name, field in fields.items():
    if field.geometry == 'boxes':
      shape = field.shape(example['image'].shape[:2])
      filled[name] = np.full(shape, field.padding, field.dtype)
      filled[name][:len(rows)] = example[name][rows]
  return filled
