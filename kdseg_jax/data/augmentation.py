"""Random scale, border, crop and mirror image of an image together with its labels or boxes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np

from kdseg_jax.data import boxed, files, fitted
from kdseg_jax.errors import UserError

Example = dict[str, Any]
_ASPECT = (3 / 4, 4 / 3)  # of the windows of `resized_crop`, width over height
_TRIES = 10
_MOST_CHANNELS = 128  # that OpenCV 5 takes; OpenCV 4 takes more
Operation = Callable[[Example, np.random.Generator, 'Augmentation'], Example]


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Resizes, scales, adds a border, crops and mirrors, at random: `OPERATIONS`, in this order.

  Called with `(example, rng)`; returns `image` `(h, w, 3)` uint8 (0 in the padding), `mask`
  `(h, w)` bool (False in the padding) and the fields, moved by their geometry (their own value in
  the padding). What is smaller than the crop is padded at the bottom and right. Boxes are cut at
  the rim of the crop, and those of which nothing is left go; with boxes the mirror image is that of
  the image alone, so that padding stays at the bottom and right. Other entries of the example are
  left out: they need not be true of the crop.

  Attributes:
    crop: (height, width) of the result.
    by_orientation: whether the crop is turned, to (width, height), for images higher than wide.
    scale: lowest and highest factor of the size, drawn evenly; None keeps the size. Bilinear for
      the image, nearest pixel for a map.
    flip: probability of the mirror image.
    pad: pixels of a black border on each side, before the crop; they count as the image's (its mask
      is True), as in the usual augmentation of CIFAR, 4 pixels.
    fields: what an example holds beside the image, see `tasks.Field`.
    resize: (shorter side, longer side) to which the image is resized at most, its shape kept, so
      that it lies in the crop, see `fitted.fitted_size`: (800, 1333) is usual on COCO. Of several
      one is drawn for each image; None keeps the size.
    resized_crop: lowest and highest share of the image's area of a window of random shape, width
      over height 3/4 to 4/3, that is resized to `crop` (the usual augmentation of ImageNet; Szegedy
      et al., CVPR 2015; draws as torchvision's `RandomResizedCrop`); None takes none.

  Raises:
    ValueError: an attribute is out of range, or there are both `scale` and `resized_crop`.
  """
  crop: tuple[int, int]
  scale: tuple[float, float] | None = (0.5, 2.0)
  flip: float = 0.5
  pad: int = 0
  resized_crop: tuple[float, float] | None = None
  resize: tuple[tuple[int, int], ...] | None = None
  by_orientation: bool = False
  fields: Mapping[str, Any] = dataclasses.field(kw_only=True)

  def __post_init__(self):
    if len(self.crop) != 2 or min(self.crop) < 1:
      raise UserError(f'crop={self.crop}: expected (height, width), both positive.')
    if self.scale is not None and not (
        len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1]):
      raise UserError(f'scale={self.scale}: expected (lowest, highest) factor above 0, or None.')
    if not 0 <= self.flip <= 1:
      raise UserError(f'flip={self.flip}: expected a probability, 0 to 1.')
    if self.pad < 0:
      raise UserError(f'pad={self.pad}: expected a number of pixels, 0 or more.')
    for sides in self.resize or ():
      fitted.check_sizes(self.crop, sides)
    if self.resized_crop is not None:
      low, high = self.resized_crop
      if not 0 < low <= high <= 1:
        raise UserError(f'resized_crop={self.resized_crop}: expected the lowest and the highest '
                        'share of the area, above 0 and up to 1, or None.')
      if self.scale is not None:
        raise UserError(f'scale={self.scale} and resized_crop={self.resized_crop} both choose a '
                        'size; set one of them to ().')

  def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> Example:
    example = {name: example[name] for name in ('image', *self.fields)}
    options = self
    if self.by_orientation:
      options = dataclasses.replace(
          self, crop=fitted.turned(self.crop, like=example['image'].shape[:2]))
    for operation in OPERATIONS.values():
      example = operation(example, rng, options)
    return example

  @property
  def maps(self) -> dict[str, Any]:
    """The fields that move as the pixels do."""
    return {name: field for name, field in self.fields.items() if field.geometry == 'map'}

  @property
  def boxes(self) -> list[str]:
    """The fields that are boxes, `(M, 4)`."""
    return boxed.corner_fields(self.fields)


def _resize(example, rng, options):
  """As large as it may be."""
  if not options.resize:
    return example
  size = fitted.fitted_size(example['image'].shape[:2], options.crop,
                            options.resize[rng.integers(len(options.resize))])
  return fitted.resize(example, size, options.boxes) | {
      name: files.resize_label(example[name], size) for name in options.maps}


