"""Boxes in the layout of Pascal VOC: an XML file for each image."""

from __future__ import annotations

import math
import os
import pathlib
import xml.parsers.expat
from typing import NamedTuple

from kdseg_jax import names
from kdseg_jax.data import boxed, class_list, classified, files, pairs
from kdseg_jax.errors import NotFoundError, UserError

SPLITS = ('train', 'val', 'trainval', 'test')
_LAYOUT = 'JPEGImages/ Annotations/ and ImageSets/Main/<split>.txt'
_VAL_EVERY = 10  # as in `folder`
_SUFFIXES = ('.xml',)
_CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')


class VocBoxes(boxed.BoxSource):
  """A folder in the layout of Pascal VOC (Everingham et al., IJCV 2010), VOC's or one's own.

  `JPEGImages/<name>.jpg` (or .png, ...), `Annotations/<name>.xml`, and the names of a split in
  `ImageSets/Main/<split>.txt`. Without `ImageSets/Main`, every 10th image in sorted order, the
  first included, is val and the others are train. The classes are the lines of `classes.txt` in the
  folder, if there is one, else all names of objects in `Annotations`, sorted, which of VOC gives
  its 20 classes in their usual order.

  Corners in the files are pixels counted from 1 and inclusive: x1 is xmin - 1 and x2 is xmax, so
  that xmin 1, xmax W is the whole width (what is counted from 0 shifts by a pixel). A box with
  equal corners in x or y is left out, as one without an area. Objects marked
  `difficult` become crowds: they are neither learned nor counted. VOC's own evaluation gives such
  an object to one detection, COCO's as many as lie in it.

  Args:
    split: 'train', 'val', 'trainval' or 'test'.
    root: the folder; None or '' is `$KDSEG_DATA`.
    size: see `boxed.BoxSource`.

  Raises:
    UserError: an unknown split, a file of the split that is no XML of this kind, an object without
      name or corners, or whose `difficult` is neither 0 nor 1, a class that `classes.txt` lacks, a
      box outside its image (all with file and line), an image without annotation; and as
      `boxed.BoxSource`.
    NotFoundError: a folder, list or image is missing.
  """

  def __init__(self, split: str, *, root: str | os.PathLike | None = None,
               size: boxed.Size | None = None):
    names.require(split, SPLITS, 'split of voc_boxes')
    layout = Layout(root)
    found, classes = layout.find(split)
    super().__init__(found, classes=classes, size=size, where=f'{layout.root} ({split})')


