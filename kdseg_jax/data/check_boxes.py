"""Checks a folder of images with boxes before training: every file, every problem."""

from __future__ import annotations

import collections
import concurrent.futures
import hashlib
import itertools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tqdm

from kdseg_jax.coco_ap import AREAS
from kdseg_jax.data import boxed, check_classes, coco, files, voc_boxes
from kdseg_jax.report import tables

LAYOUTS = {'voc_boxes': voc_boxes.Layout, 'coco': coco.Layout}
_SIZES = ('small', 'medium', 'large')
_MOST_LISTED = 5  # boxes without an area, pairs of equal images


class Split(NamedTuple):
  """What a split holds.

  Attributes:
    images: number of images.
    without: number of images without a box.
    sizes: number of images of each (height, width).
    boxes: `(C, 3)` int64, boxes of each class that are small, medium and large, without crowds.
    occurrences: `(C,)` int64, images in which each class occurs.
    crowd: number of crowds and difficult objects.
    most: the most boxes of an image.
    degenerate: a line for each box without an area.
  """

  images: int
  without: int
  sizes: collections.Counter
  boxes: np.ndarray
  occurrences: np.ndarray
  crowd: int
  most: int
  degenerate: list[str]


class Report(NamedTuple):
  """Result of a check: the classes (empty if they cannot be told), each split, the problems."""

  classes: tuple[str, ...]
  splits: dict[str, Split]
  problems: list[str]


def check(root: str | pathlib.Path, layout: str) -> Report:
  """Reads every image and annotation of a folder.

  Args:
    root: the folder.
    layout: in `LAYOUTS`.

  Raises:
    UserError, NotFoundError: the folder has not this layout.
  """
  place = LAYOUTS[layout](root)
  found, problems = {}, []
  if not place.splits:
    problems.append(f'{place.root}: has no split.')
  for split in place.splits:
    try:
      found[split] = place.find(split)
    except (ValueError, OSError) as error:
      problems.append(str(error))
  classes = next((classes for _, classes in found.values()), ())
  for split, (_, others) in found.items():
    if others != classes:
      problems.append(f'{place.root}: {split} has the classes {", ".join(others)}, and another '
                      f'split {", ".join(classes)}; expected the same in the same order.')
  splits = {}
  digests: dict[str, dict[bytes, pathlib.Path]] = {}
  for split, (images, _) in found.items():
    problems += images.problems
    digests[split], unreadable = _read(images.images, split)
    problems += unreadable
    splits[split] = _count(images, len(classes))
  problems += _lacking(splits, classes) + in_two_splits(digests)
  return Report(classes, splits, list(dict.fromkeys(problems)))


def describe(report: Report) -> str:
  """The report as text."""
  splits = report.splits
  overview = tables.table(
      ['split', 'images', 'without boxes', 'boxes', 'small', 'medium', 'large', 'crowd',
       'no area', 'most in one', 'sizes (height x width)'],
      [(name, split.images, split.without, split.boxes.sum(), *split.boxes.sum(axis=0), split.crowd,
        len(split.degenerate), split.most, check_classes.shown_sizes(split.sizes))
       for name, split in splits.items()])
  classes = tables.table(
      ['class', *(f'{name} {what}' for name in splits for what in ('boxes', 'images'))],
      [[f'{index} {name}', *(cell for split in splits.values() for cell in (
          split.boxes[index].sum(), split.occurrences[index]))]
       for index, name in enumerate(report.classes)])
  lines = [overview, 'Small boxes have an area up to 32x32 pixels, medium ones up to 96x96. Crowds '
           '(of VOC: difficult objects) are neither learned nor counted.', '', classes, '']
  for name, split in splits.items():
    absent = [label for label, count in zip(report.classes, split.boxes.sum(axis=1)) if not count]
    if absent and name != 'train':  # there it is a problem
      lines.append(f'Note: {name} has no box of {", ".join(absent)}.')
    if split.degenerate:
      more = len(split.degenerate) - _MOST_LISTED
      lines += [f'Note: boxes of {name} without an area, {len(split.degenerate)}, are left out:',
                *(f'  {line}' for line in split.degenerate[:_MOST_LISTED])]
      lines += [f'  ... and {more} more'] if more > 0 else []
  lines += [f'- {problem}' for problem in report.problems]
  lines.append(f'{len(report.problems)} problem{"" if len(report.problems) == 1 else "s"}.')
  return '\n'.join(lines)


