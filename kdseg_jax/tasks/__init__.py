"""Tasks by name: the fields of a batch, the supervised loss, the metrics.

How their results are shown is in `kdseg_jax.report.presenters`.
"""

import dataclasses
from typing import Any

from kdseg_jax import names
from kdseg_jax.tasks.base import Accumulator, DataCheck, Field, MainMetric, Outputs, Task
from kdseg_jax.tasks.segmentation import Segmentation, SegmentationTask

TASKS: dict[str, Any] = {'segmentation': SegmentationTask}
# The metric of checkpoints that were saved before they named theirs.
FIRST_METRIC = SegmentationTask.main_metric.name

__all__ = ['Accumulator', 'DataCheck', 'Field', 'MainMetric', 'Outputs', 'Segmentation',
           'SegmentationTask', 'Task', 'create', 'find', 'options_of']


def find(name: str) -> Any:
  """The class of a task: its `fields` and `main_metric` need no data.

  Raises:
    UserError: there is no such task (names the nearest).
  """
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
