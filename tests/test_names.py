"""Lists of class names are compared in order, and shown where they differ."""

import pytest

from kdseg_jax import names
from kdseg_jax.errors import UserError


def compare(found, expected, allow=False):
  names.require_same_classes(found, expected, found_in='the teacher', expected_in='the data',
                             allow=allow)


def message(found, expected, allow=False):
  with pytest.raises(UserError) as error:
    compare(found, expected, allow)
  return str(error.value)


def test_equal_lists_pass_whatever_form_their_unicode_has():
  compare(['sky', 'facad\xe9'], ('sky', 'facade\u0301'))


def test_other_names_are_shown_and_can_be_allowed():
  text = message(['sky', 'road'], ['sky', 'street'])
  assert 'the teacher: 0 sky, 1 road\n' in text and 'the data: 0 sky, 1 street\n' in text
  assert 'other names' in text and '--allow_class_names' in text
  compare(['sky', 'road'], ['sky', 'street'], allow=True)


def test_another_order_is_another_list():
  assert 'the same names in another order' in message(['a', 'b', 'c'], ['a', 'c', 'b'])


@pytest.mark.parametrize('allow', [False, True])
def test_another_number_is_never_allowed(allow):
  text = message(['a', 'b', 'c'], ['a', 'b', 'c', 'd'], allow)
  assert '3 and 4 classes' in text and '--allow' not in text and '3 d' in text


def test_long_lists_are_shortened_to_where_they_differ():
  found = [f'name {i}' for i in range(150)]
  expected = found.copy()
  expected[140] = 'other'
  text = message(found, expected)
  assert '140 name 140 and 149 more' in text and '140 other and 149 more' in text
  assert len(text) < 400
