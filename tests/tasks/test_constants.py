"""What tasks and heads take as given, written out, by the codes and papers that are named."""

import inspect

import numpy as np
import pytest

from kdseg_jax import tasks
from kdseg_jax.losses import box_coding, dense_boxes
from kdseg_jax.tasks.box_check import BoxCheck
from kdseg_jax.tasks.detection import assignment, conflict, heads, suppression


def defaults(function):
  return {name: one.default for name, one in inspect.signature(function).parameters.items()
          if one.default is not one.empty}


@pytest.mark.parametrize('function, expected', [
    (assignment.atss, {'top_k': 9}),  # ATSS, section 3.2
    (assignment.valuable_region, {'top_k': 9, 'gamma': 0.25}),  # mmdetection's ld_head
    (assignment.max_iou, {'positive': 0.5, 'negative': 0.4}),  # RetinaNet, section 4
    (assignment.fcos, {'strides': None, 'radius': 1.5}),  # mmdetection's fcos_head
    (assignment.task_aligned, {'top_k': 13, 'alpha': 1.0, 'beta': 6.0}),  # TOOD, section 4.1
    (suppression.suppress, {'iou_threshold': 0.6, 'max_detections': 100}),
    (suppression.detect, {'score_threshold': 0.05, 'iou_threshold': 0.6, 'max_detections': 100,
                          'max_candidates': 1000})])
def test_options_of_detection_are_what_they_were(function, expected):
  found = defaults(function)
  found.pop('where', None)
  assert {name: value for name, value in found.items() if name in expected} == expected
  assert not {type(found[name]) for name in found.keys() - expected.keys()} & {int, float}


def test_heads_have_the_ranges_anchors_and_strides_of_mmdetection():
  assert heads.FCOS.ranges == ((-1, 64), (64, 128), (128, 256), (256, 512), (512, 1e8))
  assert heads.GFL.top_k == heads.ATSS.top_k == 9
  for name, head in heads.HEADS.items():
    assert head(3).strides == (8, 16, 32, 64, 128) == box_coding.STRIDES
    assert head.per_position == dense_boxes.per_position(name) == (9 if name == 'retinanet' else 1)


def test_discrepancies_are_counted_above_every_twentieth():
  np.testing.assert_allclose(conflict.THRESHOLDS, np.arange(1, 20) / 20)
  assert conflict.CONFLICT == 0.5


@pytest.mark.parametrize('name, metric', [
    ('segmentation', ('mean_iou', 'mIoU', True, 100, '%', 1, 'per_class_iou')),
    ('classification', ('top1', 'top-1', True, 100, '%', 1, 'per_class_accuracy')),
    ('detection', ('AP', 'AP', True, 100, '', 1, 'per_class_AP'))])
def test_the_metric_that_chooses_a_checkpoint(name, metric):
  assert tuple(tasks.create(name, 3).main_metric) == metric


FIELDS = {  # shape of an image of 4x6, type, padding, geometry
    'segmentation': {'label': ((4, 6), np.uint8, 255, 'map')},
    'classification': {'label': ((), np.int32, -1, None)},
    'detection': {
        'boxes': ((7, 4), np.float32, 0, 'boxes'), 'classes': ((7,), np.int32, -1, 'boxes'),
        'crowd': ((7,), bool, False, 'boxes'), 'area': ((7,), np.float32, 0, 'boxes'),
        'scale': ((2,), np.float32, 1, None)}}


@pytest.mark.parametrize('name', FIELDS)
def test_the_fields_of_a_batch(name):
  task = tasks.create(name, 3, **({'max_boxes': 7} if name == 'detection' else {}))
  assert {field: (one.shape((4, 6)), one.dtype, one.padding, one.geometry)
          for field, one in task.fields.items()} == FIELDS[name]


def test_the_boxes_that_are_left_out_are_those_beyond_what_a_batch_holds():
  found = tasks.create('detection', 2, max_boxes=7).data_check(('a', 'b'))
  assert vars(found) == vars(BoxCheck(('a', 'b'), 7))
