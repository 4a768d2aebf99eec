"""Segmentation data of one's own: a folder of images, a folder of labels, a list of classes."""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import pathlib

import numpy as np

from kdseg_jax import names
from kdseg_jax.data import files, pairs, palettes
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
  line in label order. Without it all labels are read once, and their values must be 0 to C - 1.

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
    self.classes, label_map = find_classes(root)
    self.palette = palettes.default_palette(len(self.classes))
    super().__init__(found, label_map=label_map, size=size)


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
  folders = sorted({path.name for parent in _parents(root) for path in parent.iterdir()
                    if path.is_dir() and not path.name.startswith('.')})
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
    stems = read_lines(_list_of(root, split))
    found, problems = pairs.find_pairs(images, labels, layout=_LAYOUT, stems=sorted(stems))
    return found, problems + _in_two_lists(root)
  found, problems = pairs.find_pairs(images, labels, layout=_LAYOUT)
  return [pair for index, pair in enumerate(found)
          if (index % _VAL_EVERY == 0) == (split == 'val')], problems


def find_classes(root: pathlib.Path) -> tuple[tuple[str, ...], pairs.LabelMap]:
  """The classes, and the meaning of the stored labels: from `classes.txt`, else from all labels.

  Raises:
    ValueError: an empty or repeated name, too many or too few, or, without `classes.txt`, labels
      that are not 0 to C - 1; also a label file that cannot be read.
  """
  path = root / 'classes.txt'
  if path.exists():
    classes = tuple(read_lines(path))
    if not 2 <= len(classes) <= files.IGNORE_LABEL:
      raise UserError(f'{path}: names {len(classes)} classes; expected 2 to 255, one a line.')
    return classes, pairs.LabelMap.identity(len(classes))
  values = np.flatnonzero(_scan(root / 'labels'))
  classes = values[values != files.IGNORE_LABEL]
  write = f'Write {path} with one name a line, in label order'
  if len(classes) < 2:
    raise UserError(f'{root / "labels"}: all labels are {", ".join(map(str, values)) or "missing"}'
                     '; expected two classes or more, from 0; 255 means ignore, not a class. Store '
                     f'the classes as 0, 1, ... {write} if some just do not occur.')
  missing = np.setdiff1d(np.arange(classes[-1]), classes)
  if len(missing):
    raise UserError(
        f'{root / "labels"}: the labels reach to {classes[-1]}, but {", ".join(map(str, missing))} '
        f'do{"" if len(missing) > 1 else "es"} not occur, so the number of classes is ambiguous. '
        f'{write}; labels must be its lines, counted from 0, or 255 = ignore.')
  count = int(classes[-1]) + 1
  return tuple(f'class {index}' for index in range(count)), pairs.LabelMap.identity(count)


def read_lines(path: pathlib.Path) -> list[str]:
  """The lines of a text file, without blank ones at its end.

  Raises:
    ValueError: the file is empty, is not text, or a line is blank or a repetition.
  """
  try:
    lines = [line.strip() for line in path.read_text('utf-8-sig').rstrip().splitlines()]
  except UnicodeDecodeError as error:
    raise UserError(f'{path}: is not UTF-8 text ({error}).') from error
  seen = {}
  for number, line in enumerate(lines, 1):
    if not line:
      raise UserError(f'{path}: line {number} is blank; expected a name on each line.')
    if line in seen:
      raise UserError(f'{path}: line {number} repeats line {seen[line]}, {line!r}; expected each '
                       'name once.')
    seen[line] = number
  if not lines:
    raise UserError(f'{path}: is empty; expected one name a line.')
  return lines


def _parents(root):
  return root / 'images', root / 'labels'


def _in_two_lists(root):
  """One line for each name that stands in two lists."""
  lists = {split: set(read_lines(_list_of(root, split)))
           for split in SPLITS if _list_of(root, split).exists()}
  return [f'{root}: {stem} is in {first}.txt and {second}.txt; results on one would tell nothing '
          'about the other. Take it out of one list.'
          for first, second in itertools.combinations(lists, 2)
          for stem in sorted(lists[first] & lists[second])]


def _list_of(root, split):
  return root / f'{split}.txt'


def _scan(folder):
  """Which of the 256 values occur in the label PNGs in a folder and its subfolders."""
  def values(path):
    return np.bincount(files.read_label(path).ravel(), minlength=256) > 0
  paths = sorted(path for path in folder.rglob('*')
                 if path.suffix.lower() == '.png' and not path.name.startswith('.'))
  with concurrent.futures.ThreadPoolExecutor() as pool:
    return np.any([np.zeros(256, bool), *pool.map(values, paths)], axis=0)
