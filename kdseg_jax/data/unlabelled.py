"""Images without labels, for the terms of a distillation that read none."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from kdseg_jax.data import files, pairs


class Unlabelled:
  """The pictures of a folder, with 255 (ignore) as the label of every pixel.

  Args:
    folder: of pictures of any size; those in subfolders count too.
    size: (height, width) to which they are resized; None keeps their own.

  Raises:
    FileNotFoundError: the folder does not exist or holds no picture.
    ValueError: a picture of a format that is not read; on reading, a damaged file.
  """

  def __init__(self, folder: str | os.PathLike, *, size: tuple[int, int] | None = None):
    self._paths = files.list_images([folder], subfolders=True)
    self.size = tuple(size) if size else None

  def __len__(self) -> int:
    return len(self._paths)

  def __getitem__(self, index: int) -> dict[str, Any]:
    pairs.check_index(index, len(self))
    path = self._paths[index]
    image = files.read_image(path)
    label = np.full(image.shape[:2], files.IGNORE_LABEL, np.uint8)
    return pairs.resized(image, label, self.size) | {'image_id': path.stem}


class Concatenated:
  """The examples of one source and then those of another; `classes` and `palette` of the first.

  Shuffled as one, a batch holds on average `len(second) / (len(first) + len(second))` of the
  second.

  Attributes:
    first: the source before.
  """

  def __init__(self, first: Any, second: Any):
    self.first, self._second = first, second
    self.classes, self.palette = first.classes, first.palette

  def __len__(self) -> int:
    return len(self.first) + len(self._second)

  def __getitem__(self, index: int) -> dict[str, Any]:
    pairs.check_index(index, len(self))
    if index < len(self.first):
      return self.first[index]
    return self._second[index - len(self.first)]
