"""State dicts of files of any usual kind: found, unwrapped, and refused where that is not clear."""

import io
import json
import logging
import struct
import sys
import types
import zipfile

import hypothesis
import jax
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import strategies as st

from kdseg_jax.errors import NotFoundError
from kdseg_jax.interop import state_dicts
from kdseg_jax.interop.file_errors import StateDictError
from tests.interop import torch_writer as writer

BFLOAT16 = np.dtype(jax.dtypes.bfloat16)
WEIGHTS = {
    'conv.weight': np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    'bn.running_mean': np.array([1.5, -2], np.float16), 'bn.num_batches_tracked': np.array(7),
    'empty': np.zeros((0, 3), np.float64), 'mask': np.array([True, False])}
OTHER = {'conv.weight': np.full(3, 9, np.float32)}
OPTIMIZER = {'state': {0: {'step': np.array(3), 'exp_avg': np.ones(4, np.float32)}},
             'param_groups': [{'lr': 0.1, 'params': [0]}]}


def npz(tensors, save=np.savez):
  file = io.BytesIO()
  save(file, **tensors)
  return file.getvalue()


KINDS = {
    'zip': writer.zipped, 'legacy': writer.legacy, 'safetensors': safetensors.numpy.save,
    'npz': npz, 'packed npz': lambda tensors: npz(tensors, np.savez_compressed)}
of_every_kind = pytest.mark.parametrize('kind', KINDS)


@pytest.fixture
def reader():
  return state_dicts.read


def check_same(found, expected):
  assert type(found) is dict and found.keys() == expected.keys()
  for name, array in expected.items():
    assert type(found[name]) is np.ndarray and found[name].dtype == array.dtype
    assert found[name].flags.c_contiguous
    np.testing.assert_array_equal(found[name], array, strict=True)


@of_every_kind
def test_the_content_decides_what_a_file_is(kind, read):
  check_same(read(KINDS[kind](WEIGHTS)), WEIGHTS)


@pytest.mark.parametrize('kind', ['zip', 'legacy', 'safetensors'])
def test_bfloat16_is_kept(kind, read):
  weights = {'w': np.array([[1.5, -3], [0, 2.**100]], BFLOAT16)}
  check_same(read(KINDS[kind](weights)), weights)


def test_arrays_under_sd_are_those_of_an_npz(read):
  arrays = {f'sd/{name}': array for name, array in WEIGHTS.items()}
  check_same(read(npz(arrays | {'input': np.ones(3), 'names': np.array(['a'])})), WEIGHTS)


def test_arrays_by_columns_are_read(read):
  check_same(read(npz({'w': np.asfortranarray(np.arange(6).reshape(2, 3))})),
             {'w': np.arange(6).reshape(2, 3)})


def test_arrays_of_the_other_byte_order_are_read(read):
  check_same(read(npz({'w': np.arange(6, dtype='>f4')})), {'w': np.arange(6, dtype='f4')})


def test_views_become_arrays_of_their_own_order(read):
  storage = writer.Storage(np.arange(6, dtype=np.float32))
  turned = storage.array.reshape(2, 3).T
  check_same(read(writer.zipped({'w': writer.tensor(turned, storage, 0, (1, 3))})), {'w': turned})


# Wrappers.


@pytest.mark.parametrize('name', state_dicts.WRAPPERS)
@pytest.mark.parametrize('kind', ['zip', 'legacy'])
def test_the_state_dict_of_a_checkpoint_is_taken(kind, name, read):
  checkpoint = {'epoch': 3, 'optimizer': OPTIMIZER, name: writer.state_dict(**WEIGHTS),
                'best': np.array(0.7), 'args': None}
  check_same(read(KINDS[kind](checkpoint)), WEIGHTS)


@pytest.mark.parametrize('prefix', ['', 'student.'])
@pytest.mark.parametrize('outer', ['', 'module.'])
def test_the_teacher_that_was_saved_with_a_student_is_left_out(prefix, outer, read):
  """But not where it is all there is."""
  both = {f'{outer}{prefix}{name}': array for name, array in WEIGHTS.items()} | {
      f'{outer}teacher.{name}': array for name, array in OTHER.items()}
  check_same(read(npz(both)), WEIGHTS)
  teacher = {f'teacher.{name}': array for name, array in OTHER.items()}
  check_same(read(npz(teacher)), teacher)


