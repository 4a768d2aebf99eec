"""Images without labels, for the terms of a distillation that read none.

A folder of pictures, or the examples of a training split that a limit leaves out.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdseg_jax.data import files, pairs
from kdseg_jax.errors import UserError


class Unlabelled:
  """The pictures of a folder, without labels.

  Args:
    folder: of pictures of any size; those in subfolders count too.
    size: (height, width) to which they are resized; None keeps their own.
    fields: what an example of the task holds beside the image, see `tasks.Field`; here all of it is
      the fields' padding, as `tasks.SegmentationTask.fields` give a label map of 255 (ignore).

  Raises:
    FileNotFoundError: the folder does not exist or holds no picture.
    ValueError: the fields are boxes; a picture of a format that is not read; on reading, a damaged
      file.
  """

  def __init__(self, folder: str | os.PathLike, *, fields: Mapping[str, Any],
               size: tuple[int, int] | None = None):
    _check_fields(fields)
    self._paths = files.list_images([folder], subfolders=True)
    self.size, self._fields = tuple(size) if size else None, fields

  def require_none_of(self, paths: Mapping[pathlib.Path, str]) -> None:
    """Raises UserError if a picture is one of these files: path -> what it is."""
    known = {os.path.realpath(path): kind for path, kind in paths.items()}
    for path in self._paths:
      kind = known.get(os.path.realpath(path))
      if kind:
        raise UserError(
            f'config.data.unlabelled: {path} is {kind}. Name a folder of other pictures.')

  def __len__(self) -> int:
    return len(self._paths)

  def __getitem__(self, index: int) -> dict[str, Any]:
    pairs.check_index(index, len(self))
    path = self._paths[index]
    image = files.read_image(path)
    image = files.resize_image(image, self.size) if self.size else image
    return {'image': image, 'image_id': path.stem} | _unknown(self._fields, image.shape[:2])


class WithoutLabels:
  """The images of a source, without labels.

  Args:
    source: of labelled examples.
    fields: see `Unlabelled`.

  Raises:
    ValueError: the fields are boxes.
  """

  def __init__(self, source: Any, *, fields: Mapping[str, Any]):
    _check_fields(fields)
    self._source, self._fields = source, fields

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    pairs.check_index(index, len(self))
    example = self._source[index]
    return {name: example[name] for name in ('image', 'image_id')} | _unknown(
        self._fields, example['image'].shape[:2])


class Concatenated:
  """The examples of one source and then those of another; `classes` and `palette` of the first.

  Args:
    first: of labelled examples.
    second: of unlabelled ones.
    share: of the second in every training batch, above 0 and below 1, see
      `pipeline.train_batches`. None shuffles both as one, so that a batch holds on average
      `len(second) / (len(first) + len(second))` of the second.

  Raises:
    UserError: the share is out of range.
  """

  def __init__(self, first: Any, second: Any, *, share: float | None = None):
    if share is not None and not 0 < share < 1:
      raise UserError(f'config.data.unlabelled_share={share}: expected a share of each batch above '
                      '0 and below 1, or None for as many as there are.')
    self.first, self.second, self.share = first, second, share
    self.classes, self.palette = first.classes, first.palette

  def __len__(self) -> int:
    return len(self.first) + len(self.second)

  def __getitem__(self, index: int) -> dict[str, Any]:
    pairs.check_index(index, len(self))
    if index < len(self.first):
      return self.first[index]
    return self.second[index - len(self.first)]


def _check_fields(fields):
  if any(field.geometry == 'boxes' for field in fields.values()):
    raise UserError('config.data.unlabelled: an image without boxes is one that holds no object, '
                    'and would be learned as background. Leave it empty for detectors.')


def _unknown(fields, size):
  """The fields of an image of which nothing is known."""
  return {name: np.full(field.shape(size), field.padding, field.dtype)
          for name, field in fields.items()}
