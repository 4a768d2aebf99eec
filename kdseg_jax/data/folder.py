"""Segmentation data of one's own: a folder of images, a folder of labels, a list of classes."""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import pathlib
from collections.abc import Iterable

import numpy as np

from kdseg_jax import names
from kdseg_jax.data import class_list, files, pairs
from kdseg_jax.errors import NotFoundError, UserError

SPLITS = ('train', 'val', 'test')
_LAYOUT = 'images/<split>/ labels/<split>/, or images/ labels/ without subfolders'
_VAL_EVERY = 10


class Folder(pairs.PairSource):
  """Images and label PNGs of the same stem in `<root>/images` and `<root>/labels`.

  Splits are, as in mmsegmentation, subfolders of both: `images/train/ labels/train/ images/val/
  labels/val/`, `test` alike. Without subfolders they are the lists `train.txt`, `val.txt`,
  `test.txt` in the root, a stem a line. Without lists either, every 10th image in sorted order, the
  first included, is val and the others are train: write lists where neighbouring images are alike,
  such as frames of a video.

  Labels are class indices from 0, and 255 = ignore. `<root>/classes.txt` names the classes, one a
  line in label order. White space and `#rrggbb` behind a name give it its colour, and lines before
  the names say what stored labels mean that are no class index, `<stored value>=<class>`:

      labels: 255=1, 11=255
      background
      crack  #d02020

  Without `classes.txt` all labels are read once, and their values must be 0 to C - 1.

  Folders and files may be symbolic links; hidden ones are left out. Names of images, labels and
  lists are compared in composed Unicode (NFC), whatever form each is written in.

  Args:
    split: 'train', 'val' or 'test'.
    root: the folder; None or '' is `$KDSEG_DATA`.
    size: (height, width) to which images (by area when shrinking) and labels (nearest pixel) are
      resized; None keeps their own.

  Raises:
    ValueError: unknown split, no root given, an image without label or a label without image, a
      name in two lists, an ambiguous layout or number of classes; on reading, a damaged file, a
      label that is no class, image and label of different size, or an EXIF orientation.
    FileNotFoundError: a folder, a list or every image of the split is missing.
  """

  def __init__(self, split: str, *, root: str | os.PathLike | None = None,
               size: tuple[int, int] | None = None):
    names.require(split, SPLITS, 'split of folder')
    root = find_root(root)
    found, problems = find_pairs(root, split)
    pairs.require_none(problems)
    if not found:
      raise NotFoundError(f'{root}: the split {split} holds no image.')
    classes = find_classes(root)
    self.classes, self.palette = classes.names, classes.palette
    super().__init__(found, label_map=classes.label_map, size=size)


def find_root(root: str | os.PathLike | None) -> pathlib.Path:
  """`root`, or `$KDSEG_DATA`.

  Raises:
    ValueError: there is neither.
    FileNotFoundError: `images` or `labels` is missing there.
  """
  given = root or os.environ.get('KDSEG_DATA')
  if not given:
    raise UserError('A folder of your own data needs its place: give root '
                    '(--config.data.root=<folder>) or set $KDSEG_DATA to it. It holds images/ and '
                    'labels/.')
  for folder in ('images', 'labels'):
    if not (pathlib.Path(given) / folder).is_dir():
      raise NotFoundError(f'{pathlib.Path(given) / folder}: no such folder; the layout is '
                          f'{_LAYOUT}.')
  return pathlib.Path(given)


def find_splits(root: pathlib.Path) -> list[str]:
  """The splits that a root holds.

  Raises:
    ValueError: pictures lie both in `images` or `labels` and in subfolders, or a subfolder is no
      split.
  """
  folders = sorted({path.name for parent in _parents(root)
                    for path in files.subfolders_of(parent)})
  for parent in _parents(root):
    if folders and files.images_in(parent):
      raise UserError(f'{parent}: holds pictures beside the folders {", ".join(folders)}; '
                      f'expected one of both: {_LAYOUT}.')
  for folder in folders:
    names.require(folder, SPLITS, f'split in {root / "images"} and {root / "labels"}')
  listed = [split for split in SPLITS if _list_of(root, split).exists()]
  if folders and listed:
    raise UserError(f'{root}: has folders of splits in images/ and {listed[0]}.txt; remove one of '
                    'both.')
  return folders or listed or ['train', 'val']


