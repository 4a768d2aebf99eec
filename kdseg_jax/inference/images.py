"""Images as users have them: arrays, stacks of them, lists, paths."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kdseg_jax import paths
from kdseg_jax.data import files
from kdseg_jax.errors import NotFoundError, UserError


def as_list(images: Any) -> list[np.ndarray | str]:
  """Arrays `(H, W, 3)` and paths, which are not read yet.

  Args:
    images: `(H, W, 3)` or `(N, H, W, 3)` uint8 RGB, a path, or a list of images and paths. What
      numpy makes such an array of will do, as a picture of PIL.

  Raises:
    UserError: one is no such array; says which, its type and shape.
    NotFoundError: there is no such file.
  """
  if isinstance(images, (str, os.PathLike)):
    images = [images]
  elif not isinstance(images, (list, tuple)):
    array = np.asarray(images)
    images = array if array.ndim == 4 else [array]
  return [_checked(image, index) for index, image in enumerate(images)]


def batches(images: Sequence[np.ndarray | str], batch_size: int
            ) -> Iterator[tuple[list[int], np.ndarray]]:
  """`(indices, (N, H, W, 3))` of images of one size, N at most `batch_size`; files are read here.

  The last batch of a size is filled up with copies of its last image, whose index then stands in it
  several times, unless it is the only one: each number of images is a program to be compiled.

  Raises:
    UserError: a file cannot be read, or no picture can be decoded from it.
  """
  waiting: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
  whole = set()
  for index, image in enumerate(images):
    image = files.read_image(image) if isinstance(image, str) else image
    group = waiting.setdefault(image.shape, [])
    group.append((index, image))
    if len(group) == batch_size:
      whole.add(image.shape)
      yield _stacked(waiting.pop(image.shape))
  for shape, group in waiting.items():
    missing = batch_size - len(group) if shape in whole else 0
    yield _stacked(group + group[-1:] * missing)


def _stacked(group):
  indices, images = zip(*group, strict=True)
  return list(indices), np.stack(images)


def _checked(image, index):
  if isinstance(image, (str, os.PathLike)):
    path = paths.local(image)
    if not os.path.exists(path):  # said before the others are read
      raise NotFoundError(f'{path}: no such file.')
    return path
  array = np.asarray(image)
  if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3 and array.size:
    return array
  raise UserError(f'images[{index}] is {array.dtype} of shape {array.shape}; expected uint8 RGB of '
                  f'shape (height, width, 3), 0-255.{_advice(array)}')


def _advice(array):
  if array.dtype != np.uint8:
    return ' Scale it to 0-255, and round it.' if array.dtype.kind == 'f' else ''
  if array.ndim == 2:
    return ' Grey: np.stack([image] * 3, axis=-1).'
  return ' With alpha: image[..., :3].' if array.ndim == 3 and array.shape[2] == 4 else ''
