"""Which task a config names, and what tasks say of their results."""

import math
import types

import numpy as np
import pytest

from kdseg_jax import default_config, tasks
from kdseg_jax.inference.views import Inference


@pytest.mark.parametrize('model, name', [
    ('resnet18', 'classification'), ('gfl_resnet18', 'detection'),
    ('deeplabv3_resnet18', 'segmentation'), ('tests.tasks.tiny_detector:Tiny', 'segmentation')])
def test_a_model_of_the_package_says_its_task_whatever_the_config_names(model, name):
  config = default_config.run('segmentation', 'none', 'student')
  config.student.name = model
  assert tasks.name_of(config) == name
  assert tasks.of(config, 3).name == name


def test_a_task_has_the_options_of_its_config():
  config = default_config.run('segmentation', 'none', 'student')
  config.task.update(auxiliary_weight=0.25, ohem_min_kept=7, align_corners=False)
  task = tasks.of(config, 5)
  assert (task.num_classes, task.auxiliary_weight, task.ohem_min_kept, task.align_corners) == (
      5, 0.25, 7, False)
  assert set(tasks.options_of('segmentation')) == set(config.task) - {'name'}
  assert tasks.options_of('detection')['max_boxes'] == 100


@pytest.mark.parametrize('maximize', [True, False])
def test_the_metric_knows_what_is_better(maximize):
  metric = tasks.MainMetric('x', 'X', maximize=maximize)
  assert metric.worst == (-math.inf if maximize else math.inf)
  assert metric.best(iter([2.0, 1.0, 3.0])) == (3 if maximize else 1)
  assert metric.best([metric.worst, 5.0]) == 5


def test_a_metric_is_printed_at_its_scale():
  metric = tasks.MainMetric('mean_iou', 'mIoU', scale=100, unit='%', digits=2)
  assert metric.text(0.12345) == '12.35' and metric.text(0.5, sign=True) == '+50.00'
  assert metric.text(-0.5, sign=True) == '-50.00'
  assert metric.with_unit(0.5) == '50.00 %'
  assert metric.titled('teacher', 0.5) == 'teacher 50.00'
  assert metric.titled('teacher', 0.0) == 'teacher 0.00'
  assert metric.titled('teacher', None) == 'teacher'
  assert tasks.MainMetric('AP', 'AP').with_unit(0.5) == '0.5'


class Seen(Exception):
  """The shapes that a model is given."""


def test_a_detector_predicts_at_the_size_of_the_data_padded_to_a_multiple():
  def apply(variables, image, mask, index):
    raise Seen(image.shape, mask.shape)
  task = tasks.create('detection', 3, head='gfl')
  images = np.zeros((2, 50, 90, 3), np.uint8)
  for options, height, width in (
      ({'size': (30, 40)}, 30, 40), ({'size': (30, 40), 'multiple': 32}, 32, 64),
      ({'multiple': 32}, 64, 96)):
    predict = task.predictor(types.SimpleNamespace(apply=apply), Inference(), **options)
    with pytest.raises(Seen) as seen:
      predict({}, images, scores=False)
    assert seen.value.args == ((2, height, width, 3), (2, height, width))
