"""Paths that people type: `~`, addresses that are no folders, places that cannot be written."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator

from ml_collections import ConfigDict

from kdseg_jax.errors import UserError

# The fields of a config that are paths; at any depth, as a study's teacher has them too.
CONFIG_FIELDS = ('data.root', 'data.unlabelled', 'teacher.checkpoint', 'student.init',
                 'prepare.folder')
# Beginnings of names of published weights, which stand in place of a path.
WEIGHTS = ('imagenet:', 'hf:')
_ADDRESS = re.compile(r'[A-Za-z][A-Za-z0-9+.-]*:/')
# What the machine refuses, whatever the program is: never a bug of it.
_OF_THE_MACHINE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EISDIR,
    errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.EMFILE, errno.EFBIG)


def local(path: str | os.PathLike) -> str:
  """A path with `~` and `~<user>` expanded.

  Raises:
    UserError: an address such as gs://bucket/folder, or a user who does not exist.
  """
  path = os.fspath(path)
  if _ADDRESS.match(path):
    raise UserError(
        f'{path}: is an address, and only folders of this machine are read and written. Mount the '
        'bucket (gcsfuse, s3fs, mount-s3) and give its folder, or copy it.')
  expanded = os.path.expanduser(path)
  if expanded.startswith('~'):
    raise UserError(f'{path}: there is no such user. A folder of that name is ./{path}.')
  return expanded


def localize(config: ConfigDict) -> None:
  """Applies `local` to every field of a config that is a path; in place.

  Raises:
    UserError: as `local`, with the name of the field.
  """
  for section, name, field in _fields(config):
    if field.endswith(CONFIG_FIELDS) and section[name] and not section[name].startswith(WEIGHTS):
      try:
        section[name] = local(section[name])
      except UserError as error:
        raise UserError(f'config.{field}: {error}') from None


def check_folder(path: str, option: str) -> None:
  """Checks that a folder can be written, or made, without making it.

  Raises:
    UserError: it, or the nearest parent that exists, is no folder or may not be written.
  """
  nearest = os.path.abspath(path)
  while not os.path.lexists(nearest):
    nearest = os.path.dirname(nearest)
  if not os.path.isdir(nearest):
    raise UserError(f'--{option}={path}: {nearest} is no folder.')
  if not os.access(nearest, os.W_OK | os.X_OK):
    raise UserError(f'--{option}={path}: {nearest} may not be written.')


def make_for(path: str, option: str) -> None:
  """Makes the folder of a file that is to be written, before the work whose result it receives.

  Raises:
    UserError: it cannot be written there.
  """
  check_folder(os.path.dirname(path) or '.', option)
  if os.path.isdir(path):
    raise UserError(f'--{option}={path}: is a folder; expected the name of a file.')
  if os.path.exists(path) and not os.access(path, os.W_OK):
    raise UserError(f'--{option}={path}: may not be written.')
  os.makedirs(os.path.dirname(path) or '.', exist_ok=True)


def describe(error: OSError) -> str | None:
  """What the machine refused, for people; None for an error that the program may be to blame for.

  No permission, a full disk, a folder in the place of a file and the like.
  """
  if error.errno not in _OF_THE_MACHINE:
    return None
  what = '' if error.filename is None else f'{os.fsdecode(error.filename)}: '
  return f'{what}{error.strerror or os.strerror(error.errno)}.'


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
  """Around the reading of a file of which only its name is the user's: what fails is its content.

  Raises:
    UserError: it could not be read, or is no text or JSON.
  """
  try:
    yield
  except OSError as error:
    raise UserError(f'{path}: cannot be read: {error.strerror or error}.') from error
  except ValueError as error:  # of JSON and of the encoding of text
    raise UserError(f'{path}: is no JSON ({error}); it is damaged or was edited.') from error


def _fields(section, prefix=''):
  """The section, the name in it and the whole path of every field that holds a string."""
  for name, value in section.items():
    if isinstance(value, ConfigDict):
      yield from _fields(value, f'{prefix}{name}.')
    elif isinstance(value, str):
      yield section, name, prefix + name
