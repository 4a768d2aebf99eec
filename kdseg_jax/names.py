"""Checks of names that people type, and of lists of class names."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence

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


def composed(text: str) -> str:
  """Unicode in its composed form (NFC): macOS and some archives write names decomposed."""
  return unicodedata.normalize('NFC', text)


def require_same_classes(found: Sequence[str], expected: Sequence[str], *, found_in: str,
                         expected_in: str, allow: bool = False) -> None:
  """Raises UserError, showing both, unless two lists of class names are the same in order too.

  Args:
    found: one list.
    expected: the other.
    found_in: whose the first are, for the error.
    expected_in: whose the second are.
    allow: lists of the same length may differ in names: `--allow_class_names`.
  """
  found, expected = ([composed(name) for name in classes] for classes in (found, expected))
  if found == expected or allow and len(found) == len(expected):
    return
  if len(found) != len(expected):
    what = f'{len(found)} and {len(expected)} classes'
    advice = 'Their numbers must be equal.'
  else:
    what = ('the same names in another order' if sorted(found) == sorted(expected) else
            'other names')
    advice = ('If they mean the same all the same, give --allow_class_names (from Python: '
              'allow_class_names=True).')
  raise UserError(
      f'{found_in} and {expected_in} have different classes, {what}:\n'
      f'  {found_in}: {_listing(found, expected)}\n'
      f'  {expected_in}: {_listing(expected, found)}\n{advice}')


def _listing(classes, others, most=8):
  """Numbered names; of a long list those that differ from the other's, at most 8."""
  shown = list(enumerate(classes))
  if len(classes) > most:
    differing = [item for item in shown
                 if item[0] >= len(others) or item[1] != others[item[0]]]
    shown = (differing or shown)[:most]
  left = len(classes) - len(shown)
  return ', '.join(f'{i} {name}' for i, name in shown) + (f' and {left} more' if left else '')
