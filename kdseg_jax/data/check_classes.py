"""What `data.check` finds in data with one class an image, by the layouts of their sources."""

from __future__ import annotations

import collections
import concurrent.futures
import hashlib
import itertools
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tqdm

from kdseg_jax.data import cifar, class_names, classified, files
from kdseg_jax.errors import UserError
from kdseg_jax.report import tables

_TRAIN = 'train'
_SHOWN = 3  # sizes


class Split(NamedTuple):
  """What a split holds.

  Attributes:
    counts: `(C,)` int64, images of each class that can be read.
    sizes: number of images of each (height, width).
  """

  counts: np.ndarray
  sizes: collections.Counter


class Report(NamedTuple):
  """Result of a check: the classes, each split, what is wrong, and what to know of the results."""

  classes: tuple[str, ...]
  splits: dict[str, Split]
  problems: list[str]
  warnings: list[str]


class _Found(NamedTuple):
  """Splits before their images are read: `(name, class, read)` of each, read -> bytes, pixels."""

  classes: tuple[str, ...]
  splits: dict[str, list[tuple[str, int, Callable[[], tuple[bytes, np.ndarray]]]]]
  problems: list[str]


class _Image(NamedTuple):
  """An image that was read; `problem` says why it could not be."""

  name: str
  label: int
  size: tuple[int, int] | None
  digest: bytes
  problem: str = ''


def check(root: str | pathlib.Path, layout: str) -> Report:
  """Reads every image of a data set.

  Args:
    root: its folder or file.
    layout: of `LAYOUTS`: the name of its source.

  Raises:
    UserError: the root has not this layout.
  """
  found = LAYOUTS[layout](root)
  problems, images = list(found.problems), {}
  for split, entries in found.splits.items():
    with concurrent.futures.ThreadPoolExecutor() as pool:
      images[split] = list(tqdm.tqdm(
          pool.map(_examine, entries), desc=split, total=len(entries), unit='image', disable=None))
    problems += [image.problem for image in images[split] if image.problem]
    images[split] = [image for image in images[split] if not image.problem]
  splits = {split: Split(
      np.bincount(np.array([image.label for image in read], np.int64),
                  minlength=len(found.classes)),
      collections.Counter(image.size for image in read)) for split, read in images.items()}
  if _TRAIN in splits:
    absent = _absent(found.classes, splits[_TRAIN])
    if absent:
      problems.append(f'{_TRAIN}: has no image of {absent}, so that nothing can be learned of it. '
                      'Add some, or take the class out.')
  return Report(found.classes, splits, problems, _duplicates(images))


def _examine(entry):
  name, label, read = entry
  try:
    content, pixels = read()
  except (ValueError, OSError) as error:
    return _Image(name, label, None, b'', str(error))
  return _Image(name, label, pixels.shape[:2], hashlib.blake2b(content, digest_size=16).digest())


def _duplicates(images):
  """Lines on images of the same bytes: in two splits, in two classes, and else."""
  groups = collections.defaultdict(list)
  for split, read in images.items():
    for image in read:
      groups[image.digest].append((split, image))
  groups = [group for group in groups.values() if len(group) > 1]
  lines = []
  for first, second in itertools.combinations(images, 2):
    shared = [(_first(group, first), _first(group, second)) for group in groups
              if {first, second} <= {split for split, _ in group}]
    if shared:
      lines.append(
          f'{first} and {second} share {_images(shared)} (the same bytes), of '
          f'{len(images[second])} in {second}: results on {second} say less of new images. '
          f'{_pair(shared)}')
  other = [(group[0][1], next(image for _, image in group if image.label != group[0][1].label))
           for group in groups if len({image.label for _, image in group}) > 1]
  if other:
    lines.append(f'{_images(other)} {"is" if len(other) == 1 else "are"} of two classes or more '
                 f'(the same bytes). {_pair(other)}')
  for split in images:
    twice = [[image for of_split, image in group if of_split == split] for group in groups]
    twice = [group for group in twice if len(group) > 1]
    if twice:
      lines.append(f'{split} holds {_images(twice)} more than once (the same bytes). '
                   f'{_pair(twice)}')
  return lines


def _images(groups):
  return f'{len(groups)} image{"" if len(groups) == 1 else "s"}'


def _first(group, split):
  return next(image for of_split, image in group if of_split == split)


