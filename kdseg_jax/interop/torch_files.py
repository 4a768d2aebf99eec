"""What `torch.save` wrote, read without torch: zip files (torch 1.6 and later) and older ones.

A file is data here: nothing that it names is imported or run, and what it says of sizes is checked
against the file before anything of that size is made.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import jax
import numpy as np

from kdseg_jax.interop import plain_pickle
from kdseg_jax.interop.file_errors import AGAIN, Refusal, reading, unpacking

ZIP_START = b'PK\x03\x04'
PICKLE_START = b'\x80'
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_MOST_DIMENSIONS = 64  # of numpy
_TIMES, _AND = 8, 16 * 2**20
# torch's name of a type, that of its storages, and ours; quantized ones are not arrays.
_TYPES = (
    ('float64', 'Double', np.float64), ('float32', 'Float', np.float32),
    ('float16', 'Half', np.float16), ('bfloat16', 'BFloat16', jax.dtypes.bfloat16),
    ('int64', 'Long', np.int64), ('int32', 'Int', np.int32), ('int16', 'Short', np.int16),
    ('int8', 'Char', np.int8), ('uint8', 'Byte', np.uint8), ('bool', 'Bool', np.bool_),
    ('complex64', 'ComplexFloat', np.complex64), ('complex128', 'ComplexDouble', np.complex128))


def read(path: str | os.PathLike) -> Any:
  """What was saved: dicts, lists, tuples, numbers and strings, with numpy arrays for tensors.

  Parameters are arrays as well, and tensors of one storage share memory. bfloat16 has JAX's type.
  Arrays of numpy and the log of mmengine are not read, see `plain_pickle.Unread`.
  All tensors together may take 8 times the bytes of the file and 16 MiB, as those of `expand` hold
  more elements than were saved. The content decides which form it is, not the name.

  Args:
    path: a file of `torch.save`, of either form.

  Raises:
    StateDictError: it is of another kind, damaged or cut short, or needs more than the tensors,
      containers and values named here. Nothing of it was run.
    NotFoundError: there is no such file.
  """
  with reading(path), open(path, 'rb') as file:
    size = os.fstat(file.fileno()).st_size
    start = file.read(len(ZIP_START))
    file.seek(0)
    if start == ZIP_START:
      return _read_zip(file, size)
    if start.startswith(PICKLE_START):
      return _read_legacy(file, size)
    raise Refusal('is no file of torch.save: it begins as neither of their two forms.')


def _unread(*names):
  return {' '.join(name.rsplit('.', 1)): plain_pickle.Function(name, plain_pickle.Unread)
          for name in names}


def _method(owner, name):
  if owner is not _LOG['mmengine.logging.history_buffer HistoryBuffer']:
    raise Refusal(f'takes the attribute {name!a:.50} of something, which no state dict needs.')
  return plain_pickle.Unread()


# The training log beside the state dict of mmengine's checkpoints: `message_hub`.
_LOG = _unread('mmengine.logging.history_buffer.HistoryBuffer', 'numpy.ndarray', 'numpy.dtype',
               '_codecs.encode', *(f'numpy.{core}.multiarray.{function}'
                                   for core in ('core', '_core')
                                   for function in ('_reconstruct', 'scalar'))) | {
    f'{module} getattr': plain_pickle.Function('getattr', _method)
    for module in ('__builtin__', 'builtins')}


class _StorageType(NamedTuple):
  dtype: np.dtype


class _Storage(NamedTuple):
  dtype: np.dtype
  content: np.ndarray  # (bytes,) uint8

  def fill(self, file: IO[bytes], *, big_endian: bool = False) -> None:
    """Reads the content."""
    if file.readinto(self.content) != self.content.size:
      raise Refusal(f'ends within a tensor. {AGAIN}')
    if big_endian:
      parts = 2 if self.dtype.kind == 'c' else 1
      self.content.view(f'u{self.dtype.itemsize // parts}').byteswap(inplace=True)
    if self.dtype == np.bool_:  # numpy knows of no other bytes than 0 and 1
      np.not_equal(self.content, 0, out=self.content.view(np.bool_))


class _Tensors:
  """What the names and persistent ids in the pickle of one file stand for.

  Args:
    size: bytes of the file.
    fill: reads the content of a new storage by its key; None if that is done later.
  """

  def __init__(self, size: int, fill: Callable[[str, _Storage], None] | None = None):
    self.storages: dict[str, _Storage] = {}
    self._fill = fill
    self._unclaimed, self._spare = size, _TIMES * size + _AND
    functions = [
        plain_pickle.Function('torch.Size', _size),
        plain_pickle.Function('torch._utils._rebuild_tensor', self._tensor),
        plain_pickle.Function('torch._utils._rebuild_tensor_v2', self._tensor_v2),
        plain_pickle.Function('torch._utils._rebuild_parameter', _parameter)]
    self.names: dict[str, Any] = _LOG | {
        ' '.join(function.name.rsplit('.', 1)): function for function in functions}
    for name, storage, dtype in _TYPES:
      self.names[f'torch {name}'] = np.dtype(dtype)
      for module in ('torch', 'torch.cuda'):
        self.names[f'{module} {storage}Storage'] = _StorageType(np.dtype(dtype))

  def storage(self, identifier: Any) -> _Storage:
    """The storage, or view of one, of a persistent id."""
    what, *parts = identifier if isinstance(identifier, tuple) and identifier else (None,)
    if isinstance(what, str) and what == 'module':
      raise Refusal('holds a whole model, with its code, which is not run. Open it with PyTorch '
                    'and save its tensors alone: torch.save(model.state_dict(), ...).')
    if not isinstance(what, str) or what != 'storage' or len(parts) not in (4, 5):
      raise _damaged('a persistent id is none of a storage')
    kind, key, _, count, *view = parts
    if not isinstance(kind, _StorageType) or not isinstance(key, str) or not _is_count(count):
      raise _damaged('a storage has no type, key or number of elements')
    if key not in self.storages:
      self.storages[key] = self._new_storage(kind.dtype, key, count * kind.dtype.itemsize)
    storage = self.storages[key]
    if storage.dtype != kind.dtype or storage.content.size != count * kind.dtype.itemsize:
      raise _damaged(f'storage {key!a:.50} has two types or sizes')
    return _view(storage, *view) if view and view[0] is not None else storage

  def _new_storage(self, dtype, key, size):
    if size > self._unclaimed:
      raise _damaged(f'storage {key!a:.50} has {size:.6g} bytes, more than are left of the file')
    self._unclaimed -= size
    storage = _Storage(dtype, np.empty(size, np.uint8))
    if self._fill:
      self._fill(key, storage)
    return storage

  def _tensor(self, storage, offset, size, stride):
    if not isinstance(storage, _Storage):
      raise _damaged('a tensor has no storage')
    for numbers in (size, stride):
      if not isinstance(numbers, tuple) or not all(map(_is_count, numbers)):
        raise _damaged('sizes or strides of a tensor are no whole numbers from 0')
    if not _is_count(offset) or len(size) != len(stride) or len(size) > _MOST_DIMENSIONS:
      raise _damaged('a tensor has a wrong offset or number of dimensions')
    dtype, itemsize = storage.dtype, storage.dtype.itemsize
    self._spare -= math.prod(max(length, 1) for length in size) * itemsize
    if self._spare < 0:
      raise _damaged(f'its tensors together take more than {_TIMES} times the file and '
                     f'{_AND // 2**20} MiB')
    if 0 in size:
      return np.empty(size, dtype)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride))
    if last >= storage.content.size // itemsize:
      raise _damaged('a tensor reaches beyond its storage')
    steps = [step * itemsize if length > 1 else 0 for length, step in zip(size, stride)]
    return np.ndarray(size, dtype, storage.content, offset * itemsize, steps)

  def _tensor_v2(self, storage, offset, size, stride, requires_grad, hooks, metadata=None):
    if metadata is not None and not (isinstance(metadata, dict) and not metadata):
      raise Refusal('holds a tensor that is conjugated or negated when it is read. Save it as '
                    'tensor.resolve_conj().resolve_neg().')
    return self._tensor(storage, offset, size, stride)


def _read_zip(file, size):
  with unpacking():
    archive = zipfile.ZipFile(file)
  entries, root = archive.infolist(), _root(set(archive.namelist()))
  if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size
         for entry in entries):
    raise Refusal('has compressed entries, and torch.save writes none. Was it packed anew? Give '
                  'the file as it was published.')
  if sum(entry.file_size for entry in entries) > size:
    raise _damaged('its entries are larger than itself')
  entries = {entry.filename: entry for entry in entries}

  def content(name):
    with unpacking():
      return archive.read(entries[name])

  order = content(f'{root}/byteorder') if f'{root}/byteorder' in entries else b'little'
  if order not in (b'little', b'big'):
    raise _damaged(f'its byte order is {order!r:.50}')

  def fill(key, storage):
    entry = entries.get(f'{root}/data/{key}')
    if entry is None or entry.file_size != storage.content.size:
      raise _damaged(f'it has no storage {key!a:.50} of {storage.content.size} bytes')
    with unpacking(), archive.open(entry) as packed:
      storage.fill(packed, big_endian=order == b'big')

  tensors = _Tensors(size, fill)
  stream = io.BytesIO(content(f'{root}/data.pkl'))
  return plain_pickle.load(stream, tensors.names, tensors.storage)


def _root(names):
  """The folder that all entries are in."""
  folders = {name.partition('/')[0] for name in names}
  root, *others = [folder for folder in folders if f'{folder}/data.pkl' in names] or [None]
  if root is None or others:
    raise Refusal('is a zip file, but none of torch.save: that has one <name>/data.pkl.')
  if any(name.startswith((f'{root}/code/', f'{root}/constants.pkl')) for name in names):
    raise Refusal('is a TorchScript program, whose code is not run. Save its tensors alone, with '
                  'PyTorch: torch.save(torch.jit.load(path).state_dict(), ...).')
  return root


def _read_legacy(file, size):
  stream = _Bounded(file, size)
  if plain_pickle.load(stream) != _LEGACY_MAGIC:
    raise Refusal('is a pickle, but none of torch.save. Save tensors with torch.save, or arrays '
                  'with numpy.savez.')
  protocol, system = plain_pickle.load(stream), plain_pickle.load(stream)
  if protocol != _LEGACY_PROTOCOL or not isinstance(system, dict):
    raise _damaged(f'its protocol is another than {_LEGACY_PROTOCOL}')
  if system.get('little_endian') is not True:
    raise Refusal('was saved on a big-endian machine by an old PyTorch. Save it anew with PyTorch '
                  '1.6 or later.')
  tensors = _Tensors(size)
  tree = plain_pickle.load(stream, tensors.names, tensors.storage)
  keys = plain_pickle.load(stream)
  if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or (
      sorted(keys) != sorted(tensors.storages)):
    raise _damaged('the storages that follow are not those of its tensors')
  for key in keys:
    storage = tensors.storages[key]
    count = int.from_bytes(file.read(8), 'little')
    if count * storage.dtype.itemsize != storage.content.size:
      raise _damaged(f'storage {key!a:.50} is of another size than its tensors say')
    storage.fill(file)
  return tree


class _Bounded:
  """A file whose reads ask for no more than it can have: a length in it may be anything."""

  def __init__(self, file: IO[bytes], size: int):
    self._file, self._size = file, size
    self.readline, self.tell = file.readline, file.tell

  def read(self, count: int) -> bytes:
    return self._file.read(min(count, self._size))


def _view(storage, view):
  """Part of a storage, as files of before PyTorch 0.4 have them: (its key, offset, elements)."""
  if not isinstance(view, tuple) or len(view) != 3 or not all(map(_is_count, view[1:])):
    raise _damaged('a view of a storage has no offset and size')
  start, stop = (number * storage.dtype.itemsize for number in (view[1], view[1] + view[2]))
  if stop > storage.content.size:
    raise _damaged('a view reaches beyond its storage')
  return storage._replace(content=storage.content[start:stop])


def _parameter(tensor, requires_grad, hooks):
  if not isinstance(tensor, np.ndarray):
    raise _damaged('a parameter is no tensor')
  return tensor


def _size(numbers):
  if not isinstance(numbers, tuple):
    raise _damaged('a torch.Size is no tuple')
  return numbers


def _is_count(value):
  return type(value) is int and 0 <= value < 2**63


def _damaged(what):
  return Refusal(f'{what}. {AGAIN}')