class Layout:
  """A folder of this layout; files are read once.

  Args:
    root: the folder; None or '' is `$KDSEG_DATA`.

  Attributes:
    root: the folder.
    classes: names in label order.

  Raises:
    UserError, NotFoundError: no such folder, no class in it, or a `classes.txt` that cannot be
      used.
  """

  def __init__(self, root: str | os.PathLike | None):
    self.root = classified.find_root(root, 'A folder of images and boxes', _LAYOUT)
    for folder in ('JPEGImages', 'Annotations'):
      if not (self.root / folder).is_dir():
        raise NotFoundError(f'{self.root / folder}: no such folder; the layout is {_LAYOUT}.')
    self._parsed: dict[pathlib.Path, Parsed | UserError] = {}
    self.classes = self._find_classes()

  @property
  def splits(self) -> list[str]:
    """The splits that share no list: trainval only where it is the only one."""
    listed = [split for split in SPLITS if self._list(split).exists()]
    if not listed and (self.root / 'ImageSets' / 'Main').is_dir():
      return []
    return [split for split in listed if split != 'trainval'] or listed or ['train', 'val']

  def find(self, split: str) -> tuple[boxed.Found, tuple[str, ...]]:
    """The images of a split in sorted order, and the classes.

    Raises:
      NotFoundError: there is no such split.
    """
    annotated, degenerate = [], []
    pairs_of_split, problems = self._files(split)
    for stem, (image, path) in pairs_of_split.items():
      try:
        parsed = self._read(path)
        size = parsed.size or files.read_image(image).shape[:2]
        boxes, wrong = self._boxes(path, parsed)
      except UserError as error:
        problems.append(str(error))
        continue
      arrays, without_area, outside = boxed.gather(boxes, size)
      problems += wrong + outside
      degenerate += without_area
      annotated.append(boxed.Annotated(image, stem, size, **arrays, place=str(path)))
    return boxed.Found.of(annotated, degenerate, problems), self.classes

  def _find_classes(self):
    path = self.root / 'classes.txt'
    if path.exists():
      return class_list.read(path, least=1).names
    for file in files.files_in(self.root / 'Annotations', _SUFFIXES):
      try:
        self._read(file)
      except UserError:  # said with the other problems of its split
        pass
    found = {item.values['name'] for parsed in self._parsed.values() if isinstance(parsed, Parsed)
             for item in parsed.objects if item.values.get('name')}
    if not found:
      raise UserError(f'{self.root / "Annotations"}: no file names the class of an object; '
                      'expected XML files of Pascal VOC.')
    return tuple(sorted(found))

  def _list(self, split):
    return self.root / 'ImageSets' / 'Main' / f'{split}.txt'

  def _files(self, split):
    """`(image, annotation)` of a split by name, sorted, and problems."""
    folder, annotations, listed = (
        self.root / 'JPEGImages', self.root / 'Annotations', self._list(split))
    if split not in self.splits and not listed.exists():
      raise NotFoundError(f'{listed}: no such file; {self.root} has the splits '
                          f'{", ".join(self.splits) or "of no list"}.')
    images, twice = _by_stem(files.images_in(folder))
    paths, more = _by_stem(files.files_in(annotations, _SUFFIXES))
    problems = files.unreadable_in(folder)
    if listed.exists():
      stems = class_list.read_lines(listed)
      problems = [f'{listed}, line {number}: {folder / stem}.jpg does not exist. Add it, or remove '
                  'the line; lists hold names without folder and suffix.'
                  for number, stem in enumerate(stems, 1) if stem not in images]
      images = {stem: images[stem] for stem in stems if stem in images}
      paths = {stem: paths[stem] for stem in images if stem in paths}
    matched, alone = pairs.match(
        images, paths, image_place=lambda stem: f'{folder / stem}.jpg',
        label_place=lambda stem: f'{annotations / stem}.xml')
    if not listed.exists():
      matched = {stem: pair for index, (stem, pair) in enumerate(matched.items())
                 if (index % _VAL_EVERY == 0) == (split == 'val')}
    return matched, problems + alone + [
        lines[stem] for lines in (twice, more) for stem in matched if stem in lines]

  def _read(self, path):
    if path not in self._parsed:
      try:
        self._parsed[path] = parse(files.read_bytes(path), path)
      except UserError as error:
        self._parsed[path] = error
    if isinstance(self._parsed[path], UserError):
      raise self._parsed[path]
    return self._parsed[path]

  def _boxes(self, path, parsed):
    """The boxes of a file, and a line for each object that is none."""
    boxes, problems = [], []
    for item in parsed.objects:
      place = f'{path}, line {item.line}'
      try:
        boxes.append(self._box(place, item.values))
      except UserError as error:
        problems.append(str(error))
    return boxes, problems

  def _box(self, place, values):
    name = values.get('name', '')
    if name not in self.classes:
      raise UserError(
          f'{place}: the class {name!r} is not in {self.root / "classes.txt"}.'
          f'{names.hint(name, self.classes)} Add it there, or correct the object.' if name else
          f'{place}: the object has no name; expected <name> with its class.')
    x1, y1, x2, y2 = (_number(values, f'bndbox/{corner}', place) for corner in _CORNERS)
    if x1 < x2 and y1 < y2:  # else it has no area, which is said elsewhere
      x1, y1 = max(x1 - 1, min(x1, 0)), max(y1 - 1, min(y1, 0))
    return boxed.Box(place, self.classes.index(name), (x1, y1, x2, y2),
                     crowd=_is_difficult(values, place))


