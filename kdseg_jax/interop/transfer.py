"""What an http address sends, into a file: resumed where it was cut, refused where it leads astray.

Names: a *validator* is the server's mark of one version of a file (ETag or Last-Modified, RFC 9110
section 8.8), by which a part is only continued with bytes of the same version.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request

import tqdm

from kdseg_jax import __version__
from kdseg_jax.errors import UserError
from kdseg_jax.interop.part_file import PartFile

TIMEOUT = 10.0  # seconds to connect, and without a byte
TRIES = 4  # of which all but the first go on where the one before was cut
WAIT = 1.0  # seconds before the second try; longer by as much before each further one
_PIECE = 1 << 16
_SCHEMES = ('http', 'https')
_NETWORK_ERRORS = (OSError, http.client.HTTPException)


class TransferError(UserError):
  """One place did not give the file; says why, without the name of the place."""


class _CutError(Exception):
  """The connection ended before the file did."""


class _NoAnswerError(_CutError):
  """It ended before anything came."""


def check_address(url: str) -> None:
  """Raises UserError if the address is not one of http or https."""
  try:
    parts = urllib.parse.urlsplit(url)
  except ValueError as error:
    raise UserError(f'{url}: is no address: {error}.') from error
  if parts.scheme not in _SCHEMES or not parts.hostname:
    raise UserError(f'{url}: is no address that is downloaded from; expected '
                    'http://<host>/<file> or https://<host>/<file>.')


def receive(url: str, part: PartFile, *, checked: bool) -> bool:
  """Fills the part with what the address sends, with a progress bar.

  A part of the same address and version that is there already is continued. A server that does not
  continue sends the whole file again. Proxies are those of the environment (`https_proxy`).

  Args:
    url: http or https address.
    part: where to write it.
    checked: the caller compares the content's sum, so that a part may also be continued where the
      server does not say of which version it was.

  Returns:
    True if what was there already is part of the content.

  Raises:
    TransferError: unreachable, refused, not found, cut too often; what came stays in the part.
  """
  for tries in range(1, TRIES + 1):
    try:
      return _receive_once(url, part, checked)
    except _CutError as error:
      if tries == 1 and isinstance(error, _NoAnswerError):
        raise TransferError(str(error)) from error
      reason = str(error)
    if tries < TRIES:
      time.sleep(WAIT * tries)
  raise TransferError(f'{reason}; tried {TRIES} times. Run it again to go on from there')


def _receive_once(url, part, checked):
  """One request; returns True if it continued the part."""
  key = hashlib.sha256(url.encode()).hexdigest()  # addresses can hold secrets
  of, _, validator = part.origin().partition('\n')
  offset = part.size if of == key and (validator or checked) else 0
  with _open(url, offset, validator) as response:
    continued = offset > 0 and response.status == 206
    if not continued:
      offset = 0
      part.start(f'{key}\n{_validator(response.headers)}')
    _copy(response, part, offset)
  return continued


def _open(url, offset, validator):
  """The answer to a request of a file from a byte on, which may come from the first byte too."""
  headers = {'User-Agent': f'kdseg_jax/{__version__}', 'Accept-Encoding': 'identity'}
  if offset:
    headers['Range'] = f'bytes={offset}-'
    if validator:
      headers['If-Range'] = validator
  try:
    response = _opener().open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
  except TransferError:
    raise
  except urllib.error.HTTPError as error:
    with error:
      if error.code == 416 and offset:  # the part is no beginning of the file, or all of it
        return _open(url, 0, '')
      raise TransferError(_status(error)) from error
  except (*_NETWORK_ERRORS, ValueError) as error:  # ValueError: an address that cannot be asked for
    raise _NoAnswerError(_describe(error)) from error
  first = re.match(r'bytes (\d+)-', response.headers.get('Content-Range', ''))
  if response.status == 206 and (not first or int(first[1]) != offset):
    response.close()  # of another place than was asked for
    if not offset:
      raise TransferError('the server sent a piece of the file; the whole was asked for')
    return _open(url, 0, '')
  if response.headers.get_content_type() == 'text/html':
    response.close()
    raise TransferError('the server sent a web page; expected the address of the file itself')
  return response


def _copy(response, part, offset):
  """Appends the answer to the part.

  Raises:
    _CutError: it ended too early.
  """
  total = None if response.length is None else offset + response.length
  with tqdm.tqdm(desc=os.path.basename(part.path), initial=offset, total=total, unit='B',
                 unit_scale=True, disable=None, leave=False) as bar:
    while True:
      try:
        piece = response.read1(_PIECE)
      except _NETWORK_ERRORS as error:
        raise _CutError(f'cut at byte {part.size}: {_describe(error)}') from error
      if not piece:
        break
      part.write(piece)
      bar.update(len(piece))
  if response.length:
    raise _CutError(f'cut at byte {part.size} of {total}')


def _validator(headers):
  """What the server calls this version of the file; '' if it has no strong name for it."""
  tag = headers.get('ETag', '')
  return tag if tag and not tag.startswith('W/') else headers.get('Last-Modified', '')


def _describe(error):
  """What went wrong with a connection, for people."""
  if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
    error = error.reason
  if isinstance(error, TimeoutError):
    return f'no answer for {TIMEOUT:g} s'
  if isinstance(error, socket.gaierror):
    return f'its host cannot be found ({error.strerror})'
  if isinstance(error, ssl.SSLCertVerificationError):
    return f'its certificate was not accepted ({error.verify_message})'
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  return str(error) or type(error).__name__


def _status(error):
  if error.msg.startswith(_RedirectHandler.inf_msg):
    return 'redirected too often'
  return f'the server answered {error.code} {error.reason}'.rstrip()


class _RedirectHandler(urllib.request.HTTPRedirectHandler):
  """Follows redirects to http and https alone, and never from https to http."""

  def http_error_302(self, request, response, code, message, headers):
    target = urllib.parse.urljoin(request.full_url, headers.get('Location', ''))
    scheme = urllib.parse.urlsplit(target).scheme
    if scheme not in _SCHEMES:
      response.close()
      raise TransferError(f'it redirects to {target}, which is no http address: not followed')
    if request.type == 'https' and scheme == 'http':
      response.close()
      raise TransferError(f'it redirects to {target}, which is not encrypted: not followed')
    return super().http_error_302(request, response, code, message, headers)

  http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _opener():
  """As urllib's own, without file:, ftp: and data:; proxies are those of the environment now."""
  opener = urllib.request.OpenerDirector()
  for handler in (urllib.request.ProxyHandler, urllib.request.UnknownHandler,
                  urllib.request.HTTPHandler, urllib.request.HTTPSHandler,
                  urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPErrorProcessor,
                  _RedirectHandler):
    opener.add_handler(handler())
  return opener
