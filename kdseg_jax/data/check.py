"""Checks a folder of images and labels or boxes before training: every file, every problem.

python -m kdseg_jax.data.check <folder> --layout=folder

Prints sizes, the share of each class and of ignored pixels, and all problems: files that cannot be
read or do not match, a class without a pixel in train, a split without a labelled pixel, palettes
that differ or give the colours of the list of classes to other classes. It warns of pictures of the
same bytes in two splits or twice in one. Of images with one class each (--layout=class_folder, npz,
cifar10 or cifar100) it prints how many each class has, and warns of images of the same bytes in two
splits or classes. Of boxes (--layout=voc_boxes or coco) it prints the number of each class and
size, crowds and boxes without an area; problems are those outside their image, or all in shares of
it, a class without a box in train, and pictures that are in two splits. Exit status 0 if there is
no problem, 1 if there are some, 2 if the data cannot be checked at all.
"""

from __future__ import annotations

import collections
import concurrent.futures
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tqdm
from absl import flags

from kdseg_jax import paths, program
from kdseg_jax.data import camvid, check_boxes, check_classes, class_list, files, folder, pairs
from kdseg_jax.errors import UserError
from kdseg_jax.report import tables

Color = class_list.Color

_LAYOUTS = {'folder': folder, 'camvid': camvid}
_MOST_SHOWN = 4  # labels of another class's colour
_OTHERS: tuple[Any, ...] = (check_classes, check_boxes)  # data without label maps


class Split(NamedTuple):
  """What a split holds.

  Attributes:
    images: number of pairs.
    sizes: number of images of each (height, width).
    pixels: `(256,)` int64, pixels of each class index; 255 is ignore.
    occurrences: `(256,)` int64, images in which each class index occurs.
    stored: `(256,)` bool, whether each value is stored in its label files.
  """

  images: int
  sizes: collections.Counter
  pixels: np.ndarray
  occurrences: np.ndarray
  stored: np.ndarray


class Report(NamedTuple):
  """The classes (empty if they cannot be told), each split, what is wrong, and what to know."""

  classes: tuple[str, ...]
  splits: dict[str, Split]
  problems: list[str]
  warnings: list[str]


def check(root: str | pathlib.Path, layout: str = 'folder') -> Report:
  """Reads every image and label of a folder.

  Args:
    root: the folder.
    layout: 'folder' or 'camvid'.

  Raises:
    ValueError, FileNotFoundError: the folder has not this layout, or its splits cannot be told.
  """
  module = _LAYOUTS[layout]
  root = module.find_root(root)
  found, splits, problems = {}, {}, []
  for split in module.find_splits(root):
    try:
      found[split], lines = module.find_pairs(root, split)
      problems += lines
      if not found[split]:
        problems.append(f'{root}: the split {split} holds no image with a label.')
    except (ValueError, OSError) as error:
      problems.append(str(error))
  try:
    classes = module.find_classes(root)
  except (ValueError, OSError) as error:
    problems.append(str(error))
    any_label = pairs.LabelMap.identity(files.IGNORE_LABEL)
    classes = class_list.ClassList((), (), any_label)
  colors = Colors()
  digests: dict[str, dict[bytes, pathlib.Path]] = {}
  warnings: list[str] = []
  for split, split_pairs in found.items():
    with concurrent.futures.ThreadPoolExecutor() as pool:
      results = list(tqdm.tqdm(
          pool.map(lambda pair: _examine(pair, classes.label_map), split_pairs), desc=split,
          total=len(split_pairs), unit='image', disable=None))
    splits[split] = _summarize(results)
    problems += [problem for result in results for problem in result['problems']]
    for pair, result in zip(split_pairs, results, strict=True):
      colors.add(pair.label, result['colors'])
    problems += _lacking(split, splits[split], classes.names)
    known = {path for others in digests.values() for path in others.values()}  # in two lists
    digests[split], twice = check_boxes.distinct(
        [(pair.image, result['digest']) for pair, result in zip(split_pairs, results)
         if result['digest'] and pair.image not in known], split)
    warnings += twice
  problems += colors.problems() + colors.of_other_classes(classes)
  warnings += check_boxes.in_two_splits(digests)
  return Report(classes.names, splits, list(dict.fromkeys(problems)), warnings)


