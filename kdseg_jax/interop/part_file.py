"""A file on its way: `<path>.part`, which one process at a time fills, and which becomes `<path>`.

Cut by whatever, it stays, and the next try goes on with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator

from absl import logging

from kdseg_jax.errors import UserError


class PartFile:
  """What has come of a file so far (`being_written` makes one).

  Attributes:
    path: name of the whole file.
    file: the open part, for reading and writing.
  """

  def __init__(self, path: str, file):
    self.path, self.file = path, file
    self._note = file.name + '.from'

  @property
  def size(self) -> int:
    """Bytes that have come."""
    return os.fstat(self.file.fileno()).st_size

  def digest(self) -> str:
    """The sha256 of what has come, 64 digits."""
    # Through the file that holds the lock: on network disks, closing another would release it.
    self.file.seek(0)
    return hashlib.file_digest(self.file, 'sha256').hexdigest()

  def origin(self) -> str:
    """What `start` noted when the part was begun; '' if nothing has come, or nobody knows."""
    try:
      with open(self._note) as note:
        return note.read() if self.size else ''
    except FileNotFoundError:
      return ''

  def start(self, origin: str) -> None:
    """Empties the part and notes where it will come from, for the process that goes on with it."""
    self.file.seek(0)
    self.file.truncate()
    with open(self._note, 'w') as note:
      note.write(origin)

  def write(self, piece: bytes) -> None:
    """Writes at the end."""
    view = memoryview(piece)
    while view:  # a disk that is nearly full takes some of it before it refuses
      view = view[self.file.write(view):]

  def finish(self) -> None:
    """Makes the part the whole file, in one step."""
    os.fsync(self.file.fileno())
    os.replace(self.file.name, self.path)
    self._remove(self._note)

  def remove_if_empty(self) -> None:
    """Leaves nothing behind where nothing has come."""
    if not self.size:
      self._remove(self.file.name)
      self._remove(self._note)

  @staticmethod
  def _remove(path):
    with contextlib.suppress(FileNotFoundError):
      os.remove(path)


@contextlib.contextmanager
def being_written(path: str) -> Iterator[PartFile]:
  """Gives the part of a file to the caller alone; other processes and threads wait for it.

  Whoever waited looks first whether the whole file is there. A part that is not finished stays for
  the next try, unless it is empty.

  Raises:
    UserError: it cannot be written or locked there, or the disk is full.
  """
  try:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with _locked(path + '.part') as file:
      part = PartFile(path, file)
      try:
        yield part
      finally:
        part.remove_if_empty()
  except UserError:
    raise
  except OSError as error:
    raise UserError(
        f'{error.filename or path}: cannot be written: {error.strerror or error}. Make room or '
        'allow it there, or set KDSEG_CACHE to another folder.') from error


@contextlib.contextmanager
def _locked(name):
  while True:
    # Unbuffered: what was written is in the file, whatever ends the process.
    with open(name, 'a+b', buffering=0) as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        logging.info('%s: waiting for the process that is downloading it.', name)
        fcntl.flock(file, fcntl.LOCK_EX)
      if _is_named(file, name):
        yield file
        return


def _is_named(file, name):
  """False if another process has renamed or removed the file while this one waited for it."""
  try:
    return os.path.samestat(os.fstat(file.fileno()), os.stat(name))
  except FileNotFoundError:
    return False