def _scale(example, rng, options):
  """Another size."""
  if options.scale is None:
    return example
  factor = rng.uniform(*options.scale)
  image = example['image']
  size = tuple(max(1, round(side * factor)) for side in image.shape[:2])
  return example | fitted.scaled_boxes(example, size, options.boxes) | {
      'image': cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)} | {
          name: files.resize_label(example[name], size) for name in options.maps}


def _resized_crop(example, rng, options):
  """A window of random area and shape at the size of the crop."""
  if options.resized_crop is None:
    return example
  window = _window(example['image'].shape[:2], rng, options.resized_crop)
  cut = example | {'image': example['image'][window]} | _moved(
      example, options, -(window[0].start or 0), -(window[1].start or 0))
  return fitted.resize(cut, options.crop, options.boxes) | {
      name: files.resize_label(example[name][window], options.crop) for name in options.maps}


def _window(size, rng, shares):
  """The first of ten that fits into the image; else its centre of the nearest shape."""
  for _ in range(_TRIES):
    area = rng.uniform(*shares) * math.prod(size)
    aspect = math.exp(rng.uniform(*map(math.log, _ASPECT)))
    sides = max(1, round(math.sqrt(area / aspect))), max(1, round(math.sqrt(area * aspect)))
    if all(side <= total for side, total in zip(sides, size, strict=True)):
      starts = [rng.integers(total - side + 1) for side, total in zip(sides, size, strict=True)]
      return tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))
  height, width = size
  aspect = min(max(width / height, _ASPECT[0]), _ASPECT[1])
  sides = min(height, round(width / aspect)), min(width, round(height * aspect))
  return tuple(slice((total - side) // 2, (total - side) // 2 + side)
               for side, total in zip(sides, size, strict=True))


def _pad(example, rng, options):
  """A border on all sides."""
  del rng
  if not options.pad:
    return example
  values = {'image': 0} | {name: field.padding for name, field in options.maps.items()}
  widths = [(options.pad, options.pad)] * 2
  return example | _moved(example, options, options.pad, options.pad) | {
      name: np.pad(example[name], widths + [(0, 0)] * (example[name].ndim - 2),
                   constant_values=value) for name, value in values.items()}


def _crop(example, rng, options):
  """A window, padded at the bottom and right where the image is smaller; adds the mask."""
  height, width = options.crop
  image = example['image']
  top = rng.integers(max(image.shape[0] - height, 0) + 1)
  left = rng.integers(max(image.shape[1] - width, 0) + 1)
  window = (slice(top, top + height), slice(left, left + width))
  mask = np.ones(image[window].shape[:2], bool)
  end = np.tile(np.array(mask.shape[::-1], np.float32), 2)
  boxes = {name: np.clip(moved, 0, end)
           for name, moved in _moved(example, options, -top, -left).items()}
  return example | boxes | {'image': _padded(image[window], options.crop, 0),
                            'mask': _padded(mask, options.crop, False)} | {
      name: _padded(example[name][window], options.crop, field.padding)
      for name, field in options.maps.items()}


def _flip(example, rng, options):
  """The mirror image."""
  if not rng.random() < options.flip:
    return example
  width = example['image'].shape[1]
  if options.boxes:  # of the image without its padding
    width = int(np.count_nonzero(example['mask'][0]))
  return example | {
      name: _mirrored(example[name], width) for name in ('image', 'mask', *options.maps)} | {
      name: np.float32([width, 0, width, 0]) + example[name][:, [2, 1, 0, 3]] * np.float32(
          [-1, 1, -1, 1]) for name in options.boxes}


def _mirrored(array, width):
  """The first columns in the other order, the others as they are."""
  if width < array.shape[1]:
    return np.concatenate([_mirrored(array[:, :width], width), array[:, width:]], axis=1)
  pixels = np.ascontiguousarray(array).view(np.uint8).reshape(*array.shape[:2], -1)
  if pixels.shape[-1] > _MOST_CHANNELS:
    return array[:, ::-1]
  # A reversed view takes thirty times as long to copy.
  return cv2.flip(pixels, 1).view(array.dtype).reshape(array.shape)


def _fill(example, rng, options):
  """As many boxes as a field holds."""
  del rng
  return boxed.fill(example, options.fields)


OPERATIONS: dict[str, Operation] = {
    'resize': _resize, 'scale': _scale, 'resized_crop': _resized_crop, 'pad': _pad, 'crop': _crop,
    'flip': _flip, 'fill': _fill}


def _moved(example, options, down, right):
  """The boxes so many pixels further down and to the right."""
  return {name: example[name] + np.float32([right, down] * 2) for name in options.boxes}


def _padded(array, size, value):
  """Padded at the bottom and right to `size`; a copy where it is as large already."""
  padded = np.full((*size, *array.shape[2:]), value, array.dtype)
  padded[:array.shape[0], :array.shape[1]] = array
  return padded
