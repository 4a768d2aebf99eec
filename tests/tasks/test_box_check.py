"""What boxes a run may begin with."""

import logging

import numpy as np
import pytest

from kdseg_jax.errors import UserError
from kdseg_jax.tasks.box_check import BoxCheck

CLASSES = ('cat', 'dog', 'cow')


def total_of(*examples, max_boxes=3):
  check = BoxCheck(CLASSES, max_boxes)
  return check, sum(check.tally({
      'image_id': 'a', 'classes': np.array(classes, np.int32),
      'crowd': np.isin(np.arange(len(classes)), crowd)}) for classes, crowd in examples)


def trained(check, total, **options):
  check.check_training(total, 'train', **{'read': 2, 'length': 2, 'evaluated': None,
                                          'has_teacher': False} | options)


def test_boxes_that_count_are_counted_with_those_that_are_too_many():
  check, total = total_of(([0, 1, 1, -1], [1]), ([1] * 5, []), ([], []))
  assert total.tolist() == [1, 6, 0, 2, 1] and not check.is_complete(total)
  assert check.is_complete(total_of(([0, 1, 2], []))[1])
  assert not check.is_complete(total_of(([0, 1, 2], [2]))[1])


def test_a_class_without_boxes_is_a_warning(caplog):
  with caplog.at_level(logging.WARNING):
    check, total = total_of(([0, 1], []))
    check.check_evaluation(total, 'val')
    trained(check, total)
    trained(check, total, length=9)
  assert 'val has no box of cow: metrics are of the other classes alone' in caplog.text
  assert 'train has no box of cow: it cannot be learned' in caplog.text
  assert 'train has, in 2 of its 9 images, no box of cow: it cannot' in caplog.text


def test_a_split_without_boxes_is_refused(caplog):
  check, total = total_of(([0] * 5, range(5)))  # crowds alone, and too many of them
  assert total.tolist() == [0, 0, 0, 2, 1]
  for nothing in (total, total_of(([0, 1], [0, 1]), ([], []))[1]):
    with pytest.raises(UserError, match='val: none of its images has a box that counts'):
      check.check_evaluation(nothing, 'val')
    with pytest.raises(UserError, match='train: none of its 2 images has a box that counts'):
      trained(check, nothing)
  with caplog.at_level(logging.WARNING):
    trained(check, total, has_teacher=True)
  assert 'none of its 2 images' in caplog.text


def test_images_that_were_not_read_may_have_boxes(caplog):
  check, total = total_of(([], []), ([0], [0]))
  with caplog.at_level(logging.WARNING):
    trained(check, total, length=9)
  assert 'train has, in 2 of its 9 images, no box of cat, dog, cow: it cannot' in caplog.text


def test_too_many_boxes_are_a_warning_with_their_number_and_what_it_means(caplog):
  check, total = total_of(([0, 1, 2, 0, 0], []), ([1] * 4, []))
  with caplog.at_level(logging.WARNING):
    check.check_evaluation(total, 'val')
    trained(check, total, length=4)
  assert ('val: 2 images have more than 3 boxes: 3 are left out, and what is found of these counts '
          'as wrong: AP is too low. Set config.task.max_boxes to more') in caplog.text
  assert 'train (2 of its 4 images were read): 2 images have more than 3 boxes' in caplog.text
  assert 'are left out, and are not learned. Set config.task.max_boxes to more' in caplog.text


def test_a_class_that_is_none_is_refused():
  with pytest.raises(UserError, match='a: a box is of class 3; expected 0 to 2'):
    total_of(([0, 3], []))
