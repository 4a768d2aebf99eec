"""Random scale, padding, crop and mirror image of an image together with its label."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from kdseg_jax.data import files
from kdseg_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Scales, pads bottom and right, crops and mirrors, all at random, in this order.

  Called with `(example, rng)`; returns `image` `(h, w, 3)` uint8 (0 in the padding), `label`
  `(h, w)` uint8 (255 in the padding) and `mask` `(h, w)` bool (False in the padding). Other entries
  of the example are left out: they need not be true of the crop.

  Attributes:
    crop: (height, width) of the result.
    scale: lowest and highest factor of the size, drawn evenly; None keeps the size. Bilinear for
      the image, nearest pixel for the label.
    flip: probability of the mirror image.

  Raises:
    ValueError: an attribute is out of range.
  """
  crop: tuple[int, int]
  scale: tuple[float, float] | None = (0.5, 2.0)
  flip: float = 0.5

  def __post_init__(self):
    if len(self.crop) != 2 or min(self.crop) < 1:
      raise UserError(f'crop={self.crop}: expected (height, width), both positive.')
    if self.scale is not None and not (
        len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1]):
      raise UserError(f'scale={self.scale}: expected (lowest, highest) factor above 0, or None.')
    if not 0 <= self.flip <= 1:
      raise UserError(f'flip={self.flip}: expected a probability, 0 to 1.')

  def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    image, label = example['image'], example['label']
    if self.scale is not None:
      image, label = _rescale(image, label, rng.uniform(*self.scale))
    height, width = self.crop
    top = rng.integers(max(image.shape[0] - height, 0) + 1)
    left = rng.integers(max(image.shape[1] - width, 0) + 1)
    window = (slice(top, top + height), slice(left, left + width))
    image, label, mask = _pad(image[window], label[window], self.crop)
    if rng.random() < self.flip:
      image, label, mask = (np.ascontiguousarray(x[:, ::-1]) for x in (image, label, mask))
    return {'image': image, 'label': label, 'mask': mask}


def _rescale(image, label, factor):
  size = tuple(max(1, round(side * factor)) for side in label.shape)
  image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
  return image, files.resize_label(label, size)


def _pad(image, label, size):
  """Pads bottom and right to `size`; where the image is as large already, only copies."""
  height, width = label.shape
  padded_image = np.zeros((*size, 3), np.uint8)
  padded_label = np.full(size, files.IGNORE_LABEL, np.uint8)
  mask = np.zeros(size, bool)
  padded_image[:height, :width] = image
  padded_label[:height, :width] = label
  mask[:height, :width] = True
  return padded_image, padded_label, mask
