"""Tables and the picture of the conflict of a teacher with targets: every number at its place."""

import numpy as np
import pytest

from kdseg_jax.report import detection, pictures, presenters
from kdseg_jax.tasks.detection import conflict

THRESHOLDS = list(conflict.THRESHOLDS)
MEANS = {  # of positions, and student to target, teacher to target, student to teacher
    'positive_scores': (40, 0.11, 0.12, 0.13), 'conflict_scores': (7, 0.21, 0.22, 0.23),
    'positive_boxes': (39, 0.31, 0.32, 0.33)}
FOUND = {
    'thresholds': THRESHOLDS, 'positive': 40, 'background': 1000,
    'positive_share': [1 - x for x in THRESHOLDS],
    'background_ratio': [2 - x for x in THRESHOLDS],
    **{name: {'positions': positions, 'student_target': a, 'teacher_target': b,
              'student_teacher': c} for name, (positions, a, b, c) in MEANS.items()}}


def cells(text):
  return [[cell.strip() for cell in line.strip('|').split('|')] for line in text.splitlines()]


def test_every_number_of_the_tables_stands_below_its_title():
  above, distances = (cells(text) for text in detection.conflict_tables(FOUND).split('\n\n'))
  assert above[0] == ['teacher - target above', 'of positive positions',
                      'in the background, a positive one']
  assert above[2:] == [[f'{x}', f'{1 - x:.4f}', f'{2 - x:.4f}'] for x in (0.1, 0.3, 0.5, 0.7, 0.9)]
  assert distances[0] == [
      'mean distance', 'positions', 'student to target', 'teacher to target', 'student to teacher']
  assert distances[2:] == [
      ['scores, positive', '40', '0.1100', '0.1200', '0.1300'],
      ['scores, in conflict above 0.5', '7', '0.2100', '0.2200', '0.2300'],
      ['boxes (1 - IoU), positive', '39', '0.3100', '0.3200', '0.3300']]


def test_every_curve_and_bar_is_what_its_legend_says():
  curves, bars = pictures._conflict_figure(FOUND).axes
  drawn = {line.get_label(): line for line in curves.lines}
  assert list(drawn) == ['positive positions', 'background']
  for label, values in zip(drawn, ('positive_share', 'background_ratio')):
    np.testing.assert_allclose(
        drawn[label].get_xydata(), np.transpose([THRESHOLDS, FOUND[values]]))
  assert curves.get_ylim()[0] == 0 and bars.get_ylim() == (0, 1)
  assert [text.get_text() for text in bars.get_xticklabels()] == [
      'scores,\npositive', 'scores, conflict\nabove 0.5', 'boxes (1 - IoU),\npositive']
  heights = {group.get_label(): [bar.get_height() for bar in group] for group in bars.containers}
  assert list(heights) == ['student to target', 'teacher to target', 'student to teacher']
  assert heights == {'student to target': [0.11, 0.21, 0.31],
                     'teacher to target': [0.12, 0.22, 0.32],
                     'student to teacher': [0.13, 0.23, 0.33]}
  for group, place in zip(bars.containers, (-0.27, 0, 0.27), strict=True):
    np.testing.assert_allclose(
        [bar.get_x() + bar.get_width() / 2 for bar in group], np.arange(3) + place)


@pytest.mark.parametrize('measured', [{}, {'conflict': FOUND}])
def test_the_tables_of_an_evaluation_end_with_the_conflict_where_it_was_measured(measured):
  class Shown:
    classes = ('cat', 'dog')

  metrics = dict.fromkeys(detection.FIGURES, 0.25) | {'per_class_AP': [0.5, 0.75]} | measured
  assert presenters.create('detection', Shown).table(metrics).split('\n\n') == [
      detection.classes_table(Shown.classes, metrics), detection.figures_table(metrics),
      *(detection.conflict_tables(FOUND).split('\n\n') if measured else [])]