class Colors:
  """The colours of stored labels in palettes; one label with two colours has two meanings."""

  def __init__(self):
    self._first: dict[int, tuple[Color, pathlib.Path]] = {}
    self._others: dict[int, list[tuple[Color, pathlib.Path]]] = {}

  def add(self, path: pathlib.Path, colors: Mapping[int, Color]) -> None:
    """Takes the colours of the labels that occur in a file."""
    for stored, color in colors.items():
      first, _ = self._first.setdefault(stored, (color, path))
      if color != first:
        self._others.setdefault(stored, []).append((color, path))

  def problems(self) -> list[str]:
    """One line for each stored label of two colours, with a file of each."""
    lines = []
    for stored, others in sorted(self._others.items()):
      (color, path), (other_color, other) = self._first[stored], others[0]
      more = f' ({len(others) - 1} more files differ from the first)' if len(others) > 1 else ''
      lines.append(
          f'{path} and {other}: label {stored} has the colour {class_list.hexadecimal(color)} in '
          f'the first and {class_list.hexadecimal(other_color)} in the second{more}: their '
          'palettes differ, so the label may mean two classes. Give all files one palette.')
    return lines

  def of_other_classes(self, classes: class_list.ClassList) -> list[str]:
    """A line if labels have the colours that the list gives to other classes, as if swapped."""
    owners = {color: name for name, color in zip(classes.names, classes.colors) if color}
    swapped, strange = [], 0
    for stored, (color, path) in sorted(self._first.items()) if owners else ():
      index = int(classes.label_map(np.array([[stored]], np.uint8), path)[0, 0])
      if color in owners and color != classes.colors[index]:
        swapped.append((color, path, f'label {stored} ({classes.names[index]}) has '
                        f'{class_list.hexadecimal(color)}, the colour of {owners[color]}'))
      elif color not in owners and classes.colors[index]:
        strange += 1
    # A palette that only happens to share some colours with the list has more of its own.
    if len({color for color, *_ in swapped}) < 2 or strange >= len(swapped):
      return []
    lines = [line for *_, line in swapped[:_MOST_SHOWN]]
    more = len(swapped) - len(lines)
    return [f'{swapped[0][1]}: its palette and the list of classes disagree: {"; ".join(lines)}'
            f'{f", and {more} more" if more else ""}. Put the names into the order of the labels, '
            'or correct the colours.']


def _lacking(split, counts, classes):
  """One line for a split without a labelled pixel, or for train without one of some class."""
  labelled = counts.pixels[:files.IGNORE_LABEL]
  if counts.images and not labelled.any():
    return [f'{split}: no pixel of its {counts.images} labels is of a class, all are ignored '
            f'({files.IGNORE_LABEL}).']
  absent = [name for name, pixels in zip(classes, labelled) if not pixels]
  if split != 'train' or not absent or not counts.images:
    return []
  hint = folder.stored_as_masks(np.flatnonzero(counts.stored))
  return [f'train: no pixel is of {", ".join(absent)}, so that nothing can be learned of '
          f'{"it" if len(absent) == 1 else "them"}. '
          f'{hint or "Take the names out, or correct the labels or the splits."}']


def _examine(pair, label_map) -> dict[str, Any]:
  """Size, pixels of each class, colours of stored labels and problems of an example."""
  result: dict[str, Any] = {
      'size': None, 'pixels': np.zeros(256, np.int64), 'stored': np.zeros(256, bool), 'colors': {},
      'digest': b'', 'problems': []}
  image = label = None
  try:
    content = files.read_bytes(pair.image)
    image = files.decode_image(content, pair.image)
    result['size'], result['digest'] = image.shape[:2], check_boxes.digest_of(content)
  except (ValueError, OSError) as error:
    result['problems'].append(str(error))
  try:
    label, palette = files.decode_palette_label(files.read_bytes(pair.label), pair.label)
    result['stored'] = np.bincount(label.ravel(), minlength=256) > 0
    result['pixels'] = np.bincount(label_map(label, pair.label).ravel(), minlength=256)
    result['colors'] = _colors(result['stored'], palette, label_map)
  except (ValueError, OSError) as error:
    result['problems'].append(str(error))
  if image is not None and label is not None:
    try:
      files.check_pair(image, label, image_name=pair.image, label_name=pair.label,
                       image_content=content)
    except ValueError as error:
      result['problems'].append(str(error))
  return result


