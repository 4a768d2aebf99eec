"""The platform that a program is traced for; where the fastest form differs the form follows it."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import jax

# None is that of the default backend.
_platform: contextvars.ContextVar[str | None] = contextvars.ContextVar('platform', default=None)


@contextlib.contextmanager
def lowered_for(platform: str) -> Iterator[None]:
  """Within it programs are traced for a platform ('cpu', 'cuda', 'tpu', ...) other than ours.

  For what is exported. What was traced before, as a compiled function, stays as it is.
  """
  token = _platform.set(platform)
  try:
    yield
  finally:
    _platform.reset(token)


def current() -> str:
  """The platform that is traced for."""
  return _platform.get() or jax.default_backend()
