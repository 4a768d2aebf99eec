"""Errors of files of weights: said once what was wrong, and once in which file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from kdseg_jax.errors import NotFoundError, UserError

AGAIN = 'It is damaged or cut short: download or copy it again.'


class StateDictError(UserError):
  """A file holds no weights that can be read; the message says why and what to do."""


class Refusal(Exception):
  """What is wrong with a file, by those who do not know its name; `reading` adds it."""


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
  """Around the reading of a file of weights.

  Raises:
    StateDictError: it was refused, or cannot be opened or read.
    NotFoundError: there is no such file.
  """
  try:
    yield
  except Refusal as error:
    raise StateDictError(f'{os.fspath(path)}: {error}') from error
  except FileNotFoundError:
    raise NotFoundError(
        f'{os.fspath(path)}: no such file; expected weights: .pth, .safetensors or .npz.') from None
  except OSError as error:
    raise StateDictError(
        f'{os.fspath(path)}: cannot be read: {error.strerror or error}.') from error


@contextlib.contextmanager
def unpacking() -> Iterator[None]:
  """Around calls of libraries that unpack: whatever they raise, the file is not what it should be.

  Raises:
    Refusal: in place of all that they raise.
  """
  try:
    yield
  except Refusal:
    raise
  except Exception as error:
    reason = next(iter(str(error).splitlines()), '')
    raise Refusal(f'cannot be unpacked ({type(error).__name__}: {reason:.200}). {AGAIN}') from error
