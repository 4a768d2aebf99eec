"""Downloads from a server on the loopback address that the test starts."""

import io
import socket
import urllib.request

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


@pytest.mark.parametrize('weak', [{}, {'ETag': 'W/"weak"'}])
def test_without_a_sum_it_goes_on_by_the_date_of_the_file(server, tmp_path, weak):
  server.answers['/a'] = Answer(
      cuts=[200_000], headers={'Last-Modified': servers.date(1e9)} | weak)
  assert received(server, '/a', tmp_path, checked=False) == CONTENT
  assert server.asked == [('/a', None), ('/a', 'bytes=200000-')]


def test_a_server_that_is_gone_for_a_moment_is_asked_again(server, tmp_path, monkeypatch):
  pauses = []
  monkeypatch.setattr(transfer, 'WAIT', 0.5)
  answer = server.answers['/a'] = Answer(etag='"1"', cuts=[1000])

  def gone(seconds):
    pauses.append(seconds)
    answer.drops = int(len(pauses) < 3)
  monkeypatch.setattr(transfer.time, 'sleep', gone)
  assert received(server, '/a', tmp_path) == CONTENT
  assert pauses == [0.5, 1.0, 1.5]
  assert [wanted for _, wanted in server.asked] == [None] + ['bytes=1000-'] * 3


def test_a_server_that_never_answers_is_asked_once(server, tmp_path):
  server.answers['/a'] = Answer(drops=2)
  with pytest.raises(transfer.TransferError):
    received(server, '/a', tmp_path)
  assert len(server.asked) == 1


def test_a_chunked_answer_that_is_cut_is_not_taken_for_the_file(server, tmp_path):
  pieces = (CONTENT[:200_000], CONTENT[200_000:], b'')
  chunks = b''.join(b'%x\r\n%s\r\n' % (len(piece), piece) for piece in pieces)
  server.answers['/a'] = Answer(chunks, sized=False, headers={'Transfer-Encoding': 'chunked'},
                                cuts=[300_000], ranges=False)
  assert received(server, '/a', tmp_path) == CONTENT
  assert len(server.asked) == 2


def test_a_connection_that_is_always_cut_is_given_up_and_continued_by_the_next_run(
    server, tmp_path):
  server.answers['/a'] = Answer(etag='"1"', cuts=[1000] * transfer.TRIES)
  with pytest.raises(transfer.TransferError,
                     match='cut at byte 4000 of 512000; tried 4 times. Run it again to go on'):
    received(server, '/a', tmp_path)
  assert left(tmp_path) == ['file.part', 'file.part.from']
  assert received(server, '/a', tmp_path, checked=False) == CONTENT
  assert left(tmp_path) == ['file'] and server.asked[-1] == ('/a', 'bytes=4000-')


@pytest.mark.parametrize('path, etag', [('/a', '"2"'), ('/b', '"1"')])
def test_the_part_of_another_version_or_address_is_not_continued(server, tmp_path, path, etag):
  server.answers['/a'] = Answer(b'old' * 1000, etag='"1"', cuts=[100] * transfer.TRIES)
  with pytest.raises(transfer.TransferError):
    received(server, '/a', tmp_path)
  server.answers = {path: Answer(etag=etag)}
  assert received(server, path, tmp_path) == CONTENT


def test_a_part_that_is_longer_than_the_file_is_not_continued(server, tmp_path):
  server.answers['/a'] = Answer(etag='"1"', cuts=[400_000] + [0] * transfer.TRIES)
  with pytest.raises(transfer.TransferError):
    received(server, '/a', tmp_path)
  server.answers['/a'] = Answer(CONTENT[:1000], etag='"1"')
  assert received(server, '/a', tmp_path) == CONTENT[:1000]
  assert server.asked[-2:] == [('/a', 'bytes=400000-'), ('/a', None)]


def test_an_answer_that_starts_elsewhere_is_not_appended(server, tmp_path):
  server.answers['/a'] = Answer(etag='"1"', cuts=[1000],
                                headers={'Content-Range': 'bytes 7-511999/512000'})
  assert received(server, '/a', tmp_path) == CONTENT
  assert server.asked == [('/a', None), ('/a', 'bytes=1000-'), ('/a', None)]


def test_it_goes_on_after_a_pause_that_was_too_long(server, tmp_path, monkeypatch):
  monkeypatch.setattr(transfer, 'TIMEOUT', 0.1)
  slow = Answer(etag='"1"', pause=0.5)
  server.answers['/a'] = slow
  with pytest.raises(transfer.TransferError, match='cut at byte 4000: no answer for 0.1 s'):
    received(server, '/a', tmp_path)
  assert [asked for _, asked in server.asked] == [
      None, 'bytes=1000-', 'bytes=2000-', 'bytes=3000-']


def test_a_host_that_does_not_answer_is_left_at_once(tmp_path, monkeypatch):
  monkeypatch.setattr(transfer, 'TIMEOUT', 0.1)
  with socket.create_server(('127.0.0.1', 0)) as silent:
    with pytest.raises(transfer.TransferError, match='no answer for 0.1 s'):
      with being_written(str(tmp_path / 'file')) as part:
        transfer.receive(f'http://127.0.0.1:{silent.getsockname()[1]}/a', part, checked=True)
  assert left(tmp_path) == []


