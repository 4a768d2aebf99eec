"""Repositories of Hugging Face: its own client, against a server that the test starts."""

import os
import pathlib
import sys

import pytest

from kdseg_jax.errors import UserError
from kdseg_jax.interop import download
from tests.interop import servers
from tests.interop.servers import CONTENT, SHA256, Answer

REPOSITORY, COMMIT = 'timm/resnet18.a1_in1k', 'c' * 40


@pytest.fixture(scope='module')
def endpoint(tmp_path_factory):
  """A server that stands in for huggingface.co; the client reads where it is when imported."""
  def forget():
    for name in [name for name in sys.modules if name.partition('.')[0] == 'huggingface_hub']:
      del sys.modules[name]

  home = tmp_path_factory.mktemp('hugging_face')
  with servers.running() as server, pytest.MonkeyPatch.context() as patch:
    for name in [name for name in os.environ if name.startswith(('HF_', 'HUGGING_FACE_'))]:
      patch.delenv(name)
    for name, value in {'HF_ENDPOINT': server.address(''), 'HF_HOME': str(home),
                        'HF_HUB_DISABLE_XET': '1', 'NO_PROXY': '127.0.0.1'}.items():
      patch.setenv(name, value)
    forget()
    yield server
    forget()


@pytest.fixture
def server(endpoint, tmp_path, monkeypatch):
  """That server without any repository, and an empty cache."""
  from huggingface_hub import constants
  assert constants.ENDPOINT == endpoint.address('')
  monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
  monkeypatch.setattr('time.sleep', lambda _: None)  # the client waits between its tries
  endpoint.answers, endpoint.missing, endpoint.asked = {}, refusal(404, 'RepoNotFound'), []
  return endpoint


def refusal(status, code):
  return Answer(b'', status=status, headers={'X-Error-Code': code, 'X-Error-Message': code})


def publish(server, files, revision='main'):
  server.missing = refusal(404, 'EntryNotFound')
  for name, content in files.items():
    server.answers[f'/{REPOSITORY}/resolve/{revision}/{name}'] = Answer(
        content, etag=f'"{SHA256}"', headers={'X-Repo-Commit': COMMIT})


def asked(server):
  return {path.rpartition('/')[2] for path, _ in server.asked if path.startswith(f'/{REPOSITORY}')}


def test_the_weights_of_a_repository_are_downloaded_once(server, tmp_path):
  publish(server, {'model.safetensors': CONTENT, 'pytorch_model.bin': b'other'})
  path = pathlib.Path(download.fetch_hf(REPOSITORY))
  assert path.name == 'model.safetensors' and path.read_bytes() == CONTENT
  assert path.is_relative_to(tmp_path / 'hub') and COMMIT in path.parts
  assert asked(server) == {'model.safetensors'}
  server.answers.clear()
  assert download.fetch_hf(REPOSITORY, revision=COMMIT) == str(path)


def test_without_safetensors_it_is_pytorch_model_bin(server):
  publish(server, {'pytorch_model.bin': CONTENT})
  path = pathlib.Path(download.fetch_hf(REPOSITORY))
  assert path.name == 'pytorch_model.bin' and path.read_bytes() == CONTENT


def test_a_file_and_a_revision_can_be_named(server):
  publish(server, {'other.pth': CONTENT}, revision='v2')
  path = pathlib.Path(download.fetch_hf(REPOSITORY, filename='other.pth', revision='v2'))
  assert path.name == 'other.pth' and path.read_bytes() == CONTENT


def test_content_of_another_sum_is_damaged(server):
  publish(server, {'model.safetensors': CONTENT[:-1] + b'!'})
  with pytest.raises(UserError, match=f'damaged: its sha256 is not {SHA256}. Delete .*{SHA256}'):
    download.fetch_hf(REPOSITORY)


def test_a_small_file_is_called_otherwise_than_by_its_sum(server):
  publish(server, {'config.json': b'{}'})
  server.answers[f'/{REPOSITORY}/resolve/main/config.json'].etag = f'"{"a" * 40}"'
  path = pathlib.Path(download.fetch_hf(REPOSITORY, filename='config.json'))
  assert path.read_bytes() == b'{}'


def test_a_repository_without_weights_is_named(server):
  publish(server, {})
  with pytest.raises(UserError, match='hf:timm/.*: has no model.safetensors and no pytorch_model'):
    download.fetch_hf(REPOSITORY)
  with pytest.raises(UserError, match='has no a.pth; give the name'):
    download.fetch_hf(REPOSITORY, filename='a.pth')


@pytest.mark.parametrize('status, code, message', [
    (404, 'RepoNotFound', 'there is no such repository, or it is private'),
    (404, 'RevisionNotFound', 'has no revision v9'),
    (403, 'GatedRepo', 'its owner has to grant access'),
    (400, 'Odd', 'cannot be downloaded: Bad request: Odd')])
def test_what_the_server_refuses_is_named(server, status, code, message):
  server.missing = refusal(status, code)
  with pytest.raises(UserError, match=f'hf:{REPOSITORY}: {message}'):
    download.fetch_hf(REPOSITORY, revision='v9')


@pytest.mark.parametrize('repository', ['a/b/c', '', '../..', 'a b/c'])
def test_what_is_no_repository_is_refused(server, repository):
  with pytest.raises(UserError, match='expected hf:<owner>/<name>'):
    download.fetch_hf(repository)
  assert not server.asked


def test_a_server_that_is_down_is_named(server):
  server.missing = Answer(b'', status=503)
  with pytest.raises(UserError, match='cannot be downloaded: .*503'):
    download.fetch_hf(REPOSITORY)


def test_a_cut_connection_is_resumed_by_the_client(server):
  publish(server, {'model.safetensors': CONTENT})
  server.answers[f'/{REPOSITORY}/resolve/main/model.safetensors'].cuts = [100_000]
  assert pathlib.Path(download.fetch_hf(REPOSITORY)).read_bytes() == CONTENT


def test_without_the_extra_the_message_says_how_to_get_it(monkeypatch):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  monkeypatch.setattr(download.extras.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match=r"hf:a/b needs huggingface_hub.*install '.+\[hub\]'"):
    download.fetch_hf('a/b')
