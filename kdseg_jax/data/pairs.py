"""Images and their labels: which belong together, what stored labels mean, a source of both."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from kdseg_jax import names
from kdseg_jax.data import files
from kdseg_jax.errors import NotFoundError, UserError


class Pair(NamedTuple):
  """The files of one example."""

  image: pathlib.Path
  label: pathlib.Path


class LabelMap:
  """From stored labels to class indices and 255 = ignore; refuses every other stored label.

  Args:
    entries: stored label -> class index, or 255.
    expected: the stored labels in words, for the error.
  """

  def __init__(self, entries: Mapping[int, int], expected: str):
    self._expected = expected
    # The last place is that of all labels that are larger, and as -1 of negative ones.
    self._table = np.full(max(256, *entries) + 2, -1, np.int16)
    self._table[list(entries)] = list(entries.values())

  @classmethod
  def identity(cls, num_classes: int) -> LabelMap:
    """Class indices 0 to num_classes - 1, and 255."""
    entries = {index: index for index in (*range(num_classes), files.IGNORE_LABEL)}
    return cls(entries, f'class indices 0 to {num_classes - 1} and 255 = ignore')

  def __call__(self, label: np.ndarray, name: Any) -> np.ndarray:
    """Maps `(H, W)` stored labels to uint8.

    Raises:
      ValueError: a stored label has no entry; lists them all and calls the file `name`.
    """
    if label.dtype == np.uint8 and label.size:  # OpenCV takes half the time
      mapped = cv2.LUT(label, self._table[:256])
    else:
      mapped = self._table.take(np.clip(label.astype(np.int64), -1, len(self._table) - 1))
    if mapped.min(initial=0) < 0:
      wrong = np.unique(label[mapped < 0])
      raise UserError(
          f'{name}: holds label{"s" if len(wrong) > 1 else ""} {", ".join(map(str, wrong))}; '
          f'expected {self._expected}. Map the labels of all files to these.')
    return mapped.astype(np.uint8)


class PairSource:
  """Examples read from pairs of files; subclasses have `classes` and `palette`.

  `source[i]` is a dict of `image` `(H, W, 3)` uint8 RGB, `label` `(H, W)` uint8 and `image_id`, the
  stem of the image file.

  Args:
    pairs: the files, at least one pair.
    label_map: meaning of the stored labels.
    size: (height, width) to which images (by area when shrinking) and labels (nearest pixel) are
      resized; None keeps their own.
  """

  def __init__(self, pairs: Sequence[Pair], *, label_map: LabelMap,
               size: tuple[int, int] | None = None):
    self._pairs, self._label_map = list(pairs), label_map
    self.size = tuple(size) if size else None

  def __len__(self) -> int:
    return len(self._pairs)

  @property
  def pairs(self) -> list[Pair]:
    """The files of the examples."""
    return list(self._pairs)

  def __getitem__(self, index: int) -> dict[str, Any]:
    check_index(index, len(self))
    pair = self._pairs[index]
    content = files.read_bytes(pair.image)
    image = files.decode_image(content, pair.image)
    label = self._label_map(files.read_label(pair.label), pair.label)
    files.check_pair(image, label, image_name=pair.image, label_name=pair.label,
                     image_content=content)
    return resized(image, label, self.size) | {'image_id': names.composed(pair.image.stem)}


def check_index(index: int, length: int) -> None:
  """Raises IndexError unless 0 <= index < length, which also ends iteration over a source."""
  if not 0 <= index < length:
    raise IndexError(f'Image {index} does not exist: there are {length}.')


def resized(image: np.ndarray, label: np.ndarray,
            size: tuple[int, int] | None) -> dict[str, np.ndarray]:
  """`image` and `label` of an example, resized to (height, width) unless it is None."""
  if size:
    image, label = files.resize_image(image, size), files.resize_label(label, size)
  return {'image': image, 'label': label}


def find_pairs(images: pathlib.Path, labels: pathlib.Path, *, layout: str,
               stems: Iterable[str] | None = None) -> tuple[list[Pair], list[str]]:
  """The pairs of two folders, sorted by stem, and everything that is wrong with other files.

  Args:
    images: folder of images.
    labels: folder of PNG labels with the stems of the images.
    layout: what the folders should look like, for errors.
    stems: only these are looked at; default: all.

  Returns:
    Pairs, and one line a problem: no label, no image, a label that is no PNG, one stem twice,
    pictures of formats that are not read, subfolders.

  Raises:
    FileNotFoundError: a folder is missing.
  """
  found_images, problems = _by_stem(images, layout)
  found_labels, label_problems = _by_stem(labels, layout)
  problems += label_problems
  if stems is not None:
    stems = [names.composed(stem) for stem in stems]
    problems += [f'{stem}: is listed, but {images / stem}.png or .jpg does not exist. Lists hold '
                 'the names of images without folder and suffix.'
                 for stem in stems if stem not in found_images]
    found_images, found_labels = (
        {stem: found[stem] for stem in stems if stem in found}
        for found in (found_images, found_labels))
    found_labels = {s: path for s, path in found_labels.items() if s in found_images}
  for stem, path in list(found_labels.items()):
    if path.suffix.lower() != '.png':
      problems.append(f'{path}: labels must be PNG; lossy formats change class indices.')
      found_images.pop(stem, None)
      del found_labels[stem]
  matched, match_problems = match(
      found_images, found_labels, image_place=lambda stem: f'{images / stem}.png or .jpg',
      label_place=lambda stem: f'{labels / stem}.png')
  return [Pair(*pair) for pair in matched.values()], problems + match_problems


def match(images: Mapping[str, Any], labels: Mapping[str, Any], *,
          image_place: Callable[[str], str], label_place: Callable[[str], str],
          ) -> tuple[dict[str, tuple[Any, Any]], list[str]]:
  """Puts images and labels of one key together, in sorted order.

  Args:
    images: images by key.
    labels: labels by key.
    image_place: where the image of a key is expected, for errors.
    label_place: where the label of a key is expected.

  Returns:
    (image, label) by key, and one line for each that is alone.
  """
  problems = []
  for key in sorted(images.keys() ^ labels.keys()):
    if key in images:
      problems.append(f'{images[key]}: has no label; expected {label_place(key)}. Add it, or '
                      'remove the image.')
    else:
      problems.append(f'{labels[key]}: has no image; expected {image_place(key)}. Add it, or '
                      'remove the label.')
  matched = {key: (images[key], labels[key]) for key in sorted(images.keys() & labels.keys())}
  return matched, problems


def require_none(problems: Sequence[str]) -> None:
  """Raises ValueError with the first problem and the number of others, if there are any."""
  if problems:
    count = len(problems) - 1
    more = (f' ({count} more problem{"s" if count > 1 else ""}, see python -m '
            'kdseg_jax.data.check.)') if count else ''
    raise UserError(problems[0] + more)


def _by_stem(folder, layout):
  """The pictures of a folder by stem, in composed Unicode, and problems."""
  if not folder.is_dir():
    raise NotFoundError(f'{folder}: no such folder; the layout is {layout}.')
  found, problems = {}, files.unreadable_in(folder)
  for path in files.images_in(folder):
    stem = names.composed(path.stem)
    if stem in found:
      problems.append(f'{path} and {found[stem]}: same name twice; keep one of them.')
    found[stem] = path
  problems += [f'{path}: subfolders are not entered; expected files only.'
               for path in files.subfolders_of(folder)]
  return found, problems
