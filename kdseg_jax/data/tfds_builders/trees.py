"""Reads archives as they were downloaded, or the folders that they extract to, in one way."""

from __future__ import annotations

import gzip
import pathlib
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from kdseg_jax.data import files
from kdseg_jax.errors import NotFoundError, UserError

_COMPRESSED_TAR = ('.tar.gz', '.tgz')
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError)


class Member(NamedTuple):
  """A file of a tree; its text form is its place, for errors."""

  place: str
  read: Callable[[], bytes]

  def __str__(self) -> str:
    return self.place


class Stored(NamedTuple):
  """A file in a tar that is not compressed, as of millions: nothing is held but where it lies.

  Attributes:
    archive: the tar.
    name: of the file in it; of one in a tar of tars, of both.
    offset: of its first byte in the archive.
    size: in bytes.
  """

  archive: str
  name: str
  offset: int
  size: int

  def read(self) -> bytes:
    """The content of the file.

    Raises:
      UserError: the archive ends before.
    """
    with open(self.archive, 'rb') as file:
      file.seek(self.offset)
      content = file.read(self.size)
    if len(content) != self.size:
      raise UserError(f'{self}: is cut short: the archive ends before. Download it again.')
    return content

  def __str__(self) -> str:
    return f'{self.archive}/{self.name}'


def stored_in(path: pathlib.Path, *, within: Stored | None = None) -> Iterator[Stored]:
  """The files of a tar that is not compressed, in its order; hidden ones are left out.

  Args:
    path: the tar.
    within: a tar in it, whose files are meant.

  Raises:
    UserError: the tar is damaged or cut short.
  """
  try:
    with open(path, 'rb') as file:
      start = 0 if within is None else within.offset
      file.seek(start)
      prefix = '' if within is None else f'{within.name}/'
      with tarfile.open(fileobj=file, mode='r:') as tar:
        for info in tar:
          name = posixpath.normpath(info.name)
          if info.isfile() and not posixpath.basename(name).startswith('.'):
            yield Stored(str(path), prefix + name, info.offset_data, info.size)
  except _DAMAGE as error:
    where = path if within is None else within
    raise UserError(f'{where}: cannot be read: it is damaged or cut short ({error}). Download '
                    f'{path.name} again.') from error


class Tree:
  """The files of an archive or folder by their path below its top folder.

  Args:
    place: the archive or folder, for errors.
    members: the files.
  """

  def __init__(self, place: pathlib.Path, members: Mapping[str, Member]):
    self.place, self._members = place, members

  def __getitem__(self, path: str) -> Member:
    """The file of a path.

    Raises:
      FileNotFoundError: there is none.
    """
    if path not in self._members:
      raise NotFoundError(f'{self.place}: lacks {path}. Download it again.')
    return self._members[path]

  def __contains__(self, path: str) -> bool:
    return path in self._members

  def lines(self, path: str) -> list[str]:
    """The lines of a text file."""
    return self[path].read().decode().split('\n')

  def find(self, folder: str, *suffixes: str) -> dict[str, Member]:
    """The files below a folder whose names end with one of `suffixes`, by their names without it.

    Raises:
      ValueError: two files have the same name without suffix.
    """
    found = {}
    for path, member in self._members.items():
      name = posixpath.basename(path)
      ending = next((ending for ending in suffixes if name.lower().endswith(ending.lower())), None)
      if path.startswith(f'{folder}/') and ending and not name.startswith('.'):
        key = name[:-len(ending)]
        if key in found:
          raise UserError(f'{member} and {found[key]}: same name twice; keep one of them.')
        found[key] = member
    return found


def open_tree(manual_dir: pathlib.Path, archive: str, folder: str, *,
              unneeded: tuple[str, ...] = ()) -> Tree:
  """The archive as downloaded, or else the folder that it extracts to.

  A compressed tar can only be read from its start, so its files are read into memory at once.

  Args:
    manual_dir: where it lies.
    archive: name of the zip, tar or tar.gz.
    folder: the folder in the archive below which the files of interest are.
    unneeded: its subfolders of which no file is needed, to save memory.

  Raises:
    FileNotFoundError: neither is there.
    ValueError: the archive is damaged or cut short.
  """
  path = manual_dir / archive
  if path.exists():
    try:
      return _zip(path, folder) if archive.endswith('.zip') else _tar(path, folder, unneeded)
    except _DAMAGE as error:
      raise UserError(f'{path}: cannot be read: it is damaged or cut short ({error}). '
                      'Download it again.') from error
  if has(manual_dir, archive, folder):
    return folder_tree(manual_dir / folder)
  raise NotFoundError(f'{manual_dir}: holds neither {archive} nor its extracted folder '
                      f'{folder}/. Download the archive into it.')


def has(manual_dir: pathlib.Path, archive: str, folder: str) -> bool:
  """True if `open_tree` finds something."""
  return (manual_dir / archive).exists() or (manual_dir / folder).is_dir()


def folder_tree(folder: pathlib.Path) -> Tree:
  """The files of a folder and its subfolders."""
  return Tree(folder, {
      path.relative_to(folder).as_posix(): Member(str(path), path.read_bytes)
      for place in files.folders_in(folder)
      for path in sorted(place.iterdir()) if path.is_file()})


def _zip(path, folder):
  archive = zipfile.ZipFile(path)
  return _tree(path, folder, {name: lambda name=name: archive.read(name)
                              for name in archive.namelist() if not name.endswith('/')})


def _tar(path, folder, unneeded):
  archive = tarfile.open(path)
  reads = {}
  for info in archive:
    skipped = any(_is_below(info.name, f'{folder}/{part}') for part in unneeded)
    if info.isfile() and _is_below(info.name, folder) and not skipped:
      read = lambda info=info: archive.extractfile(info).read()
      reads[info.name] = _keep(read()) if path.name.endswith(_COMPRESSED_TAR) else read
  return _tree(path, folder, reads)


def _keep(content):
  return lambda: content


def _tree(path, folder, reads):
  def guarded(name):
    try:
      return reads[name]()
    except _DAMAGE as error:
      raise UserError(f'{path}: {name} is damaged or cut short ({error}). '
                      'Download the archive again.') from error
  return Tree(path, {
      posixpath.normpath(name)[len(folder) + 1:]:
          Member(f'{path}/{name}', lambda name=name: guarded(name))
      for name in reads if _is_below(name, folder)})


def _is_below(name, folder):
  return posixpath.normpath(name).startswith(f'{folder}/')
