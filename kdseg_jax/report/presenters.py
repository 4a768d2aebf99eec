"""Presenters by the name of their task."""

from typing import Any

from kdseg_jax import names, references, tasks
from kdseg_jax.report.base import Figure, Presenter
from kdseg_jax.report.classification import ClassificationPresenter
from kdseg_jax.report.detection import DetectionPresenter
from kdseg_jax.report.segmentation import SegmentationPresenter

PRESENTERS: dict[str, Any] = {
    'segmentation': SegmentationPresenter,
    'classification': ClassificationPresenter,
    'detection': DetectionPresenter,
}


def find(name: str) -> Any:
  """The class of the presenter of a task, which a task from elsewhere brings.

  Raises:
    UserError: there is none of that name (names the nearest).
  """
  if references.is_reference(name):
    return tasks.find(name).presenter
  names.require(name, PRESENTERS, 'task')
  return PRESENTERS[name]


def create(name: str, shown: Any) -> Presenter:
  """The presenter of a task, for the classes of a source or a model."""
  return find(name)(shown)


def figures() -> dict[str, Figure]:
  """The figures of all tasks, by the name of their option."""
  return {name: figure for presenter in PRESENTERS.values()
          for name, figure in presenter.figures.items()}