def test_what_is_wrapped_twice_is_unwrapped_twice(read, caplog):
  with caplog.at_level(logging.INFO, logger='absl'):
    check_same(read(writer.zipped({'model': {'state_dict': WEIGHTS, 'n': 1}})), WEIGHTS)
  assert 'took model.state_dict' in caplog.text


def test_the_moving_average_is_taken_and_said(read, caplog):
  with caplog.at_level(logging.INFO, logger='absl'):
    check_same(read(writer.zipped({'state_dict': OTHER, 'state_dict_ema': WEIGHTS})), WEIGHTS)
  assert 'took state_dict_ema and not state_dict' in caplog.text


def test_one_state_dict_under_two_names_is_one(read):
  check_same(read(writer.zipped({'state_dict': WEIGHTS, 'model': WEIGHTS})), WEIGHTS)


def test_one_of_several_state_dicts_is_not_guessed(refused):
  refused(writer.zipped({'state_dict': OTHER, 'model': WEIGHTS}),
          'several state dicts: state_dict, model.')
  refused(writer.zipped({'net': {'params': OTHER, 'model': WEIGHTS}}), 'net.model, net.params')


def test_state_dicts_under_other_names_are_named(refused):
  refused(writer.zipped({'generator': OTHER, 'critic': WEIGHTS}), "under 'generator', 'critic'")


@pytest.mark.parametrize('tree', [
    {}, [], {'epoch': 3}, {'optimizer': OPTIMIZER}, {'state_dict': {}}, {'model': None}, 3,
    {3: np.ones(2)}, [np.ones(2)], {'a': [np.ones(2)]}, np.ones(2)], ids=str)
def test_files_without_a_state_dict_are_refused(tree, refused):
  refused(writer.zipped(tree), 'holds (no|one)')


def test_wrappers_that_hold_themselves_are_refused(refused):
  tree = {}
  tree['model'] = tree['state_dict'] = tree
  refused(writer.zipped(tree), 'holds no tensors')


def test_what_is_no_tensor_is_left_out(read):
  check_same(read(writer.zipped(WEIGHTS | {'version': 3, 5: np.ones(2), 'more': OPTIMIZER})),
             WEIGHTS)


# Prefixes.


@pytest.mark.parametrize('prefix', [
    'module.', '_orig_mod.', 'module._orig_mod.', '_orig_mod.module.', 'module.module.'])
@of_every_kind
def test_prefixes_of_wrapped_modules_are_taken_off(kind, prefix, read):
  weights = {f'{prefix}{name}': array for name, array in WEIGHTS.items()}
  check_same(read(KINDS[kind](weights)), WEIGHTS)


@pytest.mark.parametrize('names', [
    ('module.a', 'b'), ('model.a', 'model.b'), ('backbone.a', 'backbone.b'),
    ('modules.a', 'modules.b'), ('module.a', '_orig_mod.a')])
def test_other_prefixes_are_kept(names, read):
  assert set(read(writer.zipped(dict.fromkeys(names, np.ones(2))))) == set(names)


# Files that cannot be read.


@pytest.mark.parametrize(('content', 'words'), [
    (b'', 'is empty'), (b'P', 'no kind that can be read.*begins with the bytes 50'),
    (b'<!DOCTYPE html><html>Not Found', "web page.*'<!DOCTYPE html>"),
    (b'\n  <html>', 'web page'), (b'{"error": "Access denied"}', 'message of a server'),
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:1', 'git lfs pull'),
    (b'\x89HDF\r\n\x1a\n', 'no kind that can be read'), (b'\x1f\x8b\x08', 'no kind'),
    (b'\x93NUMPY\x01\x00', 'no kind'), (b'PK\x05\x06' + bytes(18), 'no kind'),
    (b'PK\x03\x04', 'cannot be unpacked'), (b'\x80\x02}.', 'none of torch.save')])
def test_other_files_are_refused(content, words, refused):
  refused(content, words)


@of_every_kind
def test_a_file_cut_short_anywhere_is_refused(kind, refused):
  content = KINDS[kind]({'w': np.ones(2, np.float32)})
  for length in range(0, len(content), 7):
    refused(content[:length], '.')


