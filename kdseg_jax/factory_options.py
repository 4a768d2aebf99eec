"""Options of factories: the parameters of a function as fields of a config, checked there.

A factory is a function or class that makes a part of a run. Its options are the parameters that can
be given by name and whose default can stand in a config: None, a number, text, a truth value, or a
tuple of these; or that have no default.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from kdseg_jax import names
from kdseg_jax.errors import UserError

_NO_DEFAULT = inspect.Parameter.empty
_BY_NAME = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_MAY_BE_NEGATIVE = ('ignore_label',)  # -1 is no class


def parameters_of(factory: Callable) -> dict[str, inspect.Parameter]:
  """The parameters that can be given by name."""
  return {name: parameter for name, parameter in inspect.signature(factory).parameters.items()
          if parameter.kind in _BY_NAME}


def first_of(factory: Callable) -> str | None:
  """The name of the first parameter where that is positional and has no default, else None."""
  for name, parameter in inspect.signature(factory).parameters.items():
    positional = parameter.kind in (
        inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return name if positional and parameter.default is _NO_DEFAULT else None
  return None


def is_ours(factory: Callable) -> bool:
  """Whether a factory is of this package."""
  module = getattr(getattr(factory, 'func', factory), '__module__', None) or ''
  return module.partition('.')[0] == __name__.partition('.')[0]


def options_of(factory: Callable, *, ours: Collection[str | None] = ()) -> dict[str, Any]:
  """Option -> default; None stands for a default that is missing.

  Args:
    factory: the factory.
    ours: parameters that we give, and which are no options.
  """
  found = {}
  for name, parameter in parameters_of(factory).items():
    default = None if parameter.default is _NO_DEFAULT else _as_tuple(parameter.default)
    if name not in ours and _is_plain(default):
      found[name] = default
  return found


def check(given: Mapping[str, Any], factory: Callable, *, where: str,
          ours: Collection[str | None] = ()) -> None:
  """Checks options that a config gives a factory.

  Args:
    given: option -> value.
    factory: the factory.
    where: the section of the config, for errors.
    ours: as in `options_of`.

  Raises:
    UserError: an unknown option (names the nearest), one of another type than its annotation or
      default, one that is not finite unless its default is infinite, a negative one of a factory of
      ours unless its default is negative, or one without default that is missing.
  """
  known = options_of(factory, ours=ours)
  hints, parameters = _hints(factory), parameters_of(factory)
  for name, value in given.items():
    names.require(name, known, f'field of {where}')
    if value is None and parameters[name].default is _NO_DEFAULT:
      continue  # below
    hint = hints.get(name, _NO_DEFAULT)
    if hint is _NO_DEFAULT and known[name] is not None:
      hint = type(known[name])
    if hint is not _NO_DEFAULT and not _fits(value, hint):
      raise UserError(f'{where}.{name}={value!r}: is of type {type(value).__name__}; expected '
                      f'{_described(hint)}.')
    _check_numbers(f'{where}.{name}', value, known[name], may_be_negative=(
        name in _MAY_BE_NEGATIVE or not is_ours(factory)))
  for name in known:
    if parameters[name].default is _NO_DEFAULT and given.get(name) is None:
      raise UserError(f'{where}.{name} has no value, and the factory has no default for it. Set '
                      f'{where}.{name}.')


def _check_numbers(field, value, default, *, may_be_negative):
  """Raises UserError where a number cannot be meant, which its type does not tell."""
  numbers, defaults = _numbers(value), _numbers(default)
  if any(map(_is_not_finite, numbers)) and not any(map(_is_not_finite, defaults)):
    raise UserError(f'{field}={value!r}: is not finite; expected a finite number.')
  may_be_negative = may_be_negative or any(number < 0 for number in defaults)
  if any(number < 0 for number in numbers) and not may_be_negative:
    raise UserError(f'{field}={value!r}: is negative; expected 0 or more.')


def _numbers(value):
  """The numbers of an option."""
  if isinstance(value, (tuple, list)):
    return [number for item in value for number in _numbers(item)]
  return [value] if isinstance(value, (int, float)) else []


def _is_not_finite(number):
  return isinstance(number, float) and not math.isfinite(number)


def _is_plain(value):
  if isinstance(value, tuple):
    return all(map(_is_plain, value))
  return value is None or isinstance(value, (bool, int, float, str))


def _as_tuple(value):
  return tuple(map(_as_tuple, value)) if isinstance(value, (tuple, list)) else value


def _hints(factory):
  """The annotations, as types; none where one of them cannot be resolved."""
  function = getattr(factory, 'func', factory)  # of functools.partial
  try:
    return typing.get_type_hints(function)
  except Exception:  # an annotation may be any expression
    return {}


def _fits(value, hint):
  """Whether a value of a config is of an annotated type; what is not understood fits."""
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, types.UnionType):
    return any(_fits(value, argument) for argument in arguments)
  if origin is typing.Literal:
    return value in arguments
  if hint is None or hint is type(None):
    return value is None
  if hint is bool:
    return isinstance(value, bool)
  if hint is int:
    return isinstance(value, int) and not isinstance(value, bool)
  if hint is float:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
  if hint is str:
    return isinstance(value, str)
  kind = origin or hint
  if isinstance(kind, type) and kind is not object and issubclass(kind, Sequence):
    if not isinstance(value, (tuple, list)):
      return False
    of_each = [argument for argument in arguments if argument is not Ellipsis]
    return len(of_each) != 1 or all(_fits(item, of_each[0]) for item in value)
  return True


def _described(hint):
  return hint.__name__ if isinstance(hint, type) else str(hint).replace('typing.', '')
