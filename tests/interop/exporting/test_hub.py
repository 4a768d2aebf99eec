"""Exports to Hugging Face: what its client is asked, without a network."""

import sys
import types

import pytest

from kdseg_jax import extras
from kdseg_jax.errors import UserError
from kdseg_jax.interop.exporting import hub


@pytest.fixture
def client(monkeypatch):
  """In place of huggingface_hub: notes the calls; raises `error` if there is one."""
  noted = types.SimpleNamespace(calls=[], error=None)

  class Api:
    endpoint = 'https://huggingface.co'

    def create_repo(self, repository, **options):
      noted.calls.append(('create_repo', repository, options))
      if noted.error:
        raise noted.error

    def upload_folder(self, **options):
      noted.calls.append(('upload_folder', options))
  monkeypatch.setitem(sys.modules, 'huggingface_hub', types.SimpleNamespace(
      HfApi=Api, __spec__=types.SimpleNamespace()))
  return noted


def test_a_folder_is_sent_to_a_repository_that_may_be_new(client):
  assert hub.push('exports/a', 'me/model-1.0') == 'https://huggingface.co/me/model-1.0'
  (made, repository, options), (sent, upload) = client.calls
  assert (made, repository) == ('create_repo', 'me/model-1.0') and options['exist_ok']
  assert sent == 'upload_folder' and upload['folder_path'] == 'exports/a'
  assert upload['repo_id'] == 'me/model-1.0'


def test_what_the_client_refuses_is_one_clear_error(client):
  client.error = RuntimeError('401 Client Error\nmore')
  with pytest.raises(UserError, match=r'exports/a was not sent to me/model \(RuntimeError: 401 '
                                      r'Client Error\)\. Log in with `hf auth login`'):
    hub.push('exports/a', 'me/model')
  assert len(client.calls) == 1


def test_what_is_no_repository_or_has_no_client(client, monkeypatch):
  for repository in ('model', 'a/b/c', 'me/', 'hf:me/model', 'me/my model'):
    with pytest.raises(UserError, match='expected <user or organisation>/<name>'):
      hub.check(repository)
  monkeypatch.setattr(extras.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match='--push_to needs huggingface_hub'):
    hub.check('me/model')