@of_every_kind
@hypothesis.settings(max_examples=40, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(data=st.data())
def test_a_damaged_file_is_read_or_refused(kind, data, tmp_path):
  content = bytearray(KINDS[kind]({'w': np.ones(2, np.float32), 'n': np.array(1)}))
  for _ in range(data.draw(st.integers(1, 3))):
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
  path = tmp_path / 'damaged'
  path.write_bytes(content)
  try:
    state_dicts.read(path)
  except StateDictError as error:
    assert str(error).startswith(f'{path}: ')


def safetensors_of(header, data=b''):
  text = json.dumps(header).encode()
  return struct.pack('<Q', len(text)) + text + data


@pytest.mark.parametrize('entry', [
    {'dtype': 'F32', 'shape': [1 << 60], 'data_offsets': [0, 4]},
    {'dtype': 'F32', 'shape': [1], 'data_offsets': [0, 1 << 60]},
    {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 4]},
    {'dtype': 'X', 'shape': [1], 'data_offsets': [0, 4]},
    {'dtype': 'F8_E4M3', 'shape': [4], 'data_offsets': [0, 4]}, 3])
def test_wrong_headers_of_safetensors_are_refused(entry, refused):
  refused(safetensors_of({'w': entry}, bytes(4)), 'cannot be unpacked')


def test_safetensors_without_tensors_are_refused(refused):
  refused(safetensors_of({}), 'holds no tensors')


def test_objects_in_an_npz_are_not_unpickled(refused):
  refused(npz({'sd/w': np.array([{1: 2}], object)}), 'type object')
  refused(npz({'w': np.array(['text'])}), 'type <U4')
  refused(npz({'w': np.ones(2, BFLOAT16)}), 'bfloat16')


def npy(shape, content):
  header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
  return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header)) + header + content


@pytest.mark.parametrize('content', [
    npy((1 << 60,), bytes(8)), npy((3,), bytes(8)), npy((-1,), bytes(8)),
    npy((2,), bytes(7)), npy("'x'", b''), b'', b'\x93NUMPY\x09\x00', b'text'])
def test_wrong_arrays_in_an_npz_are_refused(content, refused):
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w') as archive:
    archive.writestr('sd/w.npy', content)
  refused(file.getvalue(), 'cannot be unpacked')


def test_an_npz_that_unpacks_to_too_much_is_refused(refused, read):
  packed = lambda count: npz({'w': np.zeros(count, np.uint8)}, np.savez_compressed)
  assert read(packed(2**24))['w'].size == 2**24
  refused(packed(2**25), 'more than 64 times its size')


def test_missing_files_and_folders_are_refused(tmp_path):
  with pytest.raises(NotFoundError, match='no such file'):
    state_dicts.read(tmp_path / 'none.pth')
  with pytest.raises(StateDictError, match='cannot be read'):
    state_dicts.read(tmp_path)


class Numpy:
  """An array or number that numpy pickles itself."""

  def __init__(self, value):
    self.value = value

  def __reduce__(self):
    return self.value.__reduce__()


@pytest.fixture
def log(monkeypatch):
  """The buffer of mmengine's log, as far as its pickle shows, under the name that it has there."""
  module = types.ModuleType('mmengine.logging.history_buffer')
  for name in ('mmengine', 'mmengine.logging'):
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
  monkeypatch.setitem(sys.modules, module.__name__, module)

  class HistoryBuffer:
    __module__, __qualname__ = module.__name__, 'HistoryBuffer'

    def mean(self):
      raise AssertionError('only written')

  HistoryBuffer.mean.__module__ = module.__name__
  HistoryBuffer.mean.__qualname__ = 'HistoryBuffer.mean'
  module.HistoryBuffer = HistoryBuffer
  made = HistoryBuffer()
  made.history, made.last = Numpy(np.arange(3.0)), Numpy(np.float64(0.5))
  made.methods = {'mean': HistoryBuffer.mean}
  return made


@pytest.mark.parametrize('kind', ['zip', 'legacy'])
def test_the_log_of_mmengine_is_passed_over(kind, log, read):
  check_same(read(KINDS[kind]({'state_dict': WEIGHTS, 'message_hub': {'loss': log}})), WEIGHTS)


def test_arrays_of_numpy_among_tensors_are_refused(read):
  with pytest.raises(StateDictError, match="'b' is an array of numpy, which is not read"):
    read(writer.zipped(WEIGHTS | {'b': Numpy(np.ones(2))}))


def test_attributes_of_other_things_are_refused(read):
  taken = writer.Call(writer.Global('builtins', 'getattr'), 'text', 'format')
  with pytest.raises(StateDictError, match="takes the attribute 'format' of something"):
    read(writer.zipped(WEIGHTS | {'b': taken}))
