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


def test_up_to_eight_names_are_shown_whole_and_of_longer_lists_the_first_where_none_differs():
  eight = list('abcdefgh')
  text = message(eight, [*eight[:7], 'other'])
  assert '0 a, 1 b' in text and '7 h\n' in text and 'more' not in text
  longer = [*eight, 'i']
  text = message(longer, [*longer, 'j'])
  assert 'the teacher: 0 a, ' in text and '7 h and 1 more\n' in text
  assert 'the data: 9 j and 9 more\n' in text


@pytest.mark.parametrize('name, hint', [
    ('camvit', " Did you mean 'camvid'?"), ('cam', " Did you mean 'camvid'?"), ('xyz', ''),
    ('voc1', " Did you mean 'voc' or 'voc2012'?")])
def test_names_that_are_near_are_hinted_at(name, hint):
  known = ('voc2012', 'camvid', 'voc')
  assert names.hint(name, iter(known)) == hint
  with pytest.raises(ValueError) as error:
    names.require(name, iter(known), 'data set')
  assert str(error.value) == f'Unknown data set: {name!r}.{hint} Known: voc2012, camvid, voc.'


def test_a_name_of_nothing_and_one_that_is_known():
  names.require('voc', ('voc',), 'data set')
  with pytest.raises(UserError, match="^Unknown data set: 'voc'. Known: none.$"):
    names.require('voc', (), 'data set')
