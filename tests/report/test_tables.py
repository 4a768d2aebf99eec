"""Plain-text tables."""

import math

from kdseg_jax.report import tables


def test_columns_are_aligned():
  assert tables.table(['name', 'n'], [('a', '1'), ('long name', '100')]) == (
      '| name      |   n |\n'
      '|-----------|----:|\n'
      '| a         |   1 |\n'
      '| long name | 100 |')


def test_a_class_that_occurs_nowhere_has_a_dash():
  lines = tables.per_class(['sky', 'car'], [0.5, math.nan]).splitlines()
  assert lines[0] == '| class |    IoU |'
  assert lines[2] == '| sky   | 0.5000 |' and lines[3] == '| car   |      - |'
