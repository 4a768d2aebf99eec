"""Paths that people type: in fields at any depth of a config, and what the machine refuses."""

import errno
import os
import pathlib

import pytest
from ml_collections import ConfigDict

from kdseg_jax import paths
from kdseg_jax.errors import UserError


def config_of(text):
  """A config whose paths are all this text, in the places where a study has them."""
  own = lambda: {'data': {'root': text, 'name': text}, 'student': {'init': text, 'name': text}}
  return ConfigDict(own() | {
      'teacher': {'checkpoint': text, 'config': own()}, 'prepare': {'folder': text},
      'study': {'teacher': own() | {'data': {'root': text, 'unlabelled': text}}, 'title': text}})


def test_paths_are_expanded_at_any_depth_and_nothing_else_is(monkeypatch):
  monkeypatch.setenv('HOME', '/home/me')
  config = config_of('~/x')
  paths.localize(config)
  assert config.to_dict() == {
      'data': {'root': '/home/me/x', 'name': '~/x'},
      'student': {'init': '/home/me/x', 'name': '~/x'},
      'teacher': {'checkpoint': '/home/me/x', 'config': {
          'data': {'root': '/home/me/x', 'name': '~/x'},
          'student': {'init': '/home/me/x', 'name': '~/x'}}},
      'prepare': {'folder': '/home/me/x'},
      'study': {'title': '~/x', 'teacher': {
          'data': {'root': '/home/me/x', 'unlabelled': '/home/me/x'},
          'student': {'init': '/home/me/x', 'name': '~/x'}}}}


@pytest.mark.parametrize('field', [
    'data.root', 'student.init', 'teacher.checkpoint', 'prepare.folder',
    'teacher.config.data.root', 'teacher.config.student.init', 'study.teacher.data.unlabelled'])
def test_an_address_is_refused_with_the_whole_name_of_its_field(field):
  config = config_of('')
  config.update_from_flattened_dict({field: 's3://bucket/x'})
  with pytest.raises(UserError, match=f'^config.{field}: s3://bucket/x: is an address'):
    paths.localize(config)


@pytest.mark.parametrize('text', ['', 'imagenet', 'imagenet:v2', 'hf:owner/model', 'hf://x', 'a b'])
def test_names_of_weights_and_other_texts_stay(text):
  config = config_of('')
  config.student.init = text
  paths.localize(config)
  assert config.student.init == text


def test_a_path_may_be_an_object_and_a_tilde_a_name(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', '/home/me')
  assert paths.local(pathlib.Path('~/a')) == '/home/me/a'
  assert paths.local(tmp_path / 'a~') == f'{tmp_path}/a~'
  assert paths.local('./~x') == './~x' and paths.local('C:x') == 'C:x'
  with pytest.raises(UserError, match='there is no such user. A folder of that name is ./~nobody_'):
    paths.local('~nobody_of_this_name')


def test_what_the_machine_refuses_is_told_from_what_may_be_a_bug():
  assert paths.describe(OSError(errno.ENOSPC, 'x', b'/data/a')) == '/data/a: x.'
  assert paths.describe(OSError(errno.EROFS, '')) == f'{os.strerror(errno.EROFS)}.'
  for number in (errno.ENOENT, errno.EPIPE, errno.EEXIST, errno.EBADF):
    assert paths.describe(OSError(number, 'x', 'a')) is None


@pytest.mark.parametrize('error, message', [
    (OSError(errno.EACCES, 'Permission denied'), '^a.json: cannot be read: Permission denied.$'),
    (OSError('x'), '^a.json: cannot be read: x.$'),
    (ValueError('x'), r'^a.json: is no JSON \(x\); it is damaged or was edited.$')])
def test_what_fails_while_a_file_is_read_is_of_its_content(error, message):
  with pytest.raises(UserError, match=message), paths.reading('a.json'):
    raise error
  with pytest.raises(KeyError), paths.reading('a.json'):
    raise KeyError


def test_places_that_may_not_be_written_are_refused(tmp_path, monkeypatch):
  """The superuser, as whom tests may run, may write anywhere."""
  path = tmp_path / 'a.json'
  path.write_text('before')
  refused = {str(tmp_path): os.X_OK, str(path): os.W_OK}
  monkeypatch.setattr(os, 'access', lambda name, mode: not refused.get(name, 0) & mode)
  with pytest.raises(UserError, match=f'^--output={tmp_path}/b/c: {tmp_path} may not be written.$'):
    paths.check_folder(f'{tmp_path}/b/c', 'output')
  with pytest.raises(UserError, match=f'^--json={tmp_path}/b: {tmp_path} may not be written.$'):
    paths.make_for(f'{tmp_path}/b/c.json', 'json')
  del refused[str(tmp_path)]
  with pytest.raises(UserError, match=f'^--json={path}: may not be written.$'):
    paths.make_for(str(path), 'json')
  del refused[str(path)]
  paths.make_for(str(path), 'json')
  assert path.read_text() == 'before'
  monkeypatch.chdir(tmp_path)
  paths.make_for('b.json', 'json')
  assert [path.name for path in tmp_path.iterdir()] == ['a.json']
