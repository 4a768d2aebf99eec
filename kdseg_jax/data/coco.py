"""Boxes in the layout of COCO: a JSON file of instances and a folder of images for each split."""

from __future__ import annotations

import json
import os
import pathlib
import reprlib
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from kdseg_jax import names
from kdseg_jax.data import boxed, classified, files
from kdseg_jax.errors import NotFoundError, UserError

SPLITS = ('train', 'val', 'test')
WITH_BOXES = 'train_with_boxes'
_LAYOUT = 'annotations/instances_<split>2017.json and <split>2017/'
_ANNOTATIONS = ('annotations/instances_{}2017.json', 'annotations/instances_{}.json',
                'annotations/{}.json', '{}.json')
_IMAGES = ('{}2017', '{}', 'images/{}2017', 'images/{}', 'images')
_NEEDED = ('images', 'annotations', 'categories')


class Coco(boxed.BoxSource):
  """A folder in the layout of COCO (Lin et al., ECCV 2014), COCO's or one's own.

  The annotations of a split are `annotations/instances_<split>2017.json`,
  `annotations/instances_<split>.json`, `annotations/<split>.json` or `<split>.json`, the first that
  exists; its images lie in `<split>2017`, `<split>`, `images/<split>2017`, `images/<split>` or
  `images`. The classes are the categories in the order of their ids, whatever these are; examples
  come in the order of the images' ids, which are their `image_id`, with 12 digits.

  Args:
    split: 'train', 'val', 'test', or 'train_with_boxes', the images of train that have an
      annotation, a crowd included, as mmdetection's `filter_empty_gt` leaves them.
    root: the folder; None or '' is `$KDSEG_DATA`.
    size: see `boxed.BoxSource`.

  Raises:
    UserError: an unknown split, a file that is no JSON of this kind (with its line), an annotation
      of an unknown image or category, without a box or outside its image (with its id), an image
      that is missing; and as `boxed.BoxSource`.
    NotFoundError: a folder or the annotations are missing.
  """

  def __init__(self, split: str, *, root: str | os.PathLike | None = None,
               size: boxed.Size | None = None):
    names.require(split, (*SPLITS, WITH_BOXES), 'split of coco')
    layout = Layout(root)
    found, classes = layout.find('train' if split == WITH_BOXES else split,
                                 with_boxes=split == WITH_BOXES)
    super().__init__(found, classes=classes, size=size, where=f'{layout.root} ({split})')


class Layout:
  """A folder of this layout.

  Args:
    root: the folder; None or '' is `$KDSEG_DATA`.

  Attributes:
    root: the folder.

  Raises:
    UserError, NotFoundError: no such folder.
  """

  def __init__(self, root: str | os.PathLike | None):
    self.root = classified.find_root(root, 'A folder of images and boxes', _LAYOUT)

  @property
  def splits(self) -> list[str]:
    """The splits that have annotations."""
    return [split for split in SPLITS if self._annotations(split)]

  def find(self, split: str, *, with_boxes: bool = False
           ) -> tuple[boxed.Found, tuple[str, ...]]:
    """The images of a split, or those that have an annotation, and the classes.

    Raises:
      NotFoundError: there are no annotations, or no folder of images.
      UserError: the annotations are no such JSON file.
    """
    path = self._annotations(split)
    if path is None:
      raise NotFoundError(f'{self.root}: has no annotations of {split}; expected one of '
                          f'{", ".join(place.format(split) for place in _ANNOTATIONS)}.')
    instances = parse(files.read_bytes(path), path)
    folder, find = self._images(split, instances), _Finder().find
    annotated, degenerate, problems = [], [], list(instances.problems)
    for image_id, image in instances.images.items():
      if with_boxes and not image.boxes:
        continue
      file = find(folder, image.file)
      if file is None:
        file = folder / image.file
        problems.append(f'{file}: no such file, and image {image_id} of {path} is it. Add it, or '
                        'take the image out.')
      arrays, without_area, wrong = boxed.gather(image.boxes, image.size)
      degenerate += without_area
      problems += wrong
      annotated.append(boxed.Annotated(
          file, image_name(image_id), image.size, **arrays, place=f'{path}, image {image_id}'))
    return boxed.Found.of(annotated, degenerate, problems), instances.classes

  def _annotations(self, split):
    return next((path for path in (self.root / place.format(split) for place in _ANNOTATIONS)
                 if path.is_file()), None)

  def _images(self, split, instances):
    """The folder of a split: the first that has its first image, else the first that exists."""
    folders = [path for path in (self.root / place.format(split) for place in _IMAGES)
               if path.is_dir()]
    if not folders:
      raise NotFoundError(f'{self.root}: has no folder of the images of {split}; expected one of '
                          f'{", ".join(place.format(split) for place in _IMAGES)}.')
    first, find = next(iter(instances.images.values()), None), _Finder().find
    return next((path for path in folders if first and find(path, first.file)), folders[0])


