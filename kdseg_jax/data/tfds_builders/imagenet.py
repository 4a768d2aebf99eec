"""ImageNet, the 1,000 classes of ILSVRC 2012."""

from __future__ import annotations

import io
import pathlib
import re

import cv2
import numpy as np
import scipy.io

from kdseg_jax import names
from kdseg_jax.data import class_names, metadata
from kdseg_jax.data.tfds_builders import classified, trees
from kdseg_jax.errors import NotFoundError, UserError

_TRAIN, _VAL = 'ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar'
_DEVKIT, _DEVKIT_FOLDER = 'ILSVRC2012_devkit_t12.tar.gz', 'ILSVRC2012_devkit_t12'
_TRUTH, _META = 'data/ILSVRC2012_validation_ground_truth.txt', 'data/meta.mat'
_VAL_IMAGE = re.compile(r'ILSVRC2012_val_(\d{8})\.JPEG')


class ImageNet(classified.ClassBuilder):
  """ILSVRC 2012, classes in the order of their synsets, as torchvision and keras have them.

  Images are stored as they are in the archives; but one, which is a PNG with an alpha channel,
  without that channel. With `allow_partial`, the archive of a split may be missing. Of images with
  an EXIF orientation the sources here give the upright view, where other code takes the stored one.
  """

  name = 'kdseg_imagenet'
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      f'Download {_TRAIN}, {_VAL} and {_DEVKIT} (the labels of val) from https://image-net.org '
      '(after registering) into the manual directory; do not extract the images. A copy that is '
      'extracted into train/<synset>/ and val/<synset>/ is read as it is, by '
      '--config.data.name=class_folder.')
  TITLE = 'ImageNet, ILSVRC 2012 (Russakovsky et al., IJCV 2015), 1,000 classes.'
  HOMEPAGE = 'https://image-net.org'
  CLASSES = class_names.imagenet()
  PALETTE = class_names.palette_of(1000)
  COUNTS = {'train': 1_281_167, 'val': 50_000}

  def find(self, manual_dir):
    archives = {'train': (_TRAIN, _find_train), 'val': (_VAL, self._find_val)}
    found = {}
    for split, (name, find) in archives.items():
      if (manual_dir / name).exists():
        found[split] = find(manual_dir / name)
      elif not self.allow_partial:
        raise NotFoundError(f'{manual_dir}: lacks {name}. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}')
    return found

  def read_image(self, image):
    content = image.read()
    if not content.startswith(metadata.PNG_SIGNATURE):
      return content
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    return content if pixels is None else cv2.imencode('.png', pixels)[1].tobytes()

  def _find_val(self, path):
    devkit = trees.open_tree(path.parent, _DEVKIT, _DEVKIT_FOLDER)
    labels = _labels_of_val(devkit)
    if len(labels) != self.COUNTS['val'] and not self.allow_partial:
      raise UserError(f'{devkit[_TRUTH]}: holds {len(labels)} labels; expected '
                      f'{self.COUNTS["val"]}, one of each image of val. Download {_DEVKIT} again.')
    found = {}
    for image in trees.stored_in(path):
      name = pathlib.PurePosixPath(image.name).name
      match = _VAL_IMAGE.fullmatch(name)
      if not match:
        raise UserError(f'{image}: is no image of val; expected ILSVRC2012_val_<number>.JPEG, '
                        f'number 00000001 and up. Download {_VAL} again.')
      number = int(match[1])
      if not 1 <= number <= len(labels):
        raise UserError(f'{image}: has no label: {devkit[_TRUTH]} holds those of images 1 to '
                        f'{len(labels)}. Download both archives again.')
      found[name.removesuffix('.JPEG')] = classified.ClassExample(image, labels[number - 1])
    return found


def _find_train(path):
  """The examples of the tar of tars, one of each synset."""
  indices = {f'{synset}.tar': index for index, synset in enumerate(class_names.synsets())}
  found = {}
  for archive in trees.stored_in(path):
    if archive.name not in indices:
      raise UserError(f'{archive}: is no synset of ILSVRC 2012; expected n01440764.tar and its '
                      f'like, {len(indices)} in all.{names.hint(archive.name, indices)} Download '
                      f'{_TRAIN} again.')
    for image in trees.stored_in(path, within=archive):
      name = pathlib.PurePosixPath(image.name).name
      if not name.startswith(f'{archive.name.removesuffix(".tar")}_'):
        raise UserError(f'{image}: does not belong there; expected '
                        f'{archive.name.removesuffix(".tar")}_<number>.JPEG. Download {_TRAIN} '
                        'again.')
      found[name.removesuffix('.JPEG')] = classified.ClassExample(image, indices[archive.name])
  return found


def _labels_of_val(devkit):
  """The class index of every image of val, in the order of their numbers."""
  index_of = _indices_of_ids(devkit[_META])
  labels = []
  for number, line in enumerate(devkit.lines(_TRUTH), start=1):
    if not line.strip():
      continue
    if line.strip() not in index_of:
      raise UserError(f'{devkit[_TRUTH]}: line {number}, {line.strip()!r}, is no class; expected '
                      f'the ILSVRC2012_ID of one, 1 to {len(index_of)}. Download {_DEVKIT} again.')
    labels.append(index_of[line.strip()])
  return labels


def _indices_of_ids(member):
  """ILSVRC2012_ID, as text -> class index, from the devkit's table of synsets."""
  synsets = {synset: index for index, synset in enumerate(class_names.synsets())}
  try:
    table = scipy.io.loadmat(io.BytesIO(member.read()), squeeze_me=True)['synsets']
    rows = list(zip(map(int, np.atleast_1d(table['ILSVRC2012_ID'])),
                    map(str, np.atleast_1d(table['WNID'])), strict=True))
  except UserError:
    raise
  except Exception as error:  # scipy raises whatever the bytes lead it to
    raise UserError(f'{member}: is no MATLAB file with synsets, their ILSVRC2012_ID and WNID '
                    f'({error}). Download {_DEVKIT} again.') from error
  rows = [(number, synset) for number, synset in rows if number <= len(synsets)]
  for number, synset in rows:  # those with larger ids are what the classes have in common
    if synset not in synsets:
      raise UserError(f'{member}: synset {synset} of ILSVRC2012_ID {number} is none of the '
                      f'{len(synsets)} of ILSVRC 2012. Download {_DEVKIT} again.')
  return {str(number): synsets[synset] for number, synset in rows}