@pytest.mark.parametrize('status, message', [
    (404, 'the server answered 404 Not Found'), (403, '403 Forbidden'),
    (407, '407 Proxy Authentication Required'), (503, '503 Service Unavailable'),
    (206, 'a piece of the file')])
def test_a_refusal_is_named(server, tmp_path, status, message):
  server.answers['/a'] = Answer(status=status)
  with pytest.raises(transfer.TransferError, match=message):
    received(server, '/a', tmp_path)
  assert left(tmp_path) == [] and len(server.asked) == 1


def test_a_web_page_is_no_file(server, tmp_path):
  server.answers['/a'] = Answer(b'<html>', headers={'Content-Type': 'text/html; charset=utf-8'})
  with pytest.raises(transfer.TransferError, match='a web page'):
    received(server, '/a', tmp_path)
  assert left(tmp_path) == []


@pytest.mark.parametrize('status', [301, 302, 303, 307, 308])
@pytest.mark.parametrize('whole', [True, False])
def test_redirects_to_http_are_followed(server, tmp_path, status, whole):
  to = server.address('/b') if whole else 'b'
  server.answers = {'/a': Answer(b'', status=status, headers={'Location': to}), '/b': Answer()}
  assert received(server, '/a', tmp_path) == CONTENT


@pytest.mark.parametrize('to', ['file:///etc/hostname', 'FILE:/etc/hostname', 'ftp://host/a',
                                'data:text/plain,a', '//[bad/a'])
def test_redirects_to_anything_else_are_refused(server, tmp_path, to):
  server.answers['/a'] = Answer(b'', status=302, headers={'Location': to})
  with pytest.raises(transfer.TransferError, match='redirects|IPv6'):
    received(server, '/a', tmp_path)
  assert left(tmp_path) == []


def test_redirects_to_an_unencrypted_address_are_refused():
  request, answer = urllib.request.Request('https://127.0.0.1/a'), io.BytesIO()
  with pytest.raises(transfer.TransferError, match='not encrypted'):
    transfer._RedirectHandler().http_error_302(
        request, answer, 302, 'Found', {'Location': 'http://127.0.0.1/a'})
  assert answer.closed


def test_redirects_in_a_circle_end(server, tmp_path):
  server.answers['/a'] = Answer(b'', status=302, headers={'Location': '/b'})
  server.answers['/b'] = Answer(b'', status=302, headers={'Location': '/a'})
  with pytest.raises(transfer.TransferError, match='redirected too often'):
    received(server, '/a', tmp_path)
  assert len(server.asked) < 20


def test_a_redirect_to_nowhere_is_a_refusal(server, tmp_path):
  server.answers['/a'] = Answer(b'', status=302)
  with pytest.raises(transfer.TransferError, match='302 Found'):
    received(server, '/a', tmp_path)


def test_a_closed_port_and_an_unknown_host_are_named(tmp_path, monkeypatch):
  with socket.create_server(('127.0.0.1', 0)) as closed:
    port = closed.getsockname()[1]
  with being_written(str(tmp_path / 'file')) as part:
    with pytest.raises(transfer.TransferError, match='Connection refused'):
      transfer.receive(f'http://127.0.0.1:{port}/a', part, checked=True)
    monkeypatch.setattr(socket, 'getaddrinfo', unknown)
    with pytest.raises(transfer.TransferError, match=r'host cannot be found \(no such name\)'):
      transfer.receive('http://host.invalid/a', part, checked=True)


def unknown(*_, **__):
  raise socket.gaierror(socket.EAI_NONAME, 'no such name')


def test_the_proxy_of_the_environment_is_asked(server, tmp_path, monkeypatch):
  monkeypatch.setenv('http_proxy', server.address(''))
  server.answers['http://host.invalid/a'] = Answer()
  with being_written(str(tmp_path / 'file')) as part:
    transfer.receive('http://host.invalid/a', part, checked=True)
    assert part.size == len(CONTENT)


@pytest.mark.parametrize('url', ['file:///etc/hostname', 'ftp://host/a', 'a.pth', 'http:///a', '',
                                 'https:host/a', 'http://[bad/a'])
def test_only_http_addresses_are_taken(url):
  with pytest.raises(UserError, match='is no address|expected'):
    transfer.check_address(url)


def test_an_address_that_cannot_be_asked_for_is_a_refusal(tmp_path):
  with being_written(str(tmp_path / 'file')) as part:
    for url in ('http://127.0.0.1:port/a', 'http://127.0.0.1/a b', 'http://127.0.0.1/\xfc'):
      with pytest.raises(transfer.TransferError):
        transfer.receive(url, part, checked=True)


def test_a_terminal_shows_a_bar(server, tmp_path, monkeypatch):
  bars = []
  monkeypatch.setattr(
      transfer.tqdm, 'tqdm',
      lambda **options: bars.append(Bar(options)) or bars[-1])
  server.answers['/a'] = Answer(cuts=[100_000])
  received(server, '/a', tmp_path)
  assert [(bar.options['initial'], bar.options['total'], bar.n) for bar in bars] == [
      (0, 512_000, 100_000), (100_000, 512_000, 412_000)]
  assert all(bar.options['desc'] == 'file' and bar.options['disable'] is None for bar in bars)


class Bar:

  def __init__(self, options):
    self.options, self.n = options, 0

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass

  def update(self, n):
    self.n += n
