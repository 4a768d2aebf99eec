"""JSON files of a work directory: whole, of the first process, read where they are cut."""

import json
import math

import pytest

from kdseg_jax.data import json_files
from kdseg_jax.errors import UserError


def test_a_file_is_replaced_as_a_whole_and_its_folder_made(tmp_path):
  path = tmp_path / 'new' / 'a.json'
  json_files.write_json(str(path), {'x': 1})
  with pytest.raises(TypeError):
    json_files.write_json(str(path), {'x': object()})
  assert json_files.read_json(str(path)) == {'x': 1}
  json_files.write_json(str(path), {'y': [2]})
  assert json_files.read_json(str(path)) == {'y': [2]}
  assert [one.name for one in path.parent.iterdir()] == ['a.json']
  assert json_files.read_json(str(tmp_path / 'none.json')) == {}


@pytest.mark.parametrize('process', [1, 2])
def test_other_processes_than_the_first_write_nothing(process, tmp_path, monkeypatch):
  monkeypatch.setattr('jax.process_index', lambda: process)
  json_files.write_json(str(tmp_path / 'a.json'), {})
  assert not list(tmp_path.iterdir())


def test_rows_that_a_killed_process_cut_are_left_out(tmp_path):
  assert json_files.read_rows(str(tmp_path)) == []
  rows = [{'step': 1}, {'step': 2, 'loss': None}]
  (tmp_path / json_files.METRICS_FILE).write_text(
      ''.join(f'{json.dumps(row)}\n' for row in rows) + '{"step": 3, "lo')
  assert json_files.read_rows(str(tmp_path)) == rows


def test_numbers_that_json_does_not_know_become_none_at_any_depth():
  value = {'a': [1.5, math.nan, {'b': (math.inf, 2)}], 'c': -math.inf, 'd': ('nan', True, None)}
  expected = {'a': [1.5, None, {'b': [None, 2]}], 'c': None, 'd': ['nan', True, None]}
  assert json_files.finite(value) == expected
  json.dumps(json_files.finite(value), allow_nan=False)


@pytest.mark.parametrize('content', [b'{"x": 1', b'', b'\xff\xfe{}'])
def test_a_damaged_file_is_named(content, tmp_path):
  (tmp_path / 'a.json').write_bytes(content)
  with pytest.raises(UserError, match=r'a\.json: is no JSON .*it is damaged or was edited'):
    json_files.read_json(str(tmp_path / 'a.json'))
