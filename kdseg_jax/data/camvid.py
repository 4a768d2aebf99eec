"""CamVid: 11 classes of street scenes, in the folder layout of the SegNet authors."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np

from kdseg_jax import names
from kdseg_jax.data import files, palettes

CLASSES = ('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign-symbol', 'fence', 'car',
           'pedestrian', 'bicyclist')
_VOID = 11
_SPLITS = ('train', 'val', 'test')


class CamVid:
  """CamVid (Brostow et al., 2009) as prepared for SegNet (Badrinarayanan et al., 2017).

  Layout of the root: `train/ trainannot/ val/ valannot/ test/ testannot/`, images as PNG or JPEG,
  labels as PNG of the same stem. Label 11 (void) becomes 255 (ignore).

  `source[i]` is a dict of `image` `(H, W, 3)` uint8 RGB, `label` `(H, W)` uint8 and `image_id`, the
  stem of the file.

  Args:
    split: 'train', 'val' or 'test'.
    root: the folder, or the folder that holds it as `camvid`; None or '' is `$KDSEG_DATA`.
    size: (height, width) to which images (by area when shrinking) and labels (nearest pixel) are
      resized; None keeps their own.

  Raises:
    ValueError: unknown split, no root given, an image without label or a label without image, two
      images of one stem; on reading, a damaged file, a label outside 0 to 11, or image and label of
      different size.
    FileNotFoundError: the root, a folder of the split, or every image in it is missing.
  """

  classes = CLASSES
  palette = palettes.CAMVID

  def __init__(self, split: str, *, root: str | os.PathLike | None = None,
               size: tuple[int, int] | None = None):
    names.require(split, _SPLITS, 'split of camvid')
    self.size = tuple(size) if size else None
    self._pairs = _pair(_find_root(root), split)

  def __len__(self) -> int:
    return len(self._pairs)

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < len(self):
      raise IndexError(f'Image {index} does not exist: there are {len(self)}.')
    image_path, label_path = self._pairs[index]
    image, label = files.read_image(image_path), _read_label(label_path)
    if image.shape[:2] != label.shape:
      raise ValueError(f'{label_path}: is {label.shape} (height, width), but its image '
                       f'{image_path} is {image.shape[:2]}; expected the same size.')
    if self.size:
      image = files.resize_image(image, self.size)
      label = files.resize_label(label, self.size)
    return {'image': image, 'label': label, 'image_id': image_path.stem}


def _read_label(path):
  label = files.read_label(path)
  if label.max() > _VOID:
    raise ValueError(f'{path}: holds label {label.max()}; expected class indices 0 to 10 and '
                     '11 = void. Use the label PNGs of the SegNet tutorial, or map these to them.')
  return np.where(label == _VOID, np.uint8(files.IGNORE_LABEL), label)


def _find_root(root):
  """The folder that holds the splits."""
  given = root or os.environ.get('KDSEG_DATA')
  if not given:
    raise ValueError('CamVid needs its folder: give root (--config.data.root=<folder>) or set '
                     '$KDSEG_DATA to it. It holds train/, trainannot/, val/, valannot/, ...')
  for folder in (pathlib.Path(given), pathlib.Path(given, 'camvid')):
    if any((folder / split).is_dir() for split in _SPLITS):
      return folder
  source = 'root' if root else '$KDSEG_DATA'
  raise FileNotFoundError(
      f'{source}={given}: no CamVid there: expected the folders train/, trainannot/, val/, '
      f'valannot/, ... in it or in {pathlib.Path(given, "camvid")}.')


def _pair(root, split):
  """(image, label) paths of a split, sorted by stem."""
  images, labels = (_by_stem(root / name) for name in (split, f'{split}annot'))
  if not images:
    raise FileNotFoundError(f'{root / split}: holds no PNG or JPEG image; expected the images of '
                            f'CamVid {split} there.')
  for path in labels.values():
    if path.suffix.lower() != '.png':
      raise ValueError(f'{path}: labels must be PNG; lossy formats change class indices.')
  for stem in sorted(images.keys() ^ labels.keys()):
    if stem in images:
      raise ValueError(f'{images[stem]}: has no label; expected '
                       f'{root / f"{split}annot" / stem}.png. Add it, or remove the image.')
    raise ValueError(f'{labels[stem]}: has no image; expected {root / split / stem}.png or .jpg. '
                     'Add it, or remove the label.')
  return [(images[stem], labels[stem]) for stem in sorted(images)]


def _by_stem(folder):
  if not folder.is_dir():
    raise FileNotFoundError(f'{folder}: no such folder; the layout is train/ trainannot/ val/ '
                            'valannot/ test/ testannot/.')
  found = {}
  for path in files.images_in(folder):
    if path.stem in found:
      raise ValueError(f'{path} and {found[path.stem]}: same name twice; keep one of them.')
    found[path.stem] = path
  return found
