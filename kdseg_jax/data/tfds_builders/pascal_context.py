"""Pascal Context, 59 classes."""

from __future__ import annotations

from kdseg_jax.data import files, pairs, palettes
from kdseg_jax.data.tfds_builders import base, trees

_VOC, _CONTEXT = 'VOCtrainval_03-May-2010.tar', 'trainval.tar.gz'
_STORED = 459  # labels in the archive: 1 to 459, 0 = none
# The label of each class among the 459; both lists are in alphabetical order.
_CLASSES = {
    'aeroplane': 2, 'bag': 9, 'bed': 18, 'bedclothes': 19, 'bench': 22, 'bicycle': 23, 'bird': 25,
    'boat': 31, 'book': 33, 'bottle': 34, 'building': 44, 'bus': 45, 'cabinet': 46, 'car': 59,
    'cat': 65, 'ceiling': 68, 'chair': 72, 'cloth': 80, 'computer': 85, 'cow': 98, 'cup': 104,
    'curtain': 105, 'dog': 113, 'door': 115, 'fence': 144, 'floor': 158, 'flower': 159,
    'food': 162, 'grass': 187, 'ground': 189, 'horse': 207, 'keyboard': 220, 'light': 232,
    'motorbike': 258, 'mountain': 259, 'mouse': 260, 'person': 284, 'plate': 295, 'platform': 296,
    'pottedplant': 308, 'road': 324, 'rock': 326, 'sheep': 347, 'shelves': 349, 'sidewalk': 354,
    'sign': 355, 'sky': 360, 'snow': 366, 'sofa': 368, 'table': 397, 'track': 415, 'train': 416,
    'tree': 420, 'truck': 424, 'tvmonitor': 427, 'wall': 440, 'water': 445, 'window': 454,
    'wood': 458}


class PascalContext(base.Builder):
  """Pascal Context: the 59 usual classes in alphabetical order; all else is 255, no background.

  The images of Pascal VOC 2010 in its `Main` lists, whole-scene labels of 459 classes.
  """

  name = 'kdseg_pascal_context'
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      f'Download {_VOC} from http://host.robots.ox.ac.uk/pascal/VOC/voc2010/ and {_CONTEXT} from '
      'https://cs.stanford.edu/~roozbeh/pascal-context/ into the manual directory, or extract them '
      'there.')
  TITLE = 'Pascal Context (Mottaghi et al., CVPR 2014), 59 classes.'
  HOMEPAGE = 'https://cs.stanford.edu/~roozbeh/pascal-context/'
  CLASSES = tuple(_CLASSES)
  PALETTE = palettes.voc_palette(60)[1:]  # black is left for what is ignored
  COUNTS = {'train': 4_998, 'val': 5_105}
  LABELS = pairs.LabelMap(
      {stored: files.IGNORE_LABEL for stored in range(_STORED + 1)}
      | {stored: index for index, stored in enumerate(_CLASSES.values())},
      f'labels 0 to {_STORED} of Pascal Context')

  def find(self, manual_dir):
    voc = trees.open_tree(manual_dir, _VOC, 'VOCdevkit/VOC2010')
    context = trees.open_tree(manual_dir, _CONTEXT, 'trainval')
    return {split: base.listed(base.stems_of(voc, f'ImageSets/Main/{split}.txt'),
                               voc, 'JPEGImages/<id>.jpg', context, '<id>.mat')
            for split in self.COUNTS}

  def read_label(self, member):
    return base.read_mat(member, 'LabelMap')
