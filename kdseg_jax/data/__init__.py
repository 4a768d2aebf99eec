"""Sources of examples by name, pipelines, augmentation and palettes.

A source has `classes` (names in label order), `palette` `(C, 3)` uint8, `len(source)`, and
`source[i]`, a dict of `image` `(H, W, 3)` uint8 RGB, `label`, `image_id` str, and what else it
knows. The label is `(H, W)` uint8 with 255 = ignore, or one int32 of an image with one class;
images with boxes have `boxes`, `classes`, `crowd`, `area` and `scale` instead, see
`boxed.BoxSource`. It can be pickled and read by many threads at once. With `size_of(index)`, the
(height, width) of an image before it is read, batches may be of one orientation.
"""

from __future__ import annotations

import functools
import os
from typing import Any

from kdseg_jax import names, outside, references
from kdseg_jax.data.camvid import CamVid
from kdseg_jax.data.cifar import Cifar
from kdseg_jax.data.classified import ClassFolder, Npz
from kdseg_jax.data.coco import Coco
from kdseg_jax.data.crops import Centres
from kdseg_jax.data.fitted import Fitted
from kdseg_jax.data.folder import Folder
from kdseg_jax.data.prepared import create_prepared, create_tfds, is_prepared
from kdseg_jax.data.scenes import SceneBoxes, SceneClasses, Scenes
from kdseg_jax.data.unlabelled import Concatenated, Unlabelled, WithoutLabels
from kdseg_jax.data.voc_boxes import VocBoxes
from kdseg_jax.errors import UserError

_PREPARED = ('cityscapes', 'cityscapes_coarse', 'voc', 'coco_voc', 'pascal_context', 'ade20k',
             'imagenet')
_PREPARED_OR_NOT = ('camvid', 'cifar10', 'cifar100', 'coco')  # read as they are too
_CLASSIFIED = {
    'scene_classes': SceneClasses, 'npz': Npz, 'class_folder': ClassFolder,
    'cifar10': functools.partial(Cifar, 'cifar10'),
    'cifar100': functools.partial(Cifar, 'cifar100')}
_BOXED = {'scenes_detection': SceneBoxes, 'voc_boxes': VocBoxes, 'coco': Coco}
_SOURCES = {'scenes': Scenes, 'camvid': CamVid, 'folder': Folder} | {
    name: functools.partial(create_prepared, name) for name in _PREPARED} | _CLASSIFIED | _BOXED
_BUILT_IN = ('scenes', 'scene_classes', 'scenes_detection')
_TFDS = 'tfds:'

__all__ = ['CamVid', 'Centres', 'Cifar', 'ClassFolder', 'Coco', 'Concatenated', 'Fitted', 'Folder',
           'Npz', 'SceneBoxes', 'SceneClasses', 'Scenes', 'Unlabelled', 'VocBoxes',
           'WithoutLabels', 'create']


def create(name: str, split: str, *, root: str | os.PathLike | None = None,
           size: tuple[int, int] | None = None, **options: Any) -> Any:
  """Creates the source of a split.

  Args:
    name: 'scenes' (built in); 'folder' (your own images and labels, see `Folder`); 'camvid'
      (prepared, else its folders); 'cityscapes', 'cityscapes_coarse', 'voc', 'coco_voc',
      'pascal_context' or 'ade20k' (prepared with `python -m kdseg_jax.data.prepare`);
      'tfds:<name>' (any data set of TFDS). With one class an image: 'scene_classes' (built in: the
      largest digit of a scene), 'npz', 'class_folder', 'cifar10', 'cifar100' (prepared, else their
      archives), 'imagenet' (prepared). With boxes: 'scenes_detection' (built in), 'voc_boxes' (a
      folder in the layout of Pascal VOC, see `VocBoxes`), 'coco' (prepared, else a folder in the
      layout of COCO, see `Coco`). Or `module:attribute`, which is imported: a function or class
      that takes the split and, where it names them, `root` and `size`.
    split: 'train', 'val', 'test' or another that the data set has; of prepared ones several too,
      as 'train+val'.
    root: folder of the data set, or the directory where it was prepared; None or '' for scenes.
    size: (height, width) of every example; None is the source's own.
    **options: further arguments of the source; of TFDS: `image_key`, `label_key`, `num_classes`.

  Raises:
    ValueError: unknown name or split, with the nearest known ones, or as the source says.
    FileNotFoundError: the data are not where they should be.
  """
  given = {key: value for key, value in {'root': root, 'size': size}.items() if value}
  if name.startswith(_TFDS):
    return create_tfds(name.removeprefix(_TFDS), split, **given, **options)
  if references.is_reference(name):
    return _from_outside(name, split, given, options)
  names.require(name, _SOURCES, 'data set')
  if root and name in _BUILT_IN:
    raise UserError(f'{name} is built in and reads no folder; leave root={root} out.')
  if name in _PREPARED_OR_NOT and is_prepared(name, root):
    return create_prepared(name, split, **given, **options)
  return _SOURCES[name](split, **given, **options)


def _from_outside(name, split, given, options):
  """The source of a factory from elsewhere."""
  for parameter, value in given.items():
    if not outside.takes(name, outside.SOURCE, parameter):
      raise UserError(f'config.data.{parameter}={value}: {name} takes no {parameter!r}. Leave it '
                      'empty, or give the factory a parameter of that name.')
  source = outside.build(outside.SOURCE, name, options, split, **given)
  return outside.require(
      source, ('classes', 'palette', '__len__', '__getitem__'), where=name,
      expected='a source of examples, see kdseg_jax.data')
