"""The boxes of COCO 2017."""

from __future__ import annotations

import io
import pathlib
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from kdseg_jax.data import boxed, coco, pairs
from kdseg_jax.data.tfds_builders import base, trees
from kdseg_jax.errors import UserError

_ANNOTATIONS = 'annotations_trainval2017.zip'
_WITHOUT_BOXES = 'train_without_boxes'


class Example(NamedTuple):
  """Where an image is read, the size for which it was annotated, and its boxes."""

  image: trees.Member
  size: boxed.Size
  boxes: list[boxed.Box]


class Coco(base.Builder):
  """COCO 2017 (Lin et al., ECCV 2014), 80 classes: `image`, the arrays of boxes, and `image_id`.

  Images of train with an annotation are a split, those without one another, `train` is both. With
  `allow_partial`, a split, or images of it, may be missing.
  """

  name = 'kdseg_coco'
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      f'Download train2017.zip, val2017.zip and {_ANNOTATIONS} from https://cocodataset.org/'
      '#download into the manual directory, or extract them there.')
  TITLE = 'COCO 2017, instances (Lin et al., ECCV 2014).'
  HOMEPAGE = 'https://cocodataset.org/'
  HAS_BOXES = True
  CLASSES = (
      'person', 'bicycle', 'car', 'motorcycle', 'airplane', 'bus', 'train', 'truck', 'boat',
      'traffic light', 'fire hydrant', 'stop sign', 'parking meter', 'bench', 'bird', 'cat', 'dog',
      'horse', 'sheep', 'cow', 'elephant', 'bear', 'zebra', 'giraffe', 'backpack', 'umbrella',
      'handbag', 'tie', 'suitcase', 'frisbee', 'skis', 'snowboard', 'sports ball', 'kite',
      'baseball bat', 'baseball glove', 'skateboard', 'surfboard', 'tennis racket', 'bottle',
      'wine glass', 'cup', 'fork', 'knife', 'spoon', 'bowl', 'banana', 'apple', 'sandwich',
      'orange', 'broccoli', 'carrot', 'hot dog', 'pizza', 'donut', 'cake', 'chair', 'couch',
      'potted plant', 'bed', 'dining table', 'toilet', 'tv', 'laptop', 'mouse', 'remote',
      'keyboard', 'cell phone', 'microwave', 'oven', 'toaster', 'sink', 'refrigerator', 'book',
      'clock', 'vase', 'scissors', 'teddy bear', 'hair drier', 'toothbrush')
  PALETTE = boxed.palette(80)
  COUNTS = {coco.WITH_BOXES: 117_266, _WITHOUT_BOXES: 1_021, 'val': 5_000}
  UNIONS = {'train': (coco.WITH_BOXES, _WITHOUT_BOXES)}

  def find(self, manual_dir):
    annotations = trees.open_tree(manual_dir, _ANNOTATIONS, 'annotations')
    found = {split: self._find(split, manual_dir, annotations) for split in ('train', 'val')
             if not self.allow_partial or trees.has(manual_dir, f'{split}2017.zip', f'{split}2017')}
    train = found.pop('train', {})
    return found | {
        coco.WITH_BOXES: {image_id: one for image_id, one in train.items() if one.boxes},
        _WITHOUT_BOXES: {image_id: one for image_id, one in train.items() if not one.boxes}}

  def _find(self, split: str, manual_dir: pathlib.Path, annotations: trees.Tree
            ) -> dict[str, Example]:
    """The examples of a split by image id."""
    file = annotations[f'instances_{split}2017.json']
    instances = coco.parse(file.read(), file)
    pairs.require_none(instances.problems)
    if instances.classes != self.CLASSES:
      raise UserError(f'{file}: its categories are not the 80 of COCO in their order. Data of your '
                      'own need not be prepared: config.data.name=coco reads their folder.')
    images = trees.open_tree(manual_dir, f'{split}2017.zip', f'{split}2017')
    return {coco.image_name(image_id): Example(images[image.file], image.size, image.boxes)
            for image_id, image in instances.images.items()
            if not self.allow_partial or image.file in images}

  def _features(self):
    array = lambda shape, dtype: tfds.features.Tensor(shape=shape, dtype=dtype)
    return {'image': tfds.features.Image(shape=(None, None, 3)),
            'boxes': array((None, 4), np.float32), 'classes': array((None,), np.int32),
            'crowd': array((None,), np.bool_), 'area': array((None,), np.float32),
            'image_id': tfds.features.Text()}

  def _encode(self, image_id, example):
    content = example.image.read()
    arrays, degenerate, problems = boxed.gather(example.boxes, example.size)
    pairs.require_none(problems)
    for line in degenerate:
      logging.warning('A box without an area is left out: %s', line)
    one = boxed.Annotated(example.image, image_id, example.size, **arrays, place=image_id)
    boxed.read_image(one, content)
    return {'image': io.BytesIO(content), 'image_id': image_id, **arrays}
