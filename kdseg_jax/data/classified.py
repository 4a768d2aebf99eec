"""Images with one class each: an .npz file, or a folder of each class."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from kdseg_jax import names
from kdseg_jax.data import class_names, files, pairs
from kdseg_jax.errors import NotFoundError, UserError

_VAL_EVERY = 10  # as in `folder`
_PLAIN = ('train', 'val')  # splits of a file that has none
_NPZ = 'A file of images and labels', '<file>.npz'  # what it is, and where
_SHOWN = 8  # problems of a folder


class Arrays:
  """Images in memory; `source[i]` has `image` `(H, W, 3)` uint8, `label` int32 and `image_id`.

  Args:
    images: `(N, H, W, 3)` uint8 RGB.
    labels: `(N,)` integers, indices into `classes`.
    classes: their names.
    numbers: `(N,)`, of the images in their file.
    name: of the split, in the `image_id`.
    size: (height, width) to which images are resized; None keeps theirs.
  """

  def __init__(self, images: np.ndarray, labels: np.ndarray, *, classes: Sequence[str],
               numbers: Sequence[int], name: str, size: tuple[int, int] | None = None):
    self._images, self._labels, self._numbers = images, labels.astype(np.int32), numbers
    self._name, self._resize = name, tuple(size) if size else None
    self.classes, self.palette = tuple(classes), class_names.palette_of(len(classes))
    self.size = self._resize or images.shape[1:3]

  def __len__(self) -> int:
    return len(self._images)

  def __getitem__(self, index: int) -> dict[str, Any]:
    pairs.check_index(index, len(self))
    return {'image': _resized(self._images[index], self._resize), 'label': self._labels[index],
            'image_id': f'{self._name}_{self._numbers[index]:05d}'}

  def label_of(self, index: int) -> int:
    """The label of an example, without its image."""
    return int(self._labels[index])


class Npz(Arrays):
  """A file of numpy: `<split>_image` `(N, H, W, 3)` uint8 RGB and `<split>_label` `(N,)` integers.

  Without splits these are `images` and `labels`: every 10th, the first included, is val and the
  others are train. `class_names`, texts or bytes, names the classes in label order, each once;
  without it they are numbered, and labels must be 0 to C - 1, each of which occurs.

  Args:
    split: that the file has.
    root: the file; None or '' is `$KDSEG_DATA`.
    size: (height, width) to which images are resized; None keeps theirs.

  Raises:
    UserError: an unknown split, a file that cannot be read, arrays of another shape or type, not as
      many labels as images, a label that is no class.
    NotFoundError: there is no such file.
  """

  def __init__(self, split: str, *, root: str | os.PathLike | None = None,
               size: tuple[int, int] | None = None):
    path = find_root(root, *_NPZ)
    with _opened(path) as file:
      images, labels, numbers = _split_of(file, split, path)
      classes = _classes_of(file, path)
    _check_arrays(images, labels, len(classes), f'{path} ({split})')
    super().__init__(images, labels, classes=classes, numbers=numbers, name=split, size=size)


class ClassFolder:
  """A folder of pictures for each class: `<root>/<split>/<class>/<picture>`.

  The classes are the folders of `train`, sorted by name in composed Unicode (NFC); the other splits
  may have fewer. Where there is no `train`, they are those of the split. The 1,000 synsets of
  ImageNet (n01440764, ...) have the names of its classes. The `image_id` is `<class>/<stem>`, or
  `<class>/<picture>` where two pictures of the class have one stem.

  Args:
    split: a folder in the root.
    root: the folder; None or '' is `$KDSEG_DATA`.
    size: (height, width) to which pictures are resized; None keeps theirs.

  Raises:
    UserError: an unknown split, a class that `train` lacks, a picture of a format that is not read;
      on reading, a damaged file.
    NotFoundError: the root is missing, has no folder of a split, or a class of `train` or the whole
      split holds no picture.
  """

  def __init__(self, split: str, *, root: str | os.PathLike | None = None,
               size: tuple[int, int] | None = None):
    splits = folder_splits(root)
    names.require(split, splits, f'split of {next(iter(splits.values())).parent}')
    main = splits.get('train', splits[split])
    self._folders = tuple(class_folders(main)[0])
    if not self._folders:
      raise NotFoundError(f'{main}: has no folder of a class; expected <class>/<picture>.')
    self.classes = class_names.of_folders(self._folders)
    self.palette = class_names.palette_of(len(self.classes))
    self.size = tuple(size) if size else None
    self._entries = self._find(splits[split], main)

  def __len__(self) -> int:
    return len(self._entries)

  def __getitem__(self, index: int) -> dict[str, Any]:
    pairs.check_index(index, len(self))
    path, label, name = self._entries[index]
    return {'image': _resized(files.read_image(path), self.size), 'label': np.int32(label),
            'image_id': f'{self._folders[label]}/{name}'}

  def _find(self, folder, main):
    """`(path, label, name)` of the pictures of a split, class by class."""
    found: list[tuple[pathlib.Path, int, str]] = []
    folders, problems = class_folders(folder)
    for class_name, path in folders.items():
      names.require(class_name, self._folders, f'class in {folder}; {main} has')
      pictures = files.images_in(path)
      problems += files.unreadable_in(path)
      if folder == main and not pictures:
        problems.append(f'{path}: holds no picture; fill the folder or remove it.')
      label, names_of = self._folders.index(class_name), _distinct_names(pictures)
      found += [(picture, label, name) for picture, name in zip(pictures, names_of)]
    if problems:
      raise UserError('\n'.join(problems[:_SHOWN]) + (
          f'\n... and {len(problems) - _SHOWN} more; python -m kdseg_jax.data.check <folder> '
          '--layout=class_folder names them all.' if len(problems) > _SHOWN else ''))
    if not found:
      raise NotFoundError(f'{folder}: holds no picture in a folder of a class.')
    return found


def folder_splits(root: str | os.PathLike | None) -> dict[str, pathlib.Path]:
  """The folders of the splits of a `ClassFolder` by name.

  Raises:
    UserError: as `find_root`.
    NotFoundError: as there, or it has no folder.
  """
  root = find_root(root, 'A folder of pictures of each class', '<split>/<class>/<picture>')
  splits = {path.name: path for path in files.subfolders_of(root)}
  if not splits:
    raise NotFoundError(f'{root}: has no folder; expected <split>/<class>/<picture>.')
  return splits


def class_folders(split: pathlib.Path) -> tuple[dict[str, pathlib.Path], list[str]]:
  """The folders of a split by the names of their classes, sorted, and a line for each name twice.

  Names are compared in composed Unicode, as copies of one folder may be written in either form.
  """
  found: dict[str, pathlib.Path] = {}
  problems = []
  for path in files.subfolders_of(split):
    if found.setdefault(names.composed(path.name), path) != path:
      problems.append(f'{path}: another folder has this name in another form of Unicode, and both '
                      'are one class. Put their pictures into one.')
  return dict(sorted(found.items())), problems


def npz_splits(root: str | os.PathLike | None) -> list[str]:
  """The splits of a file of `Npz`.

  Raises:
    UserError, NotFoundError: there is none that can be read.
  """
  with _opened(find_root(root, *_NPZ)) as file:
    return _splits_of(file) or list(_PLAIN)


def find_root(root: str | os.PathLike | None, what: str, layout: str) -> pathlib.Path:
  """`root`, or `$KDSEG_DATA`.

  Raises:
    UserError: there is neither.
    NotFoundError: it does not exist.
  """
  given = root or os.environ.get('KDSEG_DATA')
  if not given:
    raise UserError(f'{what} ({layout}) needs its place: give root (--config.data.root=<path>) or '
                    'set $KDSEG_DATA to it.')
  path = pathlib.Path(given)
  if not path.exists():
    raise NotFoundError(f'{path}: no such file or folder; expected {layout}.')
  return path


def _distinct_names(pictures):
  """The stems of the pictures of a folder, or their whole names where two have one stem."""
  stems = [picture.stem for picture in pictures]
  return stems if len(set(stems)) == len(stems) else [picture.name for picture in pictures]


def _resized(image, size):
  return image if size is None or image.shape[:2] == size else files.resize_image(image, size)


def _opened(path):
  try:
    found = np.load(path, allow_pickle=False)
  except Exception as error:  # numpy raises whatever the bytes lead it to
    raise UserError(f'{path}: cannot be read as .npz ({_one_line(error)}).') from error
  if not isinstance(found, np.lib.npyio.NpzFile):
    raise UserError(f'{path}: is a single array; expected .npz with images and labels.')
  return found


def _read(file, key, path):
  try:
    return file[key]
  except Exception as error:  # as above
    raise UserError(f'{path}: {key} cannot be read ({_one_line(error)}); expected an array of '
                    'numbers or texts. If it is damaged, copy or download the file again.'
                    ) from error


def _one_line(error):
  return ' '.join(str(error).split()) or type(error).__name__


def _splits_of(file):
  return [key.removesuffix('_image') for key in file.files if key.endswith('_image')]


def _split_of(file, split, path):
  """Images, labels and the numbers of both."""
  splits, is_plain = _splits_of(file), {'images', 'labels'} <= set(file.files)
  if not splits and not is_plain:
    raise UserError(f'{path}: holds {", ".join(file.files) or "nothing"}; expected images and '
                    'labels, or <split>_image and <split>_label.')
  names.require(split, splits or _PLAIN, f'split of {path}')
  if not splits:
    images, labels = _read(file, 'images', path), _read(file, 'labels', path)
    numbers = np.arange(len(images))
    chosen = (numbers % _VAL_EVERY == 0) == (split == 'val')
    if np.shape(labels) == numbers.shape:
      return images[chosen], labels[chosen], numbers[chosen]
    return images, labels, numbers  # to be refused
  names.require(f'{split}_label', file.files, f'array of {path}')
  images = _read(file, f'{split}_image', path)
  return images, _read(file, f'{split}_label', path), np.arange(len(images))


def _classes_of(file, path):
  """The names of the classes, or their numbers where labels leave none out."""
  if 'class_names' in file.files:
    return _class_names(_read(file, 'class_names', path), path)
  keys = [f'{split}_label' for split in _splits_of(file)] or ['labels']
  values = np.unique(np.concatenate([
      np.ravel(_read(file, key, path)) for key in keys if key in file.files]))
  if values.dtype.kind not in 'iu' or not np.array_equal(values, np.arange(len(values))):
    shown = ', '.join(map(str, values[:10])) + (', ...' if len(values) > 10 else '')
    raise UserError(f'{path}: the labels are {shown}; expected 0 to C - 1, each of which occurs, '
                    'or an array class_names with the name of each class in label order.')
  return [f'class {value}' for value in values]


def _class_names(array, path):
  """The names in an array of texts, or of bytes."""
  try:
    found = [names.composed(name.decode() if isinstance(name, bytes) else str(name))
             for name in np.ravel(array)]
  except UnicodeDecodeError as error:
    raise UserError(f'{path}: class_names is not UTF-8 text ({error}).') from error
  twice = sorted({name for name in found if found.count(name) > 1})
  if twice:
    raise UserError(f'{path}: class_names holds {", ".join(twice)} more than once; expected one '
                    'name for each class.')
  return found


def _check_arrays(images, labels, num_classes, where):
  """Refuses what is no list of pictures and their classes."""
  if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
    raise UserError(f'{where}: images are {images.dtype} {images.shape}; expected uint8 '
                    '(N, H, W, 3), RGB.')
  if labels.dtype.kind not in 'iu' or labels.shape != images.shape[:1]:
    raise UserError(f'{where}: {len(images)} images, and labels are {labels.dtype} {labels.shape}; '
                    f'expected integers ({len(images)},).')
  if not len(images):
    raise UserError(f'{where}: holds no image.')
  wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
  if len(wrong):
    raise UserError(f'{where}: label {labels[wrong[0]]} of image {wrong[0]} is no class; expected '
                    f'0 to {num_classes - 1}. {len(wrong)} are out of range.')
