"""What pixels a run may begin with, and how many classes are named where some are missing."""

import logging

import numpy as np
import pytest

from kdseg_jax.errors import UserError
from kdseg_jax.tasks.box_check import BoxCheck
from kdseg_jax.tasks.class_check import ClassCheck
from kdseg_jax.tasks.pixel_check import PixelCheck

CHECK = PixelCheck(('wall', 'crack', 'moss'))


def total_of(*labels):
  return CHECK.tally({'label': np.uint8([labels])})


def trained(total, **options):
  CHECK.check_training(total, 'train', **{'read': 2, 'length': 2, 'evaluated': None,
                                          'has_teacher': False} | options)


def test_pixels_of_each_value_are_counted():
  total = total_of(0, 2, 2, 255, 7)
  assert total.shape == (256,) and total.sum() == 5
  assert total[[0, 1, 2, 7, 255]].tolist() == [1, 0, 2, 1, 1]
  assert not CHECK.is_complete(total) and CHECK.is_complete(total_of(0, 1, 2))


@pytest.mark.parametrize('labels, message', [
    ((0, 0, 255), 'all labelled pixels are of one class, wall'),
    ((255,), 'no pixel of its labels is of a class')])
def test_where_not_all_were_read_the_evaluation_has_to_say_the_same(labels, message, caplog):
  total = total_of(*labels)
  with caplog.at_level(logging.WARNING):
    trained(total, length=9)
    trained(total, length=9, evaluated=total_of(0, 1, 255))
  assert caplog.text.count('train has, in 2 of its 9 labels, no pixel of') == 2
  with pytest.raises(UserError, match=f'train: {message}'):
    trained(total, length=9, evaluated=total_of(*labels))
  trained(total, length=9, evaluated=total_of(*labels), has_teacher=True)
  assert message in caplog.text


def test_ignored_pixels_are_no_class(caplog):
  CHECK.check_evaluation(total_of(0, 1, 2, 255), 'val')
  trained(total_of(0, 1, 2, 255))
  assert not caplog.records
  with pytest.raises(UserError, match='val: no pixel of its labels is of a class'):
    CHECK.check_evaluation(total_of(255, 255), 'val')


@pytest.mark.parametrize('kind, more', [
    (PixelCheck, 245), (ClassCheck, 1), (lambda classes: BoxCheck(classes, 9), 3)],
    ids=['pixels', 'classes', 'boxes'])
@pytest.mark.parametrize('missing', [10, 11, 13])
def test_of_many_missing_classes_ten_are_named(kind, more, missing, caplog):
  total = np.zeros(14 + more - 1, np.int64)
  total[:14 - missing] = 1
  with caplog.at_level(logging.WARNING):
    kind(f'c{i}' for i in range(14)).check_evaluation(total, 'val')
  named = ', '.join(f'c{i}' for i in range(14 - missing, 24 - missing))
  rest = f' and {missing - 10} more' if missing > 10 else ''
  assert f' of {named}{rest}: metrics' in caplog.text