class _Finder:
  """Finds files whose names are written in another form of Unicode than in the JSON."""

  def __init__(self):
    self._inside: dict[pathlib.Path, dict[str, pathlib.Path]] = {}

  def find(self, folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """The file of a name in a folder or below it; None if there is none."""
    path = folder / name
    if path.is_file():
      return path
    path = folder
    for part in pathlib.PurePath(names.composed(name)).parts:
      if path not in self._inside:
        self._inside[path] = {names.composed(inner.name): inner for inner in path.iterdir()
                              } if path.is_dir() else {}
      if part not in self._inside[path]:
        return None
      path = self._inside[path][part]
    return path if path.is_file() else None


def image_name(image_id: int) -> str:
  """The name of an image by its id, as COCO names the files: 12 digits."""
  return f'{image_id:012d}'


class Image(NamedTuple):
  """An image of the file: its name, (height, width) and boxes."""

  file: str
  size: boxed.Size
  boxes: list[boxed.Box]


class Instances(NamedTuple):
  """What a file holds: the images in the order of their ids, the classes, a line a problem."""

  images: dict[Any, Image]
  classes: tuple[str, ...]
  problems: list[str]


def parse(content: bytes, name: object) -> Instances:
  """Reads instances of COCO.

  Raises:
    UserError: it is no JSON, or JSON of something else; calls the file `name`.
  """
  try:
    data = json.loads(content)
  except json.JSONDecodeError as error:
    raise UserError(f'{name}, line {error.lineno}, column {error.colno}: is no whole JSON file '
                    f'({error.msg}). Copy or download it again.') from error
  except (ValueError, RecursionError) as error:  # no text, or a number of thousands of digits
    raise UserError(f'{name}: is no JSON file that can be read ({error}).') from error
  if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in _NEEDED):
    raise UserError(f'{name}: is no file of instances: expected the lists {", ".join(_NEEDED)}.')
  labels, classes = _categories(data['categories'], name)
  images, problems = _images(data['images'], name)
  for number, annotation in enumerate(data['annotations']):
    try:
      image, box = _annotation(annotation, images, labels, f'{name}, annotation ', number)
      image.boxes.append(box)
    except UserError as error:
      problems.append(str(error))
  return Instances(images, classes, problems)


def _categories(categories, name):
  """The label of each id, and the names in the order of the ids."""
  found = {}
  for number, one in enumerate(categories):
    if not isinstance(one, dict) or not _is_id(one.get('id')) or not isinstance(
        one.get('name'), str):
      raise UserError(f'{name}: categories[{number}] has not both an id and a name.')
    class_name = names.composed(one['name'])
    if one['id'] in found or class_name in found.values():
      raise UserError(f'{name}: the category {one["id"]} {one["name"]!r} has the id or the name of '
                      'another; expected each once.')
    found[one['id']] = class_name
  if not found:
    raise UserError(f'{name}: has no category.')
  order = sorted(found)
  return {key: label for label, key in enumerate(order)}, tuple(found[key] for key in order)


def _images(images, name):
  """The images by their ids, in order, and a line for each that is none."""
  found, problems = {}, []
  for number, one in enumerate(images):
    place = f'{name}: images[{number}]'
    if not isinstance(one, dict) or not _is_id(one.get('id')) or not isinstance(
        one.get('file_name'), str):
      problems.append(f'{place} has not both a numeric id and a file_name.')
      continue
    size = one.get('height'), one.get('width')
    if not all(_is_id(side) and _is_number(side) and side > 0 for side in size):
      problems.append(f'{place} (id {one["id"]}) is {reprlib.repr(size)} (height, width); expected '
                      'whole numbers of pixels.')
    elif one['id'] in found:
      problems.append(f'{place} has the id {one["id"]} of another; expected each once.')
    else:
      found[one['id']] = Image(one['file_name'], size, [])
  return dict(sorted(found.items())), problems


def _annotation(annotation: Any, images: Mapping[Any, Image], labels: Mapping[Any, int],
                prefix: str, number: int) -> tuple[Image, boxed.Box]:
  """The image of an annotation and its box."""
  if not isinstance(annotation, dict):
    raise UserError(f'{prefix}number {number}: is no object.')
  place = f'{prefix}{annotation.get("id", f"number {number}")}'
  for key, known, what in (('image_id', images, 'image'), ('category_id', labels, 'category')):
    if not _is_id(annotation.get(key)) or annotation[key] not in known:
      raise UserError(f'{place}: its {key} is {annotation.get(key)!r}, which is no {what} of the '
                      'file.')
  box, area = annotation.get('bbox'), annotation.get('area')
  if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
    raise UserError(f'{place}: its bbox is {reprlib.repr(box)}; expected [x, y, width, height] in '
                    'pixels.')
  if area is not None and not (_is_number(area) and area >= 0):
    raise UserError(f'{place}: its area is {reprlib.repr(area)}; expected a number of pixels.')
  crowd = annotation.get('iscrowd', 0)
  if crowd not in (0, 1):
    raise UserError(f'{place}: its iscrowd is {crowd!r}; expected 0 or 1.')
  x, y, width, height = map(float, box)
  return images[annotation['image_id']], boxed.Box(
      place, labels[annotation['category_id']], (x, y, x + width, y + height), bool(crowd), area)


def _is_id(value):
  return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value):
  """Whether it is one that a float holds, infinity too."""
  return isinstance(value, float) or _is_id(value) and abs(value) <= sys.float_info.max
