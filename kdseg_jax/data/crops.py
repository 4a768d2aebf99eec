"""The centres of images, as classifiers of ImageNet are evaluated."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdseg_jax.data import files


def centre(image: np.ndarray, short_side: int, crop: tuple[int, int]) -> np.ndarray:
  """The centre of an image whose shorter side is resized before.

  As torchvision's `Resize(short_side)` and `CenterCrop(crop)`, which evaluations of ImageNet share,
  but by area where that shrinks (see `files.resize_image`), not bilinearly with antialiasing.

  Args:
    image: `(H, W, 3)` uint8.
    short_side: to which the shorter side is resized; the longer one keeps the shape of the image,
      rounded down.
    crop: (height, width) of what is kept, neither above `short_side`.
  """
  shorter = min(image.shape[:2])
  size = tuple(short_side * side // shorter for side in image.shape[:2])
  if size != image.shape[:2]:
    image = files.resize_image(image, size)
  top, left = (round((side - kept) / 2) for side, kept in zip(size, crop, strict=True))
  return image[top:top + crop[0], left:left + crop[1]]


class Centres:
  """A source whose images are the `centre` of those of another; a source again.

  Args:
    source: its labels are of whole images.
    short_side: see `centre`.
    crop: likewise.
  """

  def __init__(self, source: Any, short_side: int, crop: tuple[int, int]):
    self._source, self._short_side, self.size = source, short_side, tuple(crop)
    self.classes, self.palette = source.classes, source.palette
    self.is_generated = getattr(source, 'is_generated', False)
    self.pairs = getattr(source, 'pairs', ())

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    example = self._source[index]
    return example | {'image': centre(example['image'], self._short_side, self.size)}
