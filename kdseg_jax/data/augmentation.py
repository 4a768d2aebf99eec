"""Random scale, border, crop and mirror image of an image together with its labels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np

from kdseg_jax.data import files
from kdseg_jax.errors import UserError

Example = dict[str, Any]
_ASPECT = (3 / 4, 4 / 3)  # of the windows of `resized_crop`, width over height
_TRIES = 10
Operation = Callable[[Example, np.random.Generator, 'Augmentation'], Example]


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Scales, adds a border, crops and mirrors, at random: `OPERATIONS`, in this order.

  Called with `(example, rng)`; returns `image` `(h, w, 3)` uint8 (0 in the padding), `mask`
  `(h, w)` bool (False in the padding) and the fields, moved by their geometry (their own value in
  the padding). What is smaller than the crop is padded at the bottom and right. Other entries of
  the example are left out: they need not be true of the crop.

  Attributes:
    crop: (height, width) of the result.
    scale: lowest and highest factor of the size, drawn evenly; None keeps the size. Bilinear for
      the image, nearest pixel for a map.
    flip: probability of the mirror image.
    pad: pixels of a black border on each side, before the crop; they count as the image's (its mask
      is True), as in the usual augmentation of CIFAR, 4 pixels.
    fields: what an example holds beside the image, see `tasks.Field`.
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
    for operation in OPERATIONS.values():
      example = operation(example, rng, self)
    return example

  @property
  def maps(self) -> dict[str, Any]:
    """The fields that move as the pixels do."""
    return {name: field for name, field in self.fields.items() if field.geometry == 'map'}


def _scale(example, rng, options):
  """Another size."""
  if options.scale is None:
    return example
  factor = rng.uniform(*options.scale)
  image = example['image']
  size = tuple(max(1, round(side * factor)) for side in image.shape[:2])
  return example | {
      'image': cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)} | {
          name: files.resize_label(example[name], size) for name in options.maps}


def _resized_crop(example, rng, options):
  """A window of random area and shape at the size of the crop."""
  if options.resized_crop is None:
    return example
  window = _window(example['image'].shape[:2], rng, options.resized_crop)
  return example | {'image': files.resize_image(example['image'][window], options.crop)} | {
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
  return example | {
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
  return example | {'image': _padded(image[window], options.crop, 0),
                    'mask': _padded(mask, options.crop, False)} | {
      name: _padded(example[name][window], options.crop, field.padding)
      for name, field in options.maps.items()}


def _flip(example, rng, options):
  """The mirror image."""
  if not rng.random() < options.flip:
    return example
  return example | {name: np.ascontiguousarray(example[name][:, ::-1])
                    for name in ('image', 'mask', *options.maps)}


OPERATIONS: dict[str, Operation] = {
    'scale': _scale, 'resized_crop': _resized_crop, 'pad': _pad, 'crop': _crop, 'flip': _flip}


def _padded(array, size, value):
  """Padded at the bottom and right to `size`; a copy where it is as large already."""
  padded = np.full((*size, *array.shape[2:]), value, array.dtype)
  padded[:array.shape[0], :array.shape[1]] = array
  return padded