def find_pairs(root: pathlib.Path, split: str) -> tuple[list[pairs.Pair], list[str]]:
  """The pairs of a split and the problems of its folders, as `pairs.find_pairs`.

  Raises:
    FileNotFoundError: the root has no such split.
  """
  splits = find_splits(root)
  if split not in splits:
    raise NotFoundError(
        f'{root}: has no split {split}, only {", ".join(splits)}; expected the folders '
        f'images/{split}/ and labels/{split}/, or the list {split}.txt.')
  images, labels = _parents(root)
  if (images / split).is_dir() or (labels / split).is_dir():
    return pairs.find_pairs(images / split, labels / split, layout=_LAYOUT)
  if _list_of(root, split).exists():
    stems = class_list.read_lines(_list_of(root, split))
    found, problems = pairs.find_pairs(images, labels, layout=_LAYOUT, stems=sorted(stems))
    return found, problems + _in_two_lists(root)
  found, problems = pairs.find_pairs(images, labels, layout=_LAYOUT)
  return [pair for index, pair in enumerate(found)
          if (index % _VAL_EVERY == 0) == (split == 'val')], problems


def find_classes(root: pathlib.Path) -> class_list.ClassList:
  """The classes and the meaning of the stored labels: from `classes.txt`, else from all labels.

  Raises:
    ValueError: `classes.txt` cannot be used, see `class_list.read`; or, without it, labels that are
      not 0 to C - 1; also a label file that cannot be read.
  """
  path = root / 'classes.txt'
  if path.exists():
    return class_list.read(path)
  values = np.flatnonzero(_scan(root))
  classes = values[values != files.IGNORE_LABEL]
  write = f'Write {path} with one name a line, in label order'
  if len(classes) < 2:
    advice = stored_as_masks(values) or (
        f'Store the classes as 0, 1, ... {write} if some just do not occur.')
    raise UserError(f'{root / "labels"}: all labels are {", ".join(map(str, values)) or "missing"}'
                    '; expected two classes or more, from 0; 255 means ignore, not a class. '
                    f'{advice}')
  missing = np.setdiff1d(np.arange(classes[-1]), classes)
  if len(missing):
    raise UserError(
        f'{root / "labels"}: the labels reach to {classes[-1]}, but {", ".join(map(str, missing))} '
        f'do{"" if len(missing) > 1 else "es"} not occur, so the number of classes is ambiguous. '
        f'{write}; labels must be its lines, counted from 0, or 255 = ignore.')
  return class_list.ClassList.plain([f'class {index}' for index in range(int(classes[-1]) + 1)])


def stored_as_masks(values: Iterable[int]) -> str:
  """What to do where the only labels are 0 and 255, as of masks saved in black and white; or ''."""
  if set(map(int, values)) != {0, files.IGNORE_LABEL}:
    return ''
  return ('These are masks saved as 0 and 255, where 255 means ignore and no class: store 1 in its '
          'place, or write "labels: 255=1" into classes.txt, before the two names.')


def _parents(root):
  return root / 'images', root / 'labels'


def _in_two_lists(root):
  """One line for each name that stands in two lists."""
  lists = {split: set(class_list.read_lines(_list_of(root, split)))
           for split in SPLITS if _list_of(root, split).exists()}
  return [f'{root}: {stem} is in {first}.txt and {second}.txt; results on one would tell nothing '
          'about the other. Take it out of one list.'
          for first, second in itertools.combinations(lists, 2)
          for stem in sorted(lists[first] & lists[second])]


def _list_of(root, split):
  return root / f'{split}.txt'


def _scan(root):
  """Which of the 256 values occur in the labels of a root, of all splits."""
  folder = root / 'labels'
  paths = [path for place in (folder, *files.subfolders_of(folder))
           for path in files.images_in(place) if path.suffix.lower() == '.png']
  with concurrent.futures.ThreadPoolExecutor() as pool:
    return np.any([np.zeros(256, bool), *pool.map(
        lambda path: np.bincount(files.read_label(path).ravel(), minlength=256) > 0, paths)],
        axis=0)