def _colors(stored, palette, label_map):
  """The colours of the stored labels that occur; what is ignored may have any."""
  values = np.flatnonzero(stored[:len(palette)]).astype(np.uint8)
  classes = label_map(values[None], 'palette')[0]
  return {int(value): tuple(map(int, palette[value]))
          for value in values[classes != files.IGNORE_LABEL]}


def _summarize(results):
  pixels = np.array([result['pixels'] for result in results]).reshape(-1, 256)
  return Split(
      images=len(results), pixels=pixels.sum(axis=0), occurrences=(pixels > 0).sum(axis=0),
      stored=np.any([np.zeros(256, bool), *(result['stored'] for result in results)], axis=0),
      sizes=collections.Counter(result['size'] for result in results if result['size']))


def describe(report: Report) -> str:
  """The report as text."""
  splits = report.splits
  overview = tables.table(['split', 'images', 'ignored', 'sizes (height x width)'], [
      (name, split.images, _percent(split.pixels[files.IGNORE_LABEL], split.pixels.sum()),
       check_classes.shown_sizes(split.sizes)) for name, split in splits.items()])
  classes = tables.table(
      ['class', *(f'{name} {what}' for name in splits for what in ('pixels', 'images'))],
      [[f'{index} {name}', *(cell for split in splits.values() for cell in (
          _percent(split.pixels[index], split.pixels[:files.IGNORE_LABEL].sum()),
          split.occurrences[index]))] for index, name in enumerate(report.classes)])
  lines = [overview, '']
  if report.classes:
    lines += ['Share of each class in the pixels that are not ignored, and the images in which it '
              'occurs:', classes, '']
  for name, split in splits.items():
    absent = [label for index, label in enumerate(report.classes) if not split.occurrences[index]]
    if absent and name != 'train':  # there it is a problem
      lines.append(f'Note: {name} has no pixel of {", ".join(absent)}.')
  lines += [f'Warning: {warning}' for warning in report.warnings]
  lines += [f'- {problem}' for problem in report.problems]
  lines.append(f'{len(report.problems)} problem{"" if len(report.problems) == 1 else "s"}.')
  return '\n'.join(lines)


def _percent(part, whole):
  return f'{100 * part / whole:.2f}%' if whole else '-'


def define_flags(options):
  """`--layout`."""
  flags.DEFINE_enum(
      'layout', 'folder', [*_LAYOUTS, *(name for other in _OTHERS for name in other.LAYOUTS)],
      'folder: images/ labels/ (see kdseg_jax/data/folder.py); camvid: train/ trainannot/ ...; '
      'class_folder: <split>/<class>/<picture>; npz: a file; cifar10, cifar100: their archives; '
      'voc_boxes: JPEGImages/ Annotations/ ...; coco: annotations/ train2017/ ...',
      flag_values=options)


def main(options, arguments):
  """Prints the report; the exit status is 1 if there are problems."""
  if len(arguments) != 1:
    raise UserError('Give one folder: data.check <folder> --layout=<layout>, see --help.')
  root, layout = paths.local(arguments[0]), options.layout
  other = next((module for module in _OTHERS if layout in module.LAYOUTS), None)
  report = other.check(root, layout) if other else check(root, layout)
  print((other.describe if other else describe)(report))
  return 1 if report.problems else 0


PROGRAM = program.Program(main, define_flags, config=None, devices=False)

if __name__ == '__main__':
  PROGRAM.run()
