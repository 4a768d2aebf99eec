"""The most probable classes of an image, and their table."""

import types

import numpy as np
import pytest

from kdseg_jax.inference import Classification
from kdseg_jax.report import classification, pictures, presenters


def test_the_most_probable_come_first_and_ties_by_their_number():
  prediction = Classification(2, np.float32([0.125, 0.125, 0.5, 0.0, 0.25]))
  found = classification.most_probable(prediction, 'abcde', count=4)
  assert found == [{'class': 'c', 'probability': 0.5}, {'class': 'e', 'probability': 0.25},
                   {'class': 'a', 'probability': 0.125}, {'class': 'b', 'probability': 0.125}]
  assert len(classification.most_probable(prediction, 'abcde')) == 5
  two = Classification(0, np.float32([0.75, 0.25]))
  assert len(classification.most_probable(two, 'ab')) == 2


def test_the_table_names_an_image_once():
  rows = [{'class': 'cat', 'probability': 0.875}, {'class': 'dog', 'probability': 0.125}]
  lines = classification.table({'a.png': rows, 'b.png': rows[:1]}).splitlines()
  assert [[cell.strip() for cell in line.strip('|').split('|')] for line in lines[2:]] == [
      ['a.png', 'cat', '87.5 %'], ['', 'dog', '12.5 %'], ['b.png', 'cat', '87.5 %']]


PRESENTER = presenters.create('classification', types.SimpleNamespace(classes=tuple('abcdef')))
METRICS = {'top1': 0.5, 'top5': 0.75, 'per_class_accuracy': [1.0, 0.0, *4 * [float('nan')]],
           'images': 8}


def test_metrics_in_a_line_and_of_each_class():
  assert PRESENTER.summary(METRICS) == 'top-1 0.5000, top-5 0.7500 on 8 images'
  few = {name: value for name, value in METRICS.items() if name != 'top5'}
  assert PRESENTER.summary(few) == 'top-1 0.5000 on 8 images'
  assert PRESENTER.details(few, None) == [('top-1', '0.5000')]
  assert PRESENTER.details(METRICS, None) == [('top-1', '0.5000'), ('top-5', '0.7500')]
  rows = [[cell.strip() for cell in line.strip('|').split('|')]
          for line in PRESENTER.table(METRICS).splitlines()]
  assert rows[0] == ['class', 'accuracy'] and rows[2:5] == [
      ['a', '1.0000'], ['b', '0.0000'], ['c', '-']]


def test_what_is_predicted_is_written_below_the_image():
  image = np.full((10, 20, 3), 90, np.uint8)
  found = PRESENTER.fields_of(Classification(1, np.float32([0.25, 0.75, 0, 0, 0, 0])))
  assert found == {'label': 1, 'probability': 0.75}
  with_label = PRESENTER.comparison(image, {'label': np.int32(0)}, {'prediction': found})
  without = PRESENTER.comparison(image, {}, {'prediction': found})
  assert with_label.shape[1] == without.shape[1] == 240
  assert (with_label[:120] == 90).all() and (with_label[120:].min(axis=2) < 60).any()
  assert with_label.shape[0] > without.shape[0] > 120
  other = PRESENTER.comparison(image, {}, {'prediction': found | {'label': np.int32(2)}})
  assert (other != without).any() and other.shape == without.shape


@pytest.mark.parametrize('label, name', [(0, 'a'), (5, 'f'), (6, 'not known'), (-1, 'not known')])
def test_a_caption_has_the_label_and_then_what_each_model_predicts(label, name):
  image = np.full((10, 20, 3), 90, np.uint8)
  found = {'mine': {'label': np.int32(1), 'probability': np.float32(0.75)},
           'other': {'label': np.int32(2), 'probability': np.float32(0.046875)}}
  np.testing.assert_array_equal(
      PRESENTER.comparison(image, {'label': np.int32(label)}, found),
      classification.captioned(image, [f'label: {name}', 'mine: b 75.0 %', 'other: c 4.7 %']))


def test_long_captions_are_written_smaller_and_each_on_a_line_of_its_own():
  image = np.full((30, 300, 3), 90, np.uint8)
  picture = classification.captioned(image, ['W' * 24, 'short'])
  assert picture.shape == (30 + 2 * 22 + 6, 300, 3)  # not enlarged
  assert (picture[:30] == 90).all()
  long, short = (np.flatnonzero((picture[top:top + 22] < 128).all(axis=-1).any(axis=0))
                 for top in (30, 52))
  assert 5 <= long[0] <= 8 and 280 < long[-1] < 296
  assert 5 <= short[0] <= 8 and 20 < short[-1] < 80


def test_the_confusion_matrix_counts_images():
  found = types.SimpleNamespace(matrix=np.eye(6, dtype=np.int64))
  picture = PRESENTER.figures['confusion'].draw(found, PRESENTER.classes)
  assert (picture != pictures.confusion(found.matrix, PRESENTER.classes)).any()
  np.testing.assert_array_equal(
      picture, pictures.confusion(found.matrix, PRESENTER.classes, counted='images'))
