"""Files on their way: whole or not at all, one process at a time."""

import hashlib
import os
import resource
import subprocess
import sys
import threading

import pytest

from kdseg_jax.errors import UserError
from kdseg_jax.interop.part_file import being_written
from tests import runs


def left(folder):
  return sorted(path.name for path in folder.iterdir())


def test_the_part_becomes_the_file_in_the_end(tmp_path):
  path = tmp_path / 'new' / 'file'
  with being_written(str(path)) as part:
    part.start('origin')
    part.write(b'ab')
    assert part.digest() == hashlib.sha256(b'ab').hexdigest()
    part.write(b'c')
    assert part.size == 3 and part.origin() == 'origin' and not path.exists()
    part.finish()
  assert path.read_bytes() == b'abc' and left(tmp_path / 'new') == ['file']


def test_it_replaces_a_file_that_is_there(tmp_path):
  (tmp_path / 'file').write_bytes(b'old')
  with being_written(str(tmp_path / 'file')) as part:
    part.write(b'new')
    assert (tmp_path / 'file').read_bytes() == b'old'
    part.finish()
  assert (tmp_path / 'file').read_bytes() == b'new' and left(tmp_path) == ['file']


def test_a_part_that_was_interrupted_is_continued_an_empty_one_removed(tmp_path):
  for content in (b'ab', b''):
    with pytest.raises(KeyboardInterrupt):
      with being_written(str(tmp_path / 'file')) as part:
        part.start('origin')
        part.write(content)
        raise KeyboardInterrupt
    if content:
      assert left(tmp_path) == ['file.part', 'file.part.from']
      with being_written(str(tmp_path / 'file')) as part:
        assert part.size == 2 and part.origin() == 'origin'
        part.write(b'c')
        part.file.seek(0)
        assert part.file.read() == b'abc'
  assert left(tmp_path) == []


def test_a_part_of_unknown_origin_has_none(tmp_path):
  (tmp_path / 'file.part').write_bytes(b'ab')
  with being_written(str(tmp_path / 'file')) as part:
    assert part.origin() == ''


def test_one_has_it_at_a_time_and_the_next_sees_the_whole_file(tmp_path):
  path, inside, seen = str(tmp_path / 'file'), [], []

  def work(number):
    with being_written(path) as part:
      inside.append(number)
      assert len(inside) == 1
      seen.append(os.path.exists(path))
      if not seen[-1]:
        part.write(b'abc')
      inside.clear()
      if not seen[-1]:
        part.finish()  # from here on others may begin a part of their own

  threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert seen == [False] + [True] * 7 and left(tmp_path) == ['file']


def test_who_waited_for_a_part_that_was_removed_begins_a_new_one(tmp_path):
  path = str(tmp_path / 'file')

  def write():
    with being_written(path) as part:
      part.write(b'abc')
      part.finish()

  with being_written(path):
    waiting = threading.Thread(target=write)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive() and left(tmp_path) == ['file.part']
  waiting.join()
  assert (tmp_path / 'file').read_bytes() == b'abc' and left(tmp_path) == ['file']


def test_who_waited_for_a_part_that_became_the_file_goes_on_with_the_one_made_since(tmp_path):
  path, found = tmp_path / 'file', []

  def read():
    with being_written(str(path)) as part:
      part.file.seek(0)
      found.append(part.file.read())

  with being_written(str(path)) as part:
    waiting = threading.Thread(target=read)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    part.write(b'whole')
    part.finish()
    (tmp_path / 'file.part').write_bytes(b'new')
  waiting.join()
  assert found == [b'new'] and path.read_bytes() == b'whole'


def test_another_process_waits_and_a_killed_one_lets_go(tmp_path):
  code = ('import sys, time\nfrom kdseg_jax.interop.part_file import being_written\n'
          'with being_written(sys.argv[1]) as part:\n'
          '  part.write(b"ab")\n  print("has it", flush=True)\n  time.sleep(600)\n')
  path = str(tmp_path / 'file')
  holder = subprocess.Popen([sys.executable, '-c', code, path], cwd=runs.ROOT,
                            stdout=subprocess.PIPE, text=True)
  try:
    assert holder.stdout.readline() == 'has it\n'
    sizes = []

    def wait():
      with being_written(path) as part:
        sizes.append(part.size)

    waiting = threading.Thread(target=wait)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive() and not sizes
  finally:
    holder.kill()
    holder.communicate()
  waiting.join(20)
  assert sizes == [2]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
  (tmp_path / 'file').write_bytes(b'')
  with pytest.raises(UserError, match='file.* cannot be written: Not a directory.*KDSEG_CACHE'):
    with being_written(str(tmp_path / 'file' / 'weights' / 'a')):
      raise AssertionError('was given a part')


def test_a_full_disk_is_named(tmp_path):
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
  try:
    with pytest.raises(UserError, match='cannot be written: File too large.*KDSEG_CACHE'):
      with being_written(str(tmp_path / 'file')) as part:
        part.write(b'a' * 1500)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_an_error_of_the_work_inside_stays_as_it_is(tmp_path):
  with pytest.raises(UserError, match='^mine$'):
    with being_written(str(tmp_path / 'file')):
      raise UserError('mine')
