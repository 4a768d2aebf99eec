"""Files of torch.save: read as they were written, or refused."""

import collections
import pickle
import struct
import tracemalloc
import zipfile

import hypothesis
import hypothesis.extra.numpy as arrays
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from kdseg_jax.errors import NotFoundError, UserError
from kdseg_jax.interop import torch_files
from kdseg_jax.interop.file_errors import StateDictError
from tests.interop import torch_writer as writer

FORMS = pytest.mark.parametrize('form', writer.FORMS)
BFLOAT16 = np.dtype(jax.dtypes.bfloat16)
SMALL = {'state_dict': writer.state_dict(
    w=np.arange(6, dtype=np.float32).reshape(2, 3), n=np.array(7)), 'epoch': 3}
LONG = writer.Global('torch', 'LongStorage')


@pytest.fixture
def reader():
  return torch_files.read


def same(read, written):
  """Whether what was read is what was written, types and all."""
  if isinstance(written, np.ndarray):
    return isinstance(read, np.ndarray) and read.dtype == written.dtype and (
        read.shape == written.shape) and read.tobytes() == written.tobytes()
  if type(read) is not type(written):
    return False
  if isinstance(written, dict):
    return list(read) == list(written) and all(same(read[k], written[k]) for k in written)
  if isinstance(written, list | tuple):
    return len(read) == len(written) and all(map(same, read, written))
  return read == written


ARRAYS = st.sampled_from(list(writer.STORAGES)).flatmap(
    lambda dtype: arrays.arrays(
        np.dtype(f'u{dtype.itemsize}') if dtype == BFLOAT16 else dtype,
        arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)).map(
            lambda array: array.view(dtype) if dtype == BFLOAT16 else array))
VALUES = st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(
    allow_nan=False)
TREES = st.recursive(
    ARRAYS | VALUES, lambda tree: st.lists(tree, max_size=4) | st.lists(tree, max_size=4).map(
        tuple) | st.dictionaries(st.text() | st.integers(), tree, max_size=4) | st.dictionaries(
            st.text(), tree, max_size=4).map(collections.OrderedDict), max_leaves=12)


