"""What a classifier says of images, for people."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from kdseg_jax.inference import Classification
from kdseg_jax.report import tables
from kdseg_jax.report.base import Example, Figure
from kdseg_jax.training.writers import write_json


class ClassificationPresenter:
  """How the classes of images are shown; so far only what `predict` writes.

  Args:
    shown: a model: its `classes`.
  """

  figures: ClassVar[Mapping[str, Figure]] = {}
  compares: ClassVar[bool] = False

  def __init__(self, shown: Any):
    self.classes = shown.classes

  def writer(self, output: str, **_: Any) -> ClassWriter:
    """Writes the most probable classes."""
    return ClassWriter(self.classes, output)


class ClassWriter:
  """Writes `predictions.json`, the most probable classes of each image."""

  def __init__(self, classes: Sequence[str], output: str):
    self._classes, self._output = classes, output
    self._found: dict[str, list[dict[str, Any]]] = {}

  def add(self, example: Example, predictions: Mapping[str, Classification]) -> None:
    """Takes what the one model predicts."""
    (prediction,) = predictions.values()
    self._found[example.origin] = most_probable(prediction, self._classes)

  def close(self) -> str:
    """Writes the file; its content as a table."""
    file = os.path.join(self._output, 'predictions.json')
    write_json(file, self._found)
    return f'{table(self._found)}\n\n{len(self._found)} images. Predictions: {file}'


def most_probable(prediction: Classification, classes: Sequence[str], count: int = 5
                  ) -> list[dict[str, Any]]:
  """`{'class': name, 'probability': ...}` of the most probable classes, the first of all first."""
  order = np.argsort(-prediction.probabilities, kind='stable')[:count]
  return [{'class': classes[index], 'probability': float(prediction.probabilities[index])}
          for index in order]


def table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
  """A row for each of the most probable classes of each image, by its name."""
  return tables.table(['image', 'class', 'probability'], [
      (name if rank == 0 else '', row['class'], f'{100 * row["probability"]:.1f} %')
      for name, rows in found.items() for rank, row in enumerate(rows)])
