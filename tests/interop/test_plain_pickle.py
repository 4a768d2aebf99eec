"""Pickles as data: what plain containers need is carried out, and all else is refused."""

import collections
import contextlib
import io

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from kdseg_jax.interop import plain_pickle
from kdseg_jax.interop.file_errors import Refusal


def fill(storage, *rest):
  return np.zeros(2)


NAMES = {
    'torch Size': plain_pickle.Function('torch.Size', lambda numbers: numbers),
    'torch._utils _rebuild_tensor_v2': plain_pickle.Function('torch.rebuild', fill),
    'torch FloatStorage': np.dtype('f4')}


def load(operations):
  return plain_pickle.load(io.BytesIO(b'\x80\x02' + operations + b'.'), NAMES)


@pytest.mark.parametrize(('operations', 'words'), [
    (b'ctorch\nSize\n}b', 'sets attributes'),                     # of a function
    (b'ctorch\nSize\n}}\x86b', 'sets attributes'),
    (b']}b', 'sets attributes'), (b'ccollections\nOrderedDict\n)R)b', 'sets attributes'),
    (b'ctorch\nFloatStorage\n)R', 'no function'), (b']' b')R', 'no function'),
    (b'ccollections\nOrderedDict\n)\x81', 'operation NEWOBJ'),
    (b'(iposix\nsystem\n', 'operation INST'), (b'(ctorch\nSize\no', 'operation OBJ'),
    (b'\x82\x01', 'operation EXT1'), (b'Pid\n', 'operation PERSID'),
    (b'ccollections\nOrderedDict\nK\x01\x85R', 'made of no list'),
    (b'ccollections\nOrderedDict\n]K\x01a\x85R', 'made of no pairs'),
    (b'ccollections\nOrderedDict\n))\x86R', 'other arguments'),
    (b'ccollections\nOrderedDict\n](](]K\x01ee\x85R', 'key of type list'),
    (b'ctorch._utils\n_rebuild_tensor_v2\n)R', 'arguments'),
    (b'(0', 'more from its stack'), (b'K\x01(\x85', 'more from its'),
    (b't', 'no mark'), (b'K\x01K\x02a', 'appends to no list'), (b'K\x01K\x02K\x03s', 'items of no'),
    (b'}(K\x01u', 'items of no dict'), (b'}]K\x01s', 'key of type list'),
    (b'})K\x01s', 'key of type tuple'), (b'h\x07', 'did not put'), (b'j\xff\xff\xff\xff', 'put'),
    (b'\x80\x63', 'protocol 99'), (b'\xff', 'unknown'), (b'K\x01Q', 'persistent id where none'),
    (b'\x8b\xff\xff\xff\x7f', 'cannot be read'),                  # LONG4
    (b'\x8b\xff\xff\xff\xff', 'cannot be read'),
    (b'\x8d' + b'\xff' * 8, 'cannot be read'),                    # BINUNICODE8
    (b'\x8d' + b'\xff' * 7 + b'\x00', 'cannot be read'), (b'X\xff\xff\xff\xff', 'cannot be read'),
    (b'\x8e' + b'\xff' * 7 + b'\x00', 'cannot be read'),          # BINBYTES8
    (b'\x95' + b'\xff' * 8, 'cannot be read'), (b'I' + b'9' * 9999 + b'\n', 'cannot be read'),
    (b'X\x01\x00\x00\x00\xff', 'cannot be read'), (b'', 'more from its stack'),
    (b'ctorch\n', 'cannot be read'), (b'K\x01\x93', 'more from'), (b'K\x01K\x02\x93', 'no string')])
def test_operations_that_no_state_dict_needs_are_refused(operations, words):
  with pytest.raises(Refusal, match=words):
    load(operations)


@pytest.mark.parametrize(('operations', 'expected'), [
    (b'}q\x00U\x01wI4294967296\ns', {'w': 2**32}),           # of Python 2
    (b'ccollections\nOrderedDict\n](](X\x01\x00\x00\x00bK\x01e](U\x01aK\x02ee\x85R',
     collections.OrderedDict(b=1, a=2)),
    (b'(K\x01K\x021N', None), (b'K\x01q\xff0h\xff', 1), (b'K\x01\x940K\x02\x940h\x00', 1),
    (b'X\x05\x00\x00\x00torchX\x04\x00\x00\x00Size\x93)\x85R', ())])
def test_what_state_dicts_need_is_carried_out(operations, expected):
  assert load(operations) == expected


def test_a_state_dict_has_none_of_the_attributes_that_its_file_gives_it():
  found = load(b'ccollections\nOrderedDict\n)R}X\x06\x00\x00\x00updateK\x01sb')
  assert type(found) is collections.OrderedDict and not vars(found)


def test_what_follows_a_pickle_is_left_to_read():
  stream = io.BytesIO(b'K\x01.K\x02.rest')
  assert [plain_pickle.load(stream), plain_pickle.load(stream)] == [1, 2]
  assert stream.read() == b'rest'


def test_containers_may_be_nested_deeper_than_python_calls():
  depth = 20_000
  tree = load(b']' * depth + b'a' * (depth - 1))
  for _ in range(depth - 1):
    [tree] = tree
  assert tree == []


def test_a_pickle_has_only_so_many_operations(monkeypatch):
  monkeypatch.setattr(plain_pickle, '_MOST_OPERATIONS', 1000)
  assert load(b']0' * 498 + b'N') is None
  with pytest.raises(Refusal, match='over 1000 operations'):
    load(b']0' * 500 + b'N')


@hypothesis.settings(max_examples=300)
@hypothesis.given(operations=st.lists(st.sampled_from(
    [b'(', b')', b']', b'}', b'N', b'K\x01', b'0', b'1', b'a', b'e', b's', b'u', b'R', b'b', b'Q',
     b't', b'\x85', b'\x86', b'\x87', b'\x94', b'h\x00', b'q\x00', b'X\x01\x00\x00\x00a',
     b'ctorch\nSize\n', b'ctorch\nFloatStorage\n', b'ccollections\nOrderedDict\n',
     b'ctorch._utils\n_rebuild_tensor_v2\n', b'\x93', b'\x88', b'G?\xf0\x00\x00\x00\x00\x00\x00']),
    max_size=30).map(b''.join))
def test_any_operations_are_read_or_refused(operations):
  with contextlib.suppress(Refusal):
    load(operations)
