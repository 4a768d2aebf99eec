"""Checks of names that people type."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from kdseg_jax.errors import UserError


def hint(name: str, known: Iterable[str]) -> str:
  """' Did you mean ...?' with the nearest known names; '' if none is near."""
  near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
  return f' Did you mean {" or ".join(map(repr, near))}?' if near else ''


def require(name: str, known: Iterable[str], what: str) -> None:
  """Raises ValueError naming the nearest known names if `name` is not one of `known`."""
  known = list(known)
  if name not in known:
    raise UserError(
        f'Unknown {what}: {name!r}.{hint(name, known)} Known: {", ".join(known) or "none"}.')
