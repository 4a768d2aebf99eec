"""What is declared of a method beside its factory: weights of the papers, and traits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

_TRAITS = 'distiller_traits'
_Factory = TypeVar('_Factory', bound=Callable)


class Term(NamedTuple):
  """One loss, as method strings and `config.distill` name it; alone it is a method.

  Attributes:
    factory: of the distiller; its options are fields of `config.distill.<term>`.
    weight: of the paper or script.
    options: in which it differs from the factory's defaults.
  """

  factory: Callable
  weight: float
  options: Mapping[str, Any] = {}


class Traits(NamedTuple):
  """What recipes and programs know of a factory.

  Attributes:
    maps_only: whether it compares pixels with pixels, so that of vectors `(N, C)` it could teach
      nothing, or is not defined.
    small: option -> value that makes it small, for `runlocal`.
    without_auxiliary_head: option -> value for a student that has none.
    of_detectors: option -> value for dense detectors, which have a pyramid.
  """

  maps_only: bool = False
  small: Mapping[str, Any] = {}
  without_auxiliary_head: Mapping[str, Any] = {}
  of_detectors: Mapping[str, Any] = {}


def declare(
    *, maps_only: bool = False, small: Mapping[str, Any] | None = None,
    without_auxiliary_head: Mapping[str, Any] | None = None,
    of_detectors: Mapping[str, Any] | None = None
) -> Callable[[_Factory], _Factory]:
  """Declares the traits of the factory below it, see `Traits`; one without has the defaults."""
  traits = Traits(maps_only, small or {}, without_auxiliary_head or {}, of_detectors or {})

  def decorate(factory: _Factory) -> _Factory:
    setattr(factory, _TRAITS, traits)
    return factory

  return decorate


def traits_of(factory: Callable) -> Traits:
  """The traits that were declared of a factory."""
  return getattr(factory, _TRAITS, Traits())
