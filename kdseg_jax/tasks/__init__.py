"""Tasks by name: the fields of a batch, the supervised loss, the metrics.

How their results are shown is in `kdseg_jax.report.presenters`.
"""

import dataclasses
from typing import Any

from kdseg_jax import models, names, outside, references
from kdseg_jax.tasks.base import Accumulator, DataCheck, Field, MainMetric, Outputs, Task
from kdseg_jax.tasks.classification import Classification, ClassificationTask
from kdseg_jax.tasks.detection.task import Detections, DetectionTask, head_of
from kdseg_jax.tasks.segmentation import Segmentation, SegmentationTask

TASKS: dict[str, Any] = {
    'segmentation': SegmentationTask, 'classification': ClassificationTask,
    'detection': DetectionTask}
# The metric of checkpoints that were saved before they named theirs.
FIRST_METRIC = SegmentationTask.main_metric.name

# What a task from elsewhere must have.
_PARTS = ('__dataclass_fields__', *sorted(
    {name for name in vars(Task) if not name.startswith('_')} | set(Task.__annotations__)))

__all__ = ['Accumulator', 'Classification', 'ClassificationTask', 'DataCheck',
           'DetectionTask', 'Detections', 'Field', 'MainMetric', 'Outputs', 'Segmentation',
           'SegmentationTask', 'Task', 'create', 'find', 'name_of', 'of', 'options_of']


def find(name: str) -> Any:
  """The class of a task: its `fields` and `main_metric` need no data.

  Args:
    name: in `TASKS`, or the `module:attribute` of a dataclass that is a `Task` and has the class of
      its `kdseg_jax.report.base.Presenter` as `presenter`; its module is imported.

  Raises:
    UserError: there is no such task (names the nearest), or the class lacks what a task has.
  """
  if references.is_reference(name):
    found = references.find(name, 'config.task.name')
    return outside.require(
        found, (*_PARTS, 'presenter'), where=name, expected='a task, see kdseg_jax.tasks.Task')
  names.require(name, TASKS, 'task')
  return TASKS[name]


def options_of(name: str) -> dict[str, Any]:
  """The options of a task with their defaults: the fields of `config.task` beside `name`."""
  return {field.name: field.default for field in dataclasses.fields(find(name))
          if field.name != 'num_classes'}


def create(name: str, num_classes: int, **options: Any) -> Task:
  """A task of data with so many classes.

  Args:
    name: in `TASKS`.
    num_classes: number of classes.
    **options: the task's own.

  Raises:
    UserError: there is no such task (names the nearest), or as it says.
  """
  task = find(name)
  for option in options:
    names.require(option, options_of(name), f'field of config.task for the task {name}')
  return task(num_classes=num_classes, **options)


def name_of(config: Any) -> str:
  """The name of a config's task; of imported weights too, whose config has none."""
  if config.student.name in models.CLASSIFIERS:
    return ClassificationTask.name
  return DetectionTask.name if config.student.name in models.DETECTORS else config.task.name


def of(config: Any, num_classes: int) -> Task:
  """The task of a config, see `name_of`, for data with so many classes."""
  name = name_of(config)
  options = dict(config.task.items()) if name == config.task.name else {'name': name}
  if name == DetectionTask.name:
    options['head'] = head_of(config.student.name, options.get('head', ''))
  return create(num_classes=num_classes, **options)
