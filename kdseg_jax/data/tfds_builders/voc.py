"""Pascal VOC 2012 segmentation with the labels of SBD."""

from __future__ import annotations

from kdseg_jax.data import pairs, palettes
from kdseg_jax.data.tfds_builders import base, trees

_VOC = 'VOCtrainval_11-May-2012.tar'
_SBD, _SBD_FOLDER = 'benchmark.tgz', 'benchmark_RELEASE/dataset'


class Voc(base.Builder):
  """Pascal VOC 2012, 21 classes: `train` is what papers call trainaug, `val` VOC's own.

  Trainaug (Hariharan et al., 2011) are the 1,464 images of VOC's train list with VOC's labels, and
  those of SBD in neither of VOC's lists with SBD's labels, which have no ignored borders. With
  `allow_partial`, SBD may be missing.
  """

  name = 'kdseg_voc'
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      f'Download {_VOC} from http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ and {_SBD} (SBD) from '
      'http://home.bharathh.info/pubs/codes/SBD/ into the manual directory, or extract them there.')
  TITLE = 'Pascal VOC 2012 (Everingham et al.) with SBD (Hariharan et al., ICCV 2011).'
  HOMEPAGE = 'http://host.robots.ox.ac.uk/pascal/VOC/voc2012/'
  CLASSES = (
      'background', 'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair',
      'cow', 'diningtable', 'dog', 'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa',
      'train', 'tvmonitor')
  PALETTE = palettes.voc_palette(21)
  COUNTS = {'train': 10_582, 'val': 1_449}
  LABELS = pairs.LabelMap.identity(21)

  def find(self, manual_dir):
    voc = trees.open_tree(manual_dir, _VOC, 'VOCdevkit/VOC2012')
    image, label = 'JPEGImages/<id>.jpg', 'SegmentationClass/<id>.png'
    stems = {split: base.stems_of(voc, f'ImageSets/Segmentation/{split}.txt')
             for split in self.COUNTS}
    splits = {split: base.listed(stems[split], voc, image, voc, label) for split in self.COUNTS}
    if not self.allow_partial or trees.has(manual_dir, _SBD, _SBD_FOLDER):
      sbd = trees.open_tree(manual_dir, _SBD, _SBD_FOLDER, unneeded=('img', 'inst'))
      more = {*base.stems_of(sbd, 'train.txt'), *base.stems_of(sbd, 'val.txt')}
      more -= {*stems['train'], *stems['val']}
      splits['train'] |= base.listed(sorted(more), voc, image, sbd, 'cls/<id>.mat')
    return splits

  def read_label(self, member):
    if member.place.endswith('.mat'):
      return base.read_mat(member, 'GTcls', 'Segmentation')
    return super().read_label(member)
