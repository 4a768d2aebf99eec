"""Cityscapes with fine or coarse labels, 19 classes."""

from __future__ import annotations

from kdseg_jax.data import files, pairs, palettes
from kdseg_jax.data.tfds_builders import base, trees

_IMAGES, _MORE_IMAGES = 'leftImg8bit_trainvaltest.zip', 'leftImg8bit_trainextra.zip'
_FINE, _COARSE = 'gtFine_trainvaltest.zip', 'gtCoarse.zip'
_CLASSES = {  # the labelId of each class, in the order of its trainId
    'road': 7, 'sidewalk': 8, 'building': 11, 'wall': 12, 'fence': 13, 'pole': 17,
    'traffic light': 19, 'traffic sign': 20, 'vegetation': 21, 'terrain': 22, 'sky': 23,
    'person': 24, 'rider': 25, 'car': 26, 'truck': 27, 'bus': 28, 'train': 31, 'motorcycle': 32,
    'bicycle': 33}


class Cityscapes(base.Builder):
  """Cityscapes, fine labels: labelIds become the 19 trainIds, all others 255."""

  name = 'kdseg_cityscapes'
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      f'Download {_IMAGES} and {_FINE} from https://www.cityscapes-dataset.com (after registering) '
      'into the manual directory, or extract them there.')
  TITLE = 'Cityscapes (Cordts et al., CVPR 2016), fine labels, 19 classes.'
  HOMEPAGE = 'https://www.cityscapes-dataset.com'
  CLASSES = tuple(_CLASSES)
  PALETTE = palettes.CITYSCAPES
  COUNTS = {'train': 2_975, 'val': 500}
  LABELS = pairs.LabelMap(
      {stored: files.IGNORE_LABEL for stored in (*range(34), files.IGNORE_LABEL)}
      | {stored: index for index, stored in enumerate(_CLASSES.values())},
      'labelIds 0 to 33 (..._labelIds.png)')
  EXAMPLES_PER_SHARD = 64  # of 2.3 MB each

  def find(self, manual_dir):
    images = trees.open_tree(manual_dir, _IMAGES, 'leftImg8bit')
    labels = trees.open_tree(manual_dir, _FINE, 'gtFine')
    return {split: _match(images, labels, split, 'gtFine') for split in self.COUNTS}


class CityscapesCoarse(Cityscapes):
  """Cityscapes, coarse labels; `train_extra` has images of its own.

  Results are reported on the fine labels: evaluate with `cityscapes`. With `allow_partial`, an
  archive of images may be missing.
  """

  name = 'kdseg_cityscapes_coarse'
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      f'Download {_IMAGES}, {_MORE_IMAGES} and {_COARSE} from https://www.cityscapes-dataset.com '
      '(after registering) into the manual directory, or extract them there.')
  TITLE = 'Cityscapes (Cordts et al., CVPR 2016), coarse labels, 19 classes.'
  COUNTS = {'train': 2_975, 'val': 500, 'train_extra': 19_998}

  def find(self, manual_dir):
    labels = trees.open_tree(manual_dir, _COARSE, 'gtCoarse')
    archives = {'train': _IMAGES, 'val': _IMAGES, 'train_extra': _MORE_IMAGES}
    return {split: _match(trees.open_tree(manual_dir, archive, 'leftImg8bit'), labels, split,
                          'gtCoarse')
            for split, archive in archives.items()
            if not self.allow_partial or trees.has(manual_dir, archive, 'leftImg8bit')}


def _match(images, labels, split, kind):
  return base.match(
      images.find(split, '_leftImg8bit.png'), labels.find(split, f'_{kind}_labelIds.png'),
      image_place=f'{images.place}/{split}/<city>/<id>_leftImg8bit.png',
      label_place=f'{labels.place}/{split}/<city>/<id>_{kind}_labelIds.png')
