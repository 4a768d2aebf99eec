"""Checks of names that people type."""

from __future__ import annotations

from collections.abc import Iterable
import difflib


def require(name: str, known: Iterable[str], what: str) -> None:
  """Raises ValueError naming the nearest known names if `name` is not one of `known`."""
  known = list(known)
  if name in known:
    return
  near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
  hint = f' Did you mean {" or ".join(map(repr, near))}?' if near else ''
  raise ValueError(f'Unknown {what}: {name!r}.{hint} Known: {", ".join(known)}.')