def _read(images: Sequence[boxed.Annotated], split: str
          ) -> tuple[dict[bytes, pathlib.Path], list[str]]:
  """A file of each content, and a line for each image that cannot be read or is another one's."""
  with concurrent.futures.ThreadPoolExecutor() as pool:
    read = list(tqdm.tqdm(pool.map(_digest, images), desc=split, total=len(images), unit='image',
                          disable=None))
  digests, twice = distinct(
      [(one.image, digest) for one, (digest, problem) in zip(images, read) if not problem], split)
  return digests, [problem for _, problem in read if problem] + twice


def distinct(pictures: Iterable[tuple[pathlib.Path, bytes]], split: str
             ) -> tuple[dict[bytes, pathlib.Path], list[str]]:
  """The first file of each digest, and a line for each file of a split that is another's."""
  digests: dict[bytes, pathlib.Path] = {}
  problems = []
  for path, digest in pictures:
    if digest in digests:
      problems.append(f'{path} and {digests[digest]}: the same picture twice in {split}; keep one '
                      'of them.')
    digests.setdefault(digest, path)
  return digests, problems


def _digest(one):
  """A number for the content of an image's file, and what is wrong with it, or ''."""
  try:
    content = files.read_bytes(one.image)
    boxed.read_image(one, content)
  except (ValueError, OSError) as error:
    return b'', str(error)
  return digest_of(content), ''


def digest_of(content: bytes) -> bytes:
  """A number for the content of a file."""
  return hashlib.sha256(content).digest()


def _count(found: boxed.Found, num_classes: int) -> Split:
  boxes = np.zeros((num_classes, len(_SIZES)), np.int64)
  occurrences = np.zeros(num_classes, np.int64)
  ends = [AREAS[size][1] for size in _SIZES[:-1]]
  for one in found.images:
    classes = one.classes[~one.crowd]
    np.add.at(boxes, (classes, np.searchsorted(ends, one.area[~one.crowd])), 1)
    occurrences[np.unique(classes)] += 1
  counts = [len(one.classes) for one in found.images]
  return Split(
      len(counts), counts.count(0), collections.Counter(one.size for one in found.images), boxes,
      occurrences, sum(int(one.crowd.sum()) for one in found.images), max(counts, default=0),
      found.degenerate)


def _lacking(splits: Mapping[str, Split], classes: Sequence[str]) -> list[str]:
  """One line for a split without a box, or for train without one of some class."""
  lines = [f'{name}: none of its {split.images} images has a box that counts.'
           for name, split in splits.items() if not split.boxes.any()]
  if 'train' not in splits or not splits['train'].boxes.any():
    return lines
  for label, count in zip(classes, splits['train'].boxes.sum(axis=1)):
    elsewhere = [name for name, split in splits.items() if split.boxes[classes.index(label)].any()]
    if not count:
      lines.append(f'train: has no box of {label}, so that nothing can be learned of it'
                   + (f', but {", ".join(elsewhere)} has' if elsewhere else '')
                   + '. Correct the class, the splits or the list of classes.')
  return lines


def in_two_splits(digests: Mapping[str, Mapping[bytes, pathlib.Path]]) -> list[str]:
  """Lines for pictures that are in two splits, by the files of each digest in each split."""
  lines = []
  for first, second in itertools.combinations(digests, 2):
    shared = [digest for digest in digests[first] if digest in digests[second]]
    lines += [f'{digests[first][digest]} of {first} and {digests[second][digest]} of {second} are '
              'the same picture; results on one split would tell nothing about the other.'
              for digest in shared[:_MOST_LISTED]]
    if len(shared) > _MOST_LISTED:
      lines.append(f'{first} and {second} share {len(shared) - _MOST_LISTED} more pictures.')
  return lines
