"""CamVid: 11 classes of street scenes, in the folder layout of the SegNet authors."""

from __future__ import annotations

import os
import pathlib

from kdseg_jax import names
from kdseg_jax.data import class_list, files, pairs, palettes
from kdseg_jax.errors import NotFoundError, UserError

CLASSES = ('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign-symbol', 'fence', 'car',
           'pedestrian', 'bicyclist')
LABELS = pairs.LabelMap(
    {**{index: index for index in range(11)}, 11: files.IGNORE_LABEL},
    'class indices 0 to 10 and 11 = void, as in the label PNGs of the SegNet tutorial')
SPLITS = ('train', 'val', 'test')
_LAYOUT = 'train/ trainannot/ val/ valannot/ test/ testannot/'


class CamVid(pairs.PairSource):
  """CamVid (Brostow et al., 2009) as prepared for SegNet (Badrinarayanan et al., 2017).

  Layout of the root: `train/ trainannot/ val/ valannot/ test/ testannot/`, images as PNG or JPEG,
  labels as PNG of the same stem. Label 11 (void) becomes 255 (ignore).

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
    names.require(split, SPLITS, 'split of camvid')
    root = find_root(root)
    found, problems = find_pairs(root, split)
    pairs.require_none(problems)
    if not found:
      raise NotFoundError(f'{root / split}: holds no PNG or JPEG image; expected the images of '
                          f'CamVid {split} there.')
    super().__init__(found, label_map=LABELS, size=size)


def find_root(root: str | os.PathLike | None) -> pathlib.Path:
  """The folder that holds the splits: `root`, or `$KDSEG_DATA`, or `camvid` in one of them.

  Raises:
    ValueError: there is neither.
    FileNotFoundError: it holds no folder of a split.
  """
  given = root or os.environ.get('KDSEG_DATA')
  if not given:
    raise UserError('CamVid needs its folder: give root (--config.data.root=<folder>) or set '
                    '$KDSEG_DATA to it. It holds train/, trainannot/, val/, valannot/, ...')
  for folder in (pathlib.Path(given), pathlib.Path(given, 'camvid')):
    if any((folder / split).is_dir() for split in SPLITS):
      return folder
  source = 'root' if root else '$KDSEG_DATA'
  raise NotFoundError(
      f'{source}={given}: no CamVid there: expected the folders train/, trainannot/, val/, '
      f'valannot/, ... in it or in {pathlib.Path(given, "camvid")}.')


def find_splits(root: pathlib.Path) -> list[str]:
  """The splits that a root holds."""
  return [split for split in SPLITS
          if (root / split).is_dir() or (root / f'{split}annot').is_dir()]


def find_pairs(root: pathlib.Path, split: str) -> tuple[list[pairs.Pair], list[str]]:
  """The pairs of a split and the problems of its folders, as `pairs.find_pairs`."""
  return pairs.find_pairs(root / split, root / f'{split}annot', layout=_LAYOUT)


def find_classes(root: pathlib.Path) -> class_list.ClassList:
  """The classes, and the meaning of the stored labels."""
  del root  # the same for every folder
  return class_list.ClassList(CLASSES, tuple(map(tuple, palettes.CAMVID.tolist())), LABELS)
