"""The most probable classes of an image, and their table."""

import numpy as np

from kdseg_jax.inference import Classification
from kdseg_jax.report import classification


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
