"""Writes what torch.save writes, in both forms, from numpy arrays and without torch.

Its files were compared with those of torch.save, and read by torch.load, of PyTorch 2.13.
"""

import collections
import io
import pickle
import struct
import zipfile

import jax
import numpy as np

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {'protocol_version': PROTOCOL, 'little_endian': True,
          'type_sizes': {'short': 2, 'int': 4, 'long': 4}}
STORAGES = {
    np.dtype(dtype): name for name, dtype in {
        'DoubleStorage': np.float64, 'FloatStorage': np.float32, 'HalfStorage': np.float16,
        'BFloat16Storage': jax.dtypes.bfloat16, 'LongStorage': np.int64, 'IntStorage': np.int32,
        'ShortStorage': np.int16, 'CharStorage': np.int8, 'ByteStorage': np.uint8,
        'BoolStorage': np.bool_, 'ComplexFloatStorage': np.complex64,
        'ComplexDoubleStorage': np.complex128}.items()}


class Global:
  """A name as a pickle has it: 'module', 'name'."""

  def __init__(self, module, name):
    self.module, self.name = module, name

  def __call__(self):  # the pickler asks for functions
    raise AssertionError('only written')


class Call:
  """The call of a function by name."""

  def __init__(self, function, *arguments):
    self.function, self.arguments = function, arguments

  def __reduce__(self):
    return self.function, self.arguments


class Storage:
  """An array whose memory is a storage; `identifier` overrides its persistent id."""

  def __init__(self, array, identifier=None):
    self.array, self.identifier = array, identifier


def tensor(array, storage=None, offset=0, strides=None, function='_rebuild_tensor_v2'):
  """A tensor: of a storage of its own, or a view of another. Strides count elements."""
  array = np.asarray(array)
  if storage is None:
    storage = Storage(np.array(array, order='C').reshape(-1))
  if strides is None:
    strides = [step // array.itemsize for step in np.empty(array.shape, array.dtype).strides]
  more = () if function == '_rebuild_tensor' else (False, collections.OrderedDict())
  return Call(Global('torch._utils', function), storage, offset, tuple(array.shape),
              tuple(strides), *more)


def parameter(array):
  """A parameter."""
  return Call(Global('torch._utils', '_rebuild_parameter'), tensor(array), True,
              collections.OrderedDict())


def state_dict(**tensors):
  """An ordered dict with the attribute `_metadata` that torch gives it."""
  made = collections.OrderedDict(tensors)
  made._metadata = collections.OrderedDict({'': {'version': 1}})
  return made


class _Pickler(pickle._Pickler):  # the one in Python, whose way of writing names can be replaced

  def __init__(self, file, protocol=2):
    super().__init__(file, protocol=protocol)
    self.storages = {}

  def reducer_override(self, item):
    if isinstance(item, np.ndarray):
      made = tensor(item)
      return made.function, made.arguments
    return item.name if isinstance(item, Global) else NotImplemented

  def save_global(self, item, name=None):
    if not isinstance(item, Global):
      super().save_global(item, name)
    elif self.proto >= 4:
      self.save(item.module)
      self.save(item.name)
      self.write(pickle.STACK_GLOBAL)
    else:
      self.write(pickle.GLOBAL + f'{item.module}\n{item.name}\n'.encode())

  def persistent_id(self, item):
    if not isinstance(item, Storage):
      return None
    key = next((key for key, other in self.storages.items() if other is item),
               str(len(self.storages)))
    self.storages[key] = item
    if item.identifier is not None:
      return item.identifier
    kind = Global('torch', STORAGES[item.array.dtype])
    identifier = ('storage', kind, key, 'cpu', item.array.size)
    return (*identifier, None) if self.legacy else identifier


def _pickled(tree, protocol, legacy):
  file = io.BytesIO()
  pickler = _Pickler(file, protocol)
  pickler.legacy = legacy
  pickler.dump(tree)
  return file.getvalue(), pickler.storages


def zipped(tree, protocol=2, root='archive', order='little', pickled=None, more=(),
           compression=zipfile.ZIP_STORED):
  """The bytes of a zip file; `pickled` replaces its pickle, `more` are entries beside."""
  content, storages = _pickled(tree, protocol, legacy=False)
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w', compression) as archive:
    archive.writestr(f'{root}/data.pkl', content if pickled is None else pickled)
    archive.writestr(f'{root}/byteorder', order)
    for key, storage in storages.items():
      array = storage.array.byteswap() if order == 'big' else storage.array
      archive.writestr(f'{root}/data/{key}', array.tobytes())
    archive.writestr(f'{root}/version', '3\n')
    for name, text in dict(more).items():
      archive.writestr(name, text)
  return file.getvalue()


def legacy(tree, protocol=2, pickled=None, system=SYSTEM, keys=None):
  """The bytes of a file of before PyTorch 1.6; `pickled` replaces the pickle of the tree."""
  content, storages = _pickled(tree, protocol, legacy=True)
  parts = [pickle.dumps(part, protocol) for part in (MAGIC, PROTOCOL, system)]
  parts += [content if pickled is None else pickled]
  parts += [pickle.dumps(sorted(storages) if keys is None else keys, protocol)]
  for key in sorted(storages):
    array = storages[key].array
    parts += [struct.pack('<q', array.size), array.tobytes()]
  return b''.join(parts)


FORMS = {'zip': zipped, 'legacy': legacy}