class Item(NamedTuple):
  """An object of an annotation: the line where it begins, and texts by the path of their tags."""

  line: int
  values: dict[str, str]


class Parsed(NamedTuple):
  """An annotation: (height, width), None where it does not say; its objects."""

  size: boxed.Size | None
  objects: list[Item]


def parse(content: bytes, name: object) -> Parsed:
  """Reads an annotation of Pascal VOC; parts of objects are not looked at.

  Raises:
    UserError: it is no XML, or the XML of something else; calls the file `name`.
  """
  reader = _Reader()
  try:
    reader.parser.Parse(content, True)
  except xml.parsers.expat.ExpatError as error:
    raise UserError(f'{name}, line {error.lineno}: is no whole XML file '
                    f'({xml.parsers.expat.errors.messages[error.code]}). Correct it, or take its '
                    'image out.') from error
  except (ValueError, LookupError) as error:  # an unknown encoding
    raise UserError(f'{name}: is no XML file that can be read ({error}).') from error
  if reader.root != 'annotation':
    raise UserError(f'{name}: is XML of <{reader.root}>; expected <annotation>, as Pascal VOC has.')
  sides = [reader.size.get(side, '') for side in ('height', 'width')]
  if not all(math.isfinite(float(side)) for side in sides if side.isdecimal()):
    raise UserError(f'{name}: its <size> has a side of {max(map(len, sides))} digits; expected '
                    'pixels.')
  size = tuple(int(side) if side.isdecimal() else 0 for side in sides)
  return Parsed(size if all(size) else None, reader.objects)


class _Reader:
  """Collects what is read while expat runs over a file; its parser knows the line."""

  def __init__(self):
    self.parser = xml.parsers.expat.ParserCreate()
    self.parser.StartElementHandler = self._start
    self.parser.EndElementHandler = self._end
    self.parser.CharacterDataHandler = self._text
    self.root, self.size, self.objects = None, {}, []
    self._path: list[str] = []
    self._content: list[str] = []

  def _start(self, tag, attributes):
    del attributes
    self.root = self.root or tag
    self._path.append(tag)
    self._content = []
    if self._path[1:] == ['object']:
      self.objects.append(Item(self.parser.CurrentLineNumber, {}))

  def _text(self, text):
    self._content.append(text)

  def _end(self, tag):
    del tag
    text, self._content = names.composed(''.join(self._content).strip()), []
    if self._path[1:2] == ['size'] and len(self._path) == 3:
      self.size.setdefault(self._path[2], text)
    if self._path[1:2] == ['object'] and len(self._path) > 2 and self._path[2] != 'part':
      self.objects[-1].values.setdefault('/'.join(self._path[2:]), text)
    self._path.pop()


def _by_stem(paths):
  """The files by stem, in composed Unicode, and a line for each stem of two."""
  found, twice = {}, {}
  for path in paths:
    stem = names.composed(path.stem)
    if found.setdefault(stem, path) != path:
      twice[stem] = (f'{path}: has the name of {found[stem]}, and an annotation is of one image. '
                     'Rename or remove one.')
  return found, twice


def _is_difficult(values, place):
  value = values.get('difficult') or '0'
  if value not in ('0', '1'):
    raise UserError(f'{place}: its difficult is {value!r}; expected 0 or 1.')
  return value == '1'


def _number(values, key, place):
  try:
    return float(values[key])
  except KeyError:
    raise UserError(f'{place}: the object has no {key}; expected a number of pixels.') from None
  except ValueError:
    raise UserError(f'{place}: {key} is {values[key]!r}; expected a number of pixels.') from None