@FORMS
@hypothesis.settings(
    max_examples=25, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(tree=TREES, protocol=st.sampled_from([2, 3, 4, 5]))
def test_what_was_written_is_read(form, tree, protocol, tmp_path):
  path = tmp_path / 'tree.pth'
  if protocol == 2:  # where pickle calls a codec for bytes, as no state dict does
    tree = without_bytes(tree)
  path.write_bytes(writer.FORMS[form](tree, protocol))
  assert same(torch_files.read(path), tree)


def without_bytes(tree):
  if isinstance(tree, dict):
    return type(tree)((key, without_bytes(value)) for key, value in tree.items())
  if isinstance(tree, list | tuple):
    return type(tree)(map(without_bytes, tree))
  return str(tree) if isinstance(tree, bytes) else tree


@FORMS
def test_views_share_the_memory_of_their_storage(form, read):
  base = np.arange(24, dtype=np.float32)
  storage = writer.Storage(base)
  expected = {
      'whole': base.reshape(2, 3, 4), 'part': base.reshape(2, 3, 4)[:, 1:, ::2],
      'turned': base.reshape(4, 6).T, 'one': base[5:6].reshape(())}
  found = read(writer.FORMS[form]({
      'whole': writer.tensor(expected['whole'], storage),
      'part': writer.tensor(expected['part'], storage, 4, (12, 4, 2)),
      'turned': writer.tensor(expected['turned'], storage, 0, (1, 6)),
      'one': writer.tensor(expected['one'], storage, 5)}))
  for name, array in expected.items():
    np.testing.assert_array_equal(found[name], array)
    assert np.shares_memory(found[name], found['whole'])


@FORMS
def test_parameters_state_dicts_sizes_and_types_are_read(form, read):
  metadata = writer.state_dict(w=np.ones(2, np.float32))
  found = read(writer.FORMS[form]({
      'parameter': writer.parameter(np.ones((2, 2), np.float32)), 'model': metadata,
      'old': writer.tensor(np.ones(3), function='_rebuild_tensor'),
      'size': writer.Call(writer.Global('torch', 'Size'), (1, 2)),
      'type': writer.Global('torch', 'bfloat16')}))
  assert same(found['parameter'], np.ones((2, 2), np.float32))
  assert same(found['old'], np.ones(3))
  assert type(found['model']) is collections.OrderedDict and not hasattr(
      found['model'], '_metadata')
  assert found['size'] == (1, 2) and found['type'] == BFLOAT16


@FORMS
def test_storages_of_cuda_tensors_are_read(form, read):
  array = np.arange(3, dtype=np.float32)
  more = (None,) if form == 'legacy' else ()
  storage = writer.Storage(array, (
      'storage', writer.Global('torch.cuda', 'FloatStorage'), '0', 'cuda:0', 3, *more))
  assert same(read(writer.FORMS[form]([writer.tensor(array, storage)])), [array])


def test_views_of_storages_in_old_files_are_read(read):
  storage = writer.Storage(np.arange(10), ('storage', LONG, '0', 'cpu', 10, ('7', 4, 3)))
  assert same(read(writer.legacy([writer.tensor(np.zeros(2, int), storage, 1)])),
              [np.array([5, 6])])


def test_ordered_dicts_of_python_2_are_read(read):
  tree = writer.Call(writer.Global('collections', 'OrderedDict'), [['b', 1], ['a', 2]])
  assert same(read(writer.legacy(tree)), collections.OrderedDict(b=1, a=2))


@pytest.mark.parametrize('dtype', writer.STORAGES, ids=str)
def test_big_endian_archives_are_read(dtype, read):
  array = (np.arange(6) % 4).astype(dtype).reshape(2, 3)
  assert same(read(writer.zipped({'w': array}, order='big')), {'w': array})


def test_bytes_of_bool_tensors_become_0_or_1(read):
  content = writer.zipped([writer.tensor(np.zeros(3, bool), writer.Storage(
      np.array([0, 1, 7], np.uint8), ('storage', writer.Global('torch', 'BoolStorage'), '0',
                                      'cpu', 3)))])
  assert same(read(content), [np.array([False, True, True])])


@FORMS
def test_a_container_that_holds_itself_is_read(form, read):
  tree = []
  tree.append(tree)
  found = read(writer.FORMS[form](tree))
  assert found[0] is found


# What is said of storages and tensors.


@pytest.mark.parametrize(('identifier', 'words'), [
    (7, 'none of a storage'), ((), 'none of a storage'), (('module', 1, 2, 3), 'whole model'),
    (('other', LONG, '0', 'cpu', 2), 'none of a storage'),
    (('storage', LONG, '0', 'cpu'), 'none of a storage'),
    (('storage', 'LongStorage', '0', 'cpu', 2), 'no type'),
    (('storage', writer.Global('torch', 'int64'), '0', 'cpu', 2), 'no type'),
    (('storage', LONG, 0, 'cpu', 2), 'no type, key'),
    (('storage', LONG, '0', 'cpu', -1), 'number of elements'),
    (('storage', LONG, '0', 'cpu', 2.), 'number of elements'),
    (('storage', LONG, '0', 'cpu', True), 'number of elements'),
    (('storage', LONG, '0', 'cpu', 1 << 60), 'more than are left'),
    (('storage', LONG, '0', 'cpu', 1 << 9999), 'of elements'),
    (('storage', LONG, '5', 'cpu', 2), 'no storage|not those'),
    (('storage', LONG, '../data/0', 'cpu', 2), 'no storage|those'),
    (('storage', writer.Global('torch', 'IntStorage'), '0', 'cpu', 3), 'no storage|another size'),
    (('storage', writer.Global('torch', 'QInt8Storage'), '0', 'cpu', 2), 'QInt8Storage'),
    (('storage', LONG, '0', 'cpu', 2, 'v'), 'no offset'),
    (('storage', LONG, '0', 'cpu', 2, ('v', 0, -1)), 'no offset'),
    (('storage', LONG, '0', 'cpu', 2, ('v', 1, 2)), 'a view reaches beyond')])
@FORMS
def test_wrong_persistent_ids_are_refused(form, identifier, words, refused):
  array = np.zeros(2, int)
  refused(writer.FORMS[form]([writer.tensor(array, writer.Storage(array, identifier))]), words)


@FORMS
def test_one_storage_has_one_size(form, refused):
  array = np.zeros(2, int)
  other = writer.Storage(array, ('storage', LONG, '0', 'cpu', 1))
  refused(writer.FORMS[form]([array, writer.tensor(array[:1], other)]), 'two types or sizes')


@pytest.mark.parametrize(('offset', 'size', 'stride', 'words'), [
    (0, (7,), (1,), 'beyond'), (1, (6,), (1,), 'beyond'), (6, (), (), 'beyond'),
    (0, (2, 3), (4, 1), 'beyond'), (1 << 62, (1,), (1,), 'beyond'), (0, (2,), (1 << 62,), 'beyond'),
    (-1, (2,), (1,), 'offset'), (0, (-2,), (1,), 'whole numbers'), (0, (2,), (-1,), 'whole'),
    (0, (1 << 60,), (1,), 'together take'), (0, (1 << 60,), (0,), 'together take'),
    (0, (1 << 200,), (0,), 'whole numbers'), (0, (0, 1 << 62), (1, 1), 'together take'),
    (0, (2,), (1, 1), 'dimensions'), (0, (1,) * 65, (1,) * 65, 'dimensions'),
    (0, [2], (1,), 'whole numbers'), (0, (2.,), (1,), 'whole'), ('0', (2,), (1,), 'offset')])
@FORMS
def test_tensors_outside_their_storage_are_refused(form, offset, size, stride, words, refused):
  storage = writer.Storage(np.zeros(6, np.float32))
  refused(writer.FORMS[form]([writer.Call(
      writer.Global('torch._utils', '_rebuild_tensor_v2'), storage, offset, size, stride, False,
      collections.OrderedDict())]), words)


def test_expanded_tensors_are_read_up_to_a_limit(read, refused):
  storage = writer.Storage(np.ones(1, np.float32))
  many = lambda count: writer.zipped([
      writer.tensor(np.broadcast_to(storage.array, (2**20,)), storage, 0, (0,))
      for _ in range(count)])
  assert all(array.sum() == 2**20 for array in read(many(4)))
  refused(many(5), 'together take more than 8 times the file and 16 MiB')


@FORMS
def test_nothing_is_made_of_a_size_that_the_file_cannot_hold(form, refused):
  array = np.zeros(2, int)
  content = writer.FORMS[form]([writer.tensor(array, writer.Storage(
      array, ('storage', LONG, '0', 'cpu', 1 << 24)))])
  tracemalloc.start()
  refused(content, 'more than are left of the file')
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 2**22  # not 128 MiB


@pytest.mark.parametrize('storage', [None, 3, np.zeros(2)])
def test_a_tensor_of_no_storage_is_refused(storage, refused):
  rebuild = writer.Global('torch._utils', '_rebuild_tensor')
  refused(writer.zipped([writer.Call(rebuild, storage, 0, (2,), (1,))]), 'has no storage')


def test_parameters_and_sizes_of_something_else_are_refused(refused):
  rebuild = writer.Global('torch._utils', '_rebuild_parameter')
  refused(writer.zipped([writer.Call(rebuild, 'x', True, None)]), 'no tensor')
  refused(writer.zipped([writer.Call(writer.Global('torch', 'Size'), [1])]), 'no tuple')


@pytest.mark.parametrize('metadata', [{'conj': True}, 1, np.zeros(2)])
def test_conjugated_tensors_are_refused(metadata, refused):
  made = writer.tensor(np.ones(2, np.complex64))
  made.arguments += (metadata,)
  refused(writer.zipped([made]), 'resolve_conj')


# Files that are not what they should be.


@pytest.mark.parametrize('content', [b'', b'PK', b'<html>', b'\x93NUMPY', b'ustar' * 200])
def test_other_files_are_refused(content, refused):
  refused(content, 'no file of torch.save')


def test_no_room_is_made_for_a_string_that_the_file_cannot_hold(refused):
  for operation in (b'\x8d', b'\x8e'):
    length = struct.pack('<Q', 1 << 60)
    refused(writer.legacy(None, pickled=b'\x80\x04' + operation + length + b'.'), 'cannot be read')


def test_other_pickles_are_refused(refused):
  refused(pickle.dumps({'w': 1}), 'none of torch.save')
  refused(pickle.dumps(writer.MAGIC) + pickle.dumps(1002) + pickle.dumps({}), 'protocol')
  refused(writer.legacy(SMALL, system=[]), 'protocol')


def test_old_files_of_big_endian_machines_are_refused(refused):
  refused(writer.legacy(SMALL, system={'little_endian': False}), 'big-endian')


def test_other_zip_files_are_refused(refused):
  refused(writer.zipped(SMALL, more={'archive/code/a.py': '0'}), 'TorchScript')
  refused(writer.zipped(SMALL, more={'archive/constants.pkl': '0'}), 'TorchScript')
  refused(writer.zipped(SMALL, more={'other/data.pkl': '0'}), 'none of torch.save')
  refused(writer.zipped(SMALL, root='a/b'), 'none of torch.save')
  refused(writer.zipped(SMALL, order='middle'), 'byte order')


def test_compressed_entries_are_refused(refused):
  refused(writer.zipped({'w': np.zeros(2**20, np.float32)}, compression=zipfile.ZIP_DEFLATED),
          'compressed entries')


def test_entries_may_not_overlap_to_be_larger_than_the_file(refused):
  content = writer.zipped({'w': np.zeros(1000, np.float32)})
  directory, end = content.index(b'PK\x01\x02'), content.index(b'PK\x05\x06')
  entries = content[directory:end] * 3
  content = content[:directory] + entries + struct.pack(
      '<4sHHHHIIH', b'PK\x05\x06', 0, 0, 12, 12, len(entries), directory, 0)
  refused(content, 'entries are larger than itself')


def test_a_flipped_bit_of_a_tensor_in_an_archive_is_noticed(refused):
  content = bytearray(writer.zipped({'w': np.ones(100, np.float32)}))
  content[content.index(np.ones(100, np.float32).tobytes())] ^= 1
  refused(content, 'CRC')


def test_a_storage_of_another_size_than_its_tensors_say_is_refused(refused):
  content = writer.legacy({'w': np.ones(5)})
  assert content.count(struct.pack('<q', 5)) == 1
  refused(content.replace(struct.pack('<q', 5), struct.pack('<q', 1 << 60)), 'another size')


@pytest.mark.parametrize('keys', [[], ['0', '0'], ['1'], [0], '0', ['0', '1']])
def test_other_storages_than_those_of_the_tensors_are_refused(keys, refused):
  refused(writer.legacy({'w': np.ones(5)}, keys=keys), 'not those of its tensors')


@FORMS
def test_a_file_cut_short_anywhere_is_refused(form, tmp_path):
  content = writer.FORMS[form]({'w': np.ones(1)})
  path = tmp_path / 'cut.pth'
  torch_files.read(write(path, content))
  for length in range(len(content)):
    with pytest.raises(StateDictError, match='cut.pth: '):
      torch_files.read(write(path, content[:length]))


@FORMS
@hypothesis.settings(
    max_examples=120, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(data=st.data())
def test_a_damaged_file_is_read_or_refused(form, data, tmp_path):
  content = bytearray(writer.FORMS[form](SMALL))
  for _ in range(data.draw(st.integers(1, 3))):
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
  try:
    torch_files.read(write(tmp_path / 'damaged.pth', content))
  except UserError as error:
    assert 'damaged.pth: ' in str(error)


def write(path, content):
  path.write_bytes(content)
  return path


def test_missing_files_and_folders_are_refused(tmp_path):
  with pytest.raises(NotFoundError, match='no such file'):
    torch_files.read(tmp_path / 'none.pth')
  with pytest.raises(StateDictError, match='cannot be read'):
    torch_files.read(tmp_path)
