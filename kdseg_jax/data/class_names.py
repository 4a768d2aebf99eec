"""Names and colours of the classes of public data sets, without their images."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from kdseg_jax import extras, names, paths
from kdseg_jax.data import camvid, class_list, palettes, scenes
from kdseg_jax.errors import UserError

IMAGENET = 'imagenet'
# Prepared with TFDS, whose builders hold their classes.
_PREPARED = ('cityscapes', 'voc', 'pascal_context', 'ade20k', 'cifar10', 'cifar100', 'coco')
NAMES = ('scenes', 'camvid', IMAGENET, *_PREPARED)


def imagenet() -> tuple[str, ...]:
  """The 1000 classes of ILSVRC 2012 in the order of their WordNet ids, as torchvision has them."""
  return _lines('imagenet_classes.txt')


def synsets() -> tuple[str, ...]:
  """The WordNet ids of `imagenet()`, by which its archives and folders name the classes."""
  return _lines('imagenet_synsets.txt')


def of_folders(folders: Sequence[str]) -> tuple[str, ...]:
  """The classes that sorted folders stand for: their names; of all synsets of ImageNet its own."""
  return imagenet() if tuple(folders) == synsets() else tuple(folders)


def of(data: str | None, count: int) -> tuple[tuple[str, ...], np.ndarray]:
  """Names of so many classes, and their palette `(C, 3)` uint8.

  Args:
    data: a data set, or a class list, see `class_list.read`; None numbers the classes, but for
      1000, which are ImageNet's. More than 255 have an empty palette.
    count: number of classes.

  Raises:
    UserError: an unknown data set, or one of another number of classes.
  """
  if data is None:
    classes = imagenet() if count == 1000 else tuple(f'class {i}' for i in range(count))
    return classes, palette_of(count)
  classes, palette = _read(data)
  if len(classes) != count:
    raise UserError(f'--data={data} has {len(classes)} classes, and the model {count}.')
  return classes, palette


def count_of(data: str) -> int:
  """Number of classes of a data set or class list.

  Raises:
    UserError: an unknown data set.
  """
  return len(_read(data)[0])


def _lines(name):
  path = pathlib.Path(__file__).with_name(name)
  return tuple(path.read_text(encoding='utf-8').splitlines())


def _read(data):
  if os.path.isfile(paths.local(data)):
    found = class_list.read(pathlib.Path(paths.local(data)))
    return found.names, found.palette
  names.require(data, NAMES, 'data set')
  if data == IMAGENET:
    return imagenet(), palette_of(1000)
  if data in _PREPARED:
    extras.require('data', 'tensorflow_datasets', f'--data={data}')
    from kdseg_jax.data import tfds_builders  # slow to import

    builder = tfds_builders.BUILDERS[data]
    return builder.CLASSES, builder.PALETTE
  return {'scenes': (scenes.CLASSES, palettes.SCENES),
          'camvid': (camvid.CLASSES, palettes.CAMVID)}[data]


def palette_of(count: int) -> np.ndarray:
  """`(C, 3)` uint8, the default palette; of more than 255 classes an empty one."""
  return palettes.default_palette(count) if count <= 255 else np.zeros((0, 3), np.uint8)
