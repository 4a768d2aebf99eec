"""Downloads from a server on the loopback address that the test starts."""

import socket

import pytest

from kdseg_jax.errors import UserError
from kdseg_jax.interop import transfer
from kdseg_jax.interop.part_file import being_written
from tests.interop import servers
from tests.interop.servers import CONTENT, Answer


@pytest.fixture
def server(monkeypatch):
  for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(transfer, 'WAIT', 0)
  with servers.running() as server:
    yield server


def received(server, path, folder, *, checked=True):
  """Receives a file and returns its content; what is not finished stays."""
  with being_written(str(folder / 'file')) as part:
    transfer.receive(server.address(path), part, checked=checked)
    part.finish()
  return (folder / 'file').read_bytes()


def left(folder):
  return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize('sized', [True, False])
def test_a_file_is_received(server, tmp_path, sized):
  server.answers['/a'] = Answer(sized=sized)
  assert received(server, '/a', tmp_path) == CONTENT
  assert left(tmp_path) == ['file'] and server.asked == [('/a', None)]


def test_an_empty_file_is_received(server, tmp_path):
  server.answers['/a'] = Answer(b'')
  assert received(server, '/a', tmp_path) == b''
  assert left(tmp_path) == ['file']


@pytest.mark.parametrize('version', [
    {'etag': '"1"'}, {'headers': {'Last-Modified': servers.date(1e9)}}, {}])
def test_it_goes_on_where_the_connection_was_cut(server, tmp_path, version):
  server.answers['/a'] = Answer(cuts=[200_000, 100_000], **version)
  assert received(server, '/a', tmp_path) == CONTENT
  assert server.asked == [('/a', None), ('/a', 'bytes=200000-'), ('/a', 'bytes=300000-')]


def test_a_server_that_does_not_continue_sends_it_again(server, tmp_path):
  server.answers['/a'] = Answer(cuts=[200_000], ranges=False)
  assert received(server, '/a', tmp_path) == CONTENT
  assert len(server.asked) == 2


def test_without_version_and_sum_it_is_sent_again(server, tmp_path):
  server.answers['/a'] = Answer(cuts=[200_000], etag='W/"weak"')
  assert received(server, '/a', tmp_path, checked=False) == CONTENT
  assert server.asked == [('/a', None)] * 2


def test_a_chunked_answer_that_is_cut_is_not_taken_for_the_file(server, tmp_path):
  whole = b''.join(b'%x\r\n%s\r\n' % (len(CONTENT) // 4, piece) for piece in (
      CONTENT[start:start + len(CONTENT) // 4] for start in range(0, 512_000, 128_000))) + b'0\r\n\r\n'
  chunked = Answer(whole, sized=False, headers={'Transfer-Encoding': 'chunked'}, cuts=[200_000],
                   ranges=False)
  server.answers['/a'] = chunked
  monkey = servers.http.server.BaseHTTPRequestHandler
  assert monkey.protocol_version == 'HTTP/1.0'
  assert received(server, '/a', tmp_path) == CONTENT
