"""The masks of COCO 2017 in the classes of Pascal VOC, for training before VOC."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdseg_jax.data import coco_masks, files, pairs
from kdseg_jax.data.tfds_builders import base, trees
from kdseg_jax.data.tfds_builders.voc import Voc
from kdseg_jax.errors import UserError

_ANNOTATIONS = 'annotations_trainval2017.zip'
_IMAGES = {'train': 118_287, 'val': 5_000}
_LEAST_AREA = 1_000  # pixels of VOC's classes in an image that is trained on
# COCO's name of each class where it is not VOC's.
_NAMES = {'aeroplane': 'airplane', 'diningtable': 'dining table', 'motorbike': 'motorcycle',
          'pottedplant': 'potted plant', 'sofa': 'couch', 'tvmonitor': 'tv'}


class CocoVoc(base.Builder):
  """COCO 2017 with the 21 classes of Pascal VOC; all else, COCO's other classes too, is background.

  DeepLab and knowledge adaptation train on it before VOC. `train` are the images in which objects
  of VOC's classes, crowds among them, have more than 1,000 pixels together (DeepLabV3; by the areas
  that the annotations state, as in torchvision's reference code), `val` are all. Where objects of
  two classes overlap the label is 255. With `allow_partial`, the archive of a split may be missing.
  """

  name = 'kdseg_coco_voc'
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      f'Download train2017.zip, val2017.zip and {_ANNOTATIONS} from '
      'https://cocodataset.org/#download into the manual directory, or extract them there.')
  TITLE = 'COCO 2017 (Lin et al., ECCV 2014), its masks in the classes of Pascal VOC.'
  HOMEPAGE = 'https://cocodataset.org'
  CLASSES = Voc.CLASSES
  PALETTE = Voc.PALETTE
  COUNTS = {'train': None, 'val': _IMAGES['val']}
  LABELS = pairs.LabelMap.identity(21)

  def find(self, manual_dir):
    annotations = trees.open_tree(manual_dir, _ANNOTATIONS, 'annotations')
    return {split: self._split(split, annotations, trees.open_tree(
                manual_dir, f'{split}2017.zip', f'{split}2017'))
            for split in self.COUNTS
            if not self.allow_partial or trees.has(manual_dir, f'{split}2017.zip', f'{split}2017')}

  def _split(self, split, annotations, images):
    member = annotations[f'instances_{split}2017.json']
    described, objects = _read(member)
    if not self.allow_partial:
      base.require_counts({split: len(described)}, {split: _IMAGES[split]}, str(member))
    found = {}
    for number, image in described.items():
      own = objects.get(number, [])
      if split == 'train' and sum(one['area'] for _, one in own) <= _LEAST_AREA:
        continue
      place = f'{member}, image {number}'
      size = (image['height'], image['width'])
      found[f'{number:012d}'] = base.Example(images[image['file_name']], trees.Member(
          place, functools.partial(_label, own, size, member)))
    return found


def _read(member: trees.Member) -> tuple[dict[int, Any], dict[int, list[tuple[int, Any]]]]:
  """What a file of instances says of its images; and `(class, object)` of VOC's classes in each.

  Raises:
    UserError: it is no such file, or lacks one of the classes.
  """
  try:
    content = json.loads(member.read())
    numbers = {category['name']: category['id'] for category in content['categories']}
    images = {image['id']: {key: image[key] for key in ('file_name', 'height', 'width')}
              for image in content['images']}
    objects = [(one['category_id'], one['image_id'], {key: one[key] for key in (
        'id', 'area', 'segmentation')}) for one in content['annotations']]
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(f'{member}: is no file of COCO instances, or cut short: {error!r}. Download it '
                    'again.') from error
  absent = [name for name in _coco_names() if name not in numbers]
  if absent:
    raise UserError(f'{member}: has no category {", ".join(absent)}. Expected the instances of '
                    'COCO 2017.')
  classes = {numbers[name]: index for index, name in enumerate(_coco_names(), start=1)}
  found: dict[int, list[tuple[int, Any]]] = {}
  for category, image, one in objects:
    if category in classes:
      found.setdefault(image, []).append((classes[category], one))
  return images, found


def _coco_names():
  """COCO's names of VOC's classes but the background."""
  return [_NAMES.get(name, name) for name in Voc.CLASSES[1:]]


def _label(objects: list[tuple[int, Mapping[str, Any]]], size: tuple[int, int],
           member: trees.Member) -> bytes:
  """The PNG of an image's label."""
  label = np.zeros(size, np.uint8)
  for index, one in objects:
    inside = coco_masks.mask(one['segmentation'], size, f'{member}, annotation {one["id"]}')
    other = inside & (label != 0) & (label != index)
    label[inside] = index
    label[other] = files.IGNORE_LABEL
  return files.encode_label(label)
