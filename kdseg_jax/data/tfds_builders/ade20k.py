"""ADE20K, the 150 classes of the scene parsing challenge."""

from __future__ import annotations

from kdseg_jax.data import files, pairs, palettes
from kdseg_jax.data.tfds_builders import base, trees

_ARCHIVE, _FOLDER = 'ADEChallengeData2016.zip', 'ADEChallengeData2016'
_SPLITS = {'train': 'training', 'val': 'validation'}


class Ade20k(base.Builder):
  """ADE20K scene parsing (2016), 150 classes: stored labels 1 to 150 are 0 to 149, 0 is 255."""

  name = 'kdseg_ade20k'
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      f'Download {_ARCHIVE} from http://sceneparsing.csail.mit.edu/ into the manual directory, or '
      'extract it there.')
  TITLE = 'ADE20K scene parsing challenge 2016 (Zhou et al., CVPR 2017), 150 classes.'
  HOMEPAGE = 'http://sceneparsing.csail.mit.edu/'
  CLASSES = (
      'wall', 'building', 'sky', 'floor', 'tree', 'ceiling', 'road', 'bed', 'windowpane', 'grass',
      'cabinet', 'sidewalk', 'person', 'earth', 'door', 'table', 'mountain', 'plant', 'curtain',
      'chair', 'car', 'water', 'painting', 'sofa', 'shelf', 'house', 'sea', 'mirror', 'rug',
      'field', 'armchair', 'seat', 'fence', 'desk', 'rock', 'wardrobe', 'lamp', 'bathtub',
      'railing', 'cushion', 'base', 'box', 'column', 'signboard', 'chest of drawers', 'counter',
      'sand', 'sink', 'skyscraper', 'fireplace', 'refrigerator', 'grandstand', 'path', 'stairs',
      'runway', 'case', 'pool table', 'pillow', 'screen door', 'stairway', 'river', 'bridge',
      'bookcase', 'blind', 'coffee table', 'toilet', 'flower', 'book', 'hill', 'bench',
      'countertop', 'stove', 'palm', 'kitchen island', 'computer', 'swivel chair', 'boat', 'bar',
      'arcade machine', 'hovel', 'bus', 'towel', 'light', 'truck', 'tower', 'chandelier', 'awning',
      'streetlight', 'booth', 'television receiver', 'airplane', 'dirt track', 'apparel', 'pole',
      'land', 'bannister', 'escalator', 'ottoman', 'bottle', 'buffet', 'poster', 'stage', 'van',
      'ship', 'fountain', 'conveyer belt', 'canopy', 'washer', 'plaything', 'swimming pool',
      'stool', 'barrel', 'basket', 'waterfall', 'tent', 'bag', 'minibike', 'cradle', 'oven',
      'ball', 'food', 'step', 'tank', 'trade name', 'microwave', 'pot', 'animal', 'bicycle',
      'lake', 'dishwasher', 'screen', 'blanket', 'sculpture', 'hood', 'sconce', 'vase',
      'traffic light', 'tray', 'ashcan', 'fan', 'pier', 'crt screen', 'plate', 'monitor',
      'bulletin board', 'shower', 'radiator', 'glass', 'clock', 'flag')
  PALETTE = palettes.voc_palette(151)[1:]  # black is left for what is ignored
  COUNTS = {'train': 20_210, 'val': 2_000}
  LABELS = pairs.LabelMap(
      {0: files.IGNORE_LABEL} | {stored: stored - 1 for stored in range(1, 151)},
      'labels 1 to 150 and 0 = none')

  def find(self, manual_dir):
    tree = trees.open_tree(manual_dir, _ARCHIVE, _FOLDER)
    return {split: base.match(
        tree.find(f'images/{folder}', '.jpg'), tree.find(f'annotations/{folder}', '.png'),
        image_place=f'{tree.place}/images/{folder}/<id>.jpg',
        label_place=f'{tree.place}/annotations/{folder}/<id>.png')
            for split, folder in _SPLITS.items()}
