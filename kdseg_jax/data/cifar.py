"""CIFAR-10 and CIFAR-100 from their official archives for Python."""

from __future__ import annotations

import io
import os
import pathlib
import tarfile
import zlib
from typing import Any, NamedTuple

import numpy as np

from kdseg_jax import names
from kdseg_jax.data import classified, files
from kdseg_jax.errors import NotFoundError, UserError
from kdseg_jax.interop import plain_pickle
from kdseg_jax.interop.file_errors import Refusal

SPLITS = ('train', 'test')
_SHAPE = (3, 32, 32)  # of an image, in a row of its batch


class _Layout(NamedTuple):
  """Names in an archive.

  Attributes:
    archive: file.
    folder: in it.
    splits: files of a split.
    meta: file with the names of the classes.
    names_key: of them there.
    labels_key: of the labels in the other files.
  """

  archive: str
  folder: str
  splits: dict[str, tuple[str, ...]]
  meta: str
  names_key: str
  labels_key: str


_LAYOUTS = {
    'cifar10': _Layout(
        'cifar-10-python.tar.gz', 'cifar-10-batches-py',
        {'train': tuple(f'data_batch_{i}' for i in range(1, 6)), 'test': ('test_batch',)},
        'batches.meta', 'label_names', 'labels'),
    'cifar100': _Layout(
        'cifar-100-python.tar.gz', 'cifar-100-python', {'train': ('train',), 'test': ('test',)},
        'meta', 'fine_label_names', 'fine_labels')}


class Cifar(classified.Arrays):
  """CIFAR-10 or CIFAR-100 (Krizhevsky, 2009): 50,000 and 10,000 images of 32x32 pixels.

  Args:
    name: 'cifar10', or 'cifar100' with its 100 fine classes.
    split: 'train' or 'test'.
    root: folder that holds the official archive for Python, or what was unpacked from it; None or
      '' is `$KDSEG_DATA`.
    size: (height, width) to which images are resized; None keeps theirs.

  Raises:
    UserError: an unknown split, no root given, a file that is damaged or not of the archive. What a
      file names is never run, see `interop.plain_pickle`.
    NotFoundError: neither archive nor folder is there, or a file in it is missing.
  """

  def __init__(self, name: str, split: str, *, root: str | os.PathLike | None = None,
               size: tuple[int, int] | None = None):
    layout = _LAYOUTS[name]
    names.require(split, layout.splits, f'split of {name}')
    root = classified.find_root(root, name, layout.archive)
    contents = _contents(root, layout, (layout.meta, *layout.splits[split]))
    (where, meta), *batches = contents
    classes = meta.get(layout.names_key)
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
      raise _foreign(where, f'has no list {layout.names_key}')
    images, labels = zip(*(_batch(where, found, layout.labels_key, len(classes))
                           for where, found in batches), strict=True)
    images, labels = np.concatenate(images), np.concatenate(labels)
    super().__init__(images, labels, classes=classes, numbers=range(len(images)), name=split,
                     size=size)


def _contents(root, layout, wanted):
  """`(where, dict)` of each of the files: of the folder, or else of the archive."""
  folder = next((path for path in (root / layout.folder, root)
                 if path.is_dir() and (path / layout.meta).exists()), None)
  if folder is not None:
    return [(path, _load(path, files.read_bytes(path))) for path in map(folder.joinpath, wanted)]
  archive = root if root.is_file() else root / layout.archive
  if not archive.exists():
    raise NotFoundError(f'{root}: holds neither {layout.archive} nor the folder {layout.folder} '
                        'with its files. Both are from www.cs.toronto.edu/~kriz/cifar.html.')
  try:
    with tarfile.open(archive) as tar:
      return [(f'{archive}: {name}', _load(f'{archive}: {name}', _member(
          tar, f'{layout.folder}/{name}', archive))) for name in wanted]
  except UserError:
    raise
  except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
    raise UserError(f'{archive}: cannot be unpacked ({error}). Download it again.') from error


def _member(tar, name, archive):
  try:
    file = tar.extractfile(name)
  except KeyError:
    file = None
  if file is None:
    raise NotFoundError(f'{archive}: has no file {name}; expected the official archive.')
  return file.read()


def _batch(where, found, labels_key, num_classes):
  """Images `(N, 32, 32, 3)` and labels of a file."""
  rows, labels = found.get('data'), found.get(labels_key)
  rows = rows.array if isinstance(rows, _Array) else None
  if rows is None or rows.ndim != 2 or rows.shape[1] != np.prod(_SHAPE):
    raise _foreign(where, 'has no data of rows of 3,072 bytes')
  if not isinstance(labels, list) or len(labels) != len(rows) or not all(
      isinstance(label, int) and 0 <= label < num_classes for label in labels):
    raise _foreign(where, f'has not one class in {labels_key} for each of {len(rows)} images')
  images = np.moveaxis(rows.reshape(-1, *_SHAPE), 1, -1)
  return np.ascontiguousarray(images), np.array(labels, np.int32)


class _Array(plain_pickle.Built):
  """An array of bytes; its content comes by `build`."""

  array: np.ndarray | None = None

  def build(self, state: Any) -> None:
    """Takes `(version, shape, dtype, is_fortran, content)`, as numpy writes it."""
    content = state[4] if isinstance(state, tuple) and len(state) == 5 else None
    if not isinstance(content, str) or not isinstance(state[1], tuple) or (
        not isinstance(state[2], _Bytes)) or state[3]:
      raise Refusal('an array is none of bytes.')
    try:
      raw = np.frombuffer(content.encode('latin-1'), np.uint8)  # a string of Python 2
      self.array = raw.reshape(state[1])
    except (ValueError, TypeError) as error:
      raise Refusal(f'an array is cut short ({error}).') from error


class _Bytes(plain_pickle.Built):
  """The dtype uint8; its state says of the order of bytes what does not matter."""

  def build(self, state: Any) -> None:
    """Takes what numpy writes of a dtype."""


def _dtype(name, *_):
  if name != 'u1':
    raise Refusal(f'an array is of dtype {name!r}; expected bytes, u1.')
  return _Bytes()


_NAMES = {
    'numpy.core.multiarray _reconstruct': plain_pickle.Function(
        '_reconstruct', lambda kind, shape, code: _Array()),
    'numpy ndarray': None,  # an argument, never called
    'numpy dtype': plain_pickle.Function('dtype', _dtype)}


def _load(where, content):
  """The dict of a file."""
  try:
    found = plain_pickle.load(io.BytesIO(content), _NAMES)
  except Refusal as error:
    raise _foreign(where, str(error)) from error
  if not isinstance(found, dict):
    raise _foreign(where, 'holds no dict')
  return found


def _foreign(where: str | pathlib.Path, what: str) -> UserError:
  return UserError(f'{where}: is no file of the official archive, or damaged: {what}')