def _pair(pairs):
  first, second, *_ = pairs[0]
  return f'{"One is" if len(pairs) == 1 else "The first is"} {first.name} and {second.name}.'


def describe(report: Report) -> str:
  """The report as text."""
  splits = report.splits
  lines = [tables.table(['split', 'images', 'sizes (height x width)'], [
      (name, int(split.counts.sum()), shown_sizes(split.sizes)) for name, split in splits.items()]),
      '', 'Images of each class, and their share:',
      tables.table(['class', *splits], [
          [f'{index} {name}', *(_counted(split.counts, index) for split in splits.values())]
          for index, name in enumerate(report.classes)]), '']
  for name, split in splits.items():
    absent = _absent(report.classes, split)
    if absent and name != _TRAIN:  # there it is a problem
      lines.append(f'Note: {name} has no image of {absent}.')
  lines += [f'Warning: {warning}' for warning in report.warnings]
  lines += [f'- {problem}' for problem in report.problems]
  lines.append(f'{len(report.problems)} problem{"" if len(report.problems) == 1 else "s"}.')
  return '\n'.join(lines)


def shown_sizes(sizes: collections.Counter) -> str:
  """The most frequent sizes with their counts, and how many more there are."""
  shown = [f'{height}x{width} ({count})' for (height, width), count in sizes.most_common(_SHOWN)]
  more = len(sizes) - len(shown)
  return ', '.join(shown) + (f' and {more} more' if more else '')


def _counted(counts, index):
  return f'{counts[index]} ({100 * counts[index] / max(counts.sum(), 1):.2f}%)'


def _absent(classes, split):
  return ', '.join(name for name, count in zip(classes, split.counts, strict=True) if not count)


def _class_folder(root) -> _Found:
  """The pictures of `ClassFolder`, and all that it would refuse or not see."""
  splits = classified.folder_splits(root)
  train = splits.get(_TRAIN)
  problems = [] if train else [f'{root}: has no folder {_TRAIN}, whose folders are the classes.']
  folders = sorted({name for split in ([train] if train else splits.values())
                    for name in classified.class_folders(split)[0]})
  found = {}
  for split, folder in splits.items():
    found[split] = []
    of_split, twice = classified.class_folders(folder)
    problems += twice
    problems += _strays(folder, 'lies beside the folders of the classes; put it into one.')
    for name, path in of_split.items():
      if name not in folders:
        problems.append(f'{path}: is no class, for {train} has no folder {name}. Add it '
                        'there, or remove this one.')
        continue
      problems += files.unreadable_in(path) + [
          f'{inner}: subfolders are not entered; expected pictures only.'
          for inner in files.subfolders_of(path)]
      found[split] += [(str(picture), folders.index(name), _reader(picture))
                       for picture in files.images_in(path)]
    if not found[split]:
      problems.append(f'{folder}: holds no picture in a folder of a class.')
  return _Found(class_names.of_folders(folders), found, problems)


def _strays(folder, what):
  return [f'{path}: {what}' for path in files.images_in(folder)]


def _reader(path):
  def read():
    content = files.read_bytes(path)
    return content, files.decode_image(content, path)
  return read


def _arrays(splits: Iterable[str], create: Callable[[str], Any]) -> _Found:
  """The images of sources that hold them in memory."""
  found, problems, classes = {}, [], ()
  for split in splits:
    try:
      source = create(split)
    except UserError as error:
      problems.append(str(error))
      continue
    classes = source.classes
    found[split] = [(f'image {index} of {split}', source.label_of(index), _of_source(source, index))
                    for index in range(len(source))]
  return _Found(classes, found, list(dict.fromkeys(problems)))


def _of_source(source: Sequence[Any], index: int):
  def read():
    pixels = source[index]['image']
    return pixels.tobytes(), pixels
  return read


def _npz(root):
  return _arrays(classified.npz_splits(root), lambda split: classified.Npz(split, root=root))


def _cifar(name):
  return lambda root: _arrays(
      cifar.SPLITS, lambda split: cifar.Cifar(name, split, root=root))


LAYOUTS: dict[str, Callable[[Any], _Found]] = {
    'class_folder': _class_folder, 'npz': _npz, 'cifar10': _cifar('cifar10'),
    'cifar100': _cifar('cifar100')}
