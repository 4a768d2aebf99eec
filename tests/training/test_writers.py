"""metrics.jsonl: rows, resumed runs, cut lines, numbers that JSON does not know."""

import json
import logging
import math

import pytest
from absl import logging as absl_logging

from kdseg_jax.data.json_files import finite
from kdseg_jax.training.writers import MetricWriter, StepTimer
from tests import runs
from tests.training.test_validation_pictures import read_events

START = 0


def test_rows_and_events_are_written(tmp_path):
  writer = MetricWriter(str(tmp_path), start=START)
  writer.write('train', 1, {'loss': 0.5})
  writer.write('evaluation', 1, {'mean_iou': math.nan, 'per_class_iou': [0.1, math.nan]})
  writer.close()
  assert runs.rows(tmp_path) == [
      {'phase': 'train', 'step': 1, 'loss': 0.5},
      {'phase': 'evaluation', 'step': 1, 'mean_iou': None, 'per_class_iou': [0.1, None]}]
  assert list((tmp_path / 'tensorboard').glob('events*'))


def test_tensorboard_has_the_scalars_by_phase_and_what_a_resumed_run_begins_with(tmp_path):
  writer = MetricWriter(str(tmp_path), start=4)
  writer.write('train', 5, {'loss': 0.5, 'per_class_iou': [0.25]})
  writer.write('evaluation', 6, {'images': 7, 'mean_iou': 0.125})
  writer.close()
  events = list(read_events(tmp_path / 'tensorboard'))
  assert {(value.tag, event.step): value.simple_value
          for event in events for value in event.summary.value} == {
              ('train/loss', 5): 0.5, ('evaluation/images', 6): 7,
              ('evaluation/mean_iou', 6): 0.125}
  started = [event.step for event in events if event.HasField('session_log')]
  assert started == [5]  # what an interrupted run wrote of it and of later steps is dropped


def test_a_resumed_run_drops_later_rows_of_each_phase_and_a_cut_line(tmp_path):
  writer = MetricWriter(str(tmp_path), start=START)
  for phase, step in (('prepare', 1), ('prepare', 2), ('train', 1), ('train', 2), ('train', 3)):
    writer.write(phase, step, {'loss': 1.0})
  writer.close()
  with open(tmp_path / 'metrics.jsonl', 'a') as file:
    file.write('{"phase": "train", "st')
  resumed = MetricWriter(str(tmp_path), start=2)
  assert resumed.has('train', 2) and not resumed.has('train', 3)
  resumed.write('train', 3, {'loss': 2.0})
  resumed.close()
  assert [(r['phase'], r['step'], r['loss']) for r in runs.rows(tmp_path)] == [
      ('prepare', 1, 1.0), ('prepare', 2, 1.0), ('train', 1, 1.0), ('train', 2, 1.0),
      ('train', 3, 2.0)]


def test_finite_replaces_what_json_does_not_know_at_any_depth():
  value = {'a': [1.0, math.inf, {'b': math.nan}], 'c': 3, 'd': 'nan'}
  assert finite(value) == {'a': [1.0, None, {'b': None}], 'c': 3, 'd': 'nan'}
  assert json.loads(json.dumps(finite(value), allow_nan=False))['c'] == 3


def test_the_timer_leaves_out_the_first_step_and_what_happens_between_reports():
  now = iter([10.0, 14.0, 20.0, 100.0, 104.0, 104.0])
  timer = StepTimer(lambda: next(now), batch_size=8)
  timer.tick()  # compiles; starts the clock at 10
  timer.tick()
  timer.tick()
  assert timer.report() == {'step_seconds': 2.0, 'images_per_second': 4.0}  # at 14, restart at 20
  timer.restart()  # at 100, after an evaluation
  timer.tick()
  assert timer.report() == {'step_seconds': pytest.approx(4.0),
                            'images_per_second': pytest.approx(2.0)}


def test_the_timer_reports_nothing_where_no_step_was_counted():
  timer = StepTimer(lambda: 0.0, batch_size=8)
  timer.tick()
  assert timer.report() == {}


def test_lines_of_a_log_that_several_runs_share_say_which(tmp_path, caplog):
  before = absl_logging.get_verbosity()
  absl_logging.set_verbosity(absl_logging.INFO)
  caplog.set_level(logging.INFO, logger='absl')
  for label in ('pairwise seed 3', ''):
    writer = MetricWriter(str(tmp_path / label), start=START, label=label)
    writer.write('train', 50, {'loss': 0.5})
    writer.close()
  absl_logging.set_verbosity(before)
  assert [record.getMessage() for record in caplog.records] == [
      'pairwise seed 3: train 50  loss 0.5', 'train 50  loss 0.5']
