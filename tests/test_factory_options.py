"""Options of factories: which parameters are options, and the values they may have."""

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import pytest

from kdseg_jax import factory_options
from kdseg_jax.errors import UserError


def factory(
    first, /, second, *others, rate: float = 1.0, number: int = 0, switch: bool = False,
    name: str | None = None, form: Literal['a', 'b'] = 'a', sizes: tuple[int, ...] = (),
    taps: Sequence[str] = ['x', ['y']], untyped=2, lowest: float = -1.0,
    highest: float = math.inf, anything: Any = None, makes=dict, **rest):
  """Has parameters of every kind."""


@pytest.fixture
def ours(monkeypatch):
  """As if the factory were one of the package, whose numbers are not negative."""
  monkeypatch.setattr(factory, '__module__', 'kdseg_jax.x')


def test_options_are_what_can_be_given_by_name_and_stand_in_a_config():
  expected = {
      'second': None, 'rate': 1.0, 'number': 0, 'switch': False, 'name': None, 'form': 'a',
      'sizes': (), 'taps': ('x', ('y',)), 'untyped': 2, 'lowest': -1.0, 'highest': math.inf,
      'anything': None}
  assert factory_options.options_of(factory) == expected
  for left_out in ('second', 'rate'):
    own = factory_options.options_of(factory, ours=(left_out, None))
    assert list(own) == [name for name in expected if name != left_out]


def test_a_first_parameter_is_positional_and_has_no_default():
  assert factory_options.first_of(factory) == 'first'
  assert factory_options.first_of(lambda inner, x=1: None) == 'inner'
  for without in (lambda x=1: None, lambda *, x: None, lambda *x: None, lambda: None):
    assert factory_options.first_of(without) is None


def test_factories_of_ours_are_told_by_their_module(ours):
  assert factory_options.is_ours(factory)
  assert factory_options.is_ours(functools.partial(factory, 1))
  elsewhere = lambda: None
  for module in ('kdseg_jax2', 'mine.kdseg_jax', None):
    elsewhere.__module__ = module
    assert not factory_options.is_ours(elsewhere)


def checked(bound=factory, **given):
  factory_options.check({'second': 1} | given, bound, where='here')


@pytest.mark.parametrize('option, right, wrong', [
    ('rate', [0.0, 2, 0.5], ['x', True, None, (1.0,)]),
    ('number', [0, 3], [0.5, True, '3', None]),
    ('switch', [True, False], [0, 'true', None]),
    ('name', [None, '', 'x'], [3, ('x',)]),
    ('form', ['a', 'b'], ['c', None]),
    ('sizes', [(), (1,), [1, 2, 3]], [1, (0.5,), ('x',), (True,), None]),
    ('taps', [(), ('a',), ['a', 'b']], ['a', (1,), None]),
    ('untyped', [0, 5], [0.5, 'x', True]),
    ('anything', [None, 1, 'x', (1,)], [])])
def test_a_value_has_the_type_of_its_annotation_or_default(option, right, wrong):
  for bound in (factory, functools.partial(factory, 1)):
    for value in right:
      checked(bound, **{option: value})
    for value in wrong:
      with pytest.raises(UserError, match=f'^here.{option}=.*: is of type .*; expected '):
        checked(bound, **{option: value})


@pytest.mark.parametrize('option, negative', [
    ('rate', -0.5), ('number', -1), ('sizes', (3, -1)), ('untyped', -1), ('highest', -1.0)])
def test_a_factory_of_ours_takes_what_is_negative_only_where_its_default_is(
    option, negative, ours):
  with pytest.raises(UserError, match=f'^here.{option}=.*: is negative; expected 0 or more.$'):
    checked(**{option: negative})
  checked(lowest=-5.0, **{option: () if option == 'sizes' else 0 * negative})


def test_so_does_one_from_elsewhere_anywhere():
  checked(rate=-0.5, number=-1, sizes=(3, -1), untyped=-1)


@pytest.mark.parametrize('value', [math.inf, -math.inf, math.nan])
def test_a_number_is_finite_unless_its_default_is_not(value):
  for option in ('rate', 'lowest'):
    with pytest.raises(UserError, match=f'^here.{option}=.*: is not finite; expected a finite'):
      checked(**{option: value})
  checked(highest=value)


def test_an_option_without_default_is_asked_for_and_an_unknown_one_is_named():
  for given in ({}, {'second': None}):
    with pytest.raises(UserError, match='^here.second has no value'):
      factory_options.check(given, factory, where='here')
  factory_options.check({}, factory, where='here', ours=('second',))
  for unknown in ('rat', 'makes', 'first', 'others', 'rest'):
    with pytest.raises(UserError, match=f"Unknown field of here: '{unknown}'"):
      checked(**{unknown: 1})
