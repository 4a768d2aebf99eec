"""What a presenter is: the host side of a task, for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np


class Figure(NamedTuple):
  """A picture of an evaluation.

  Attributes:
    help: of the option of `evaluate` that names its PNG file.
    draw: `(accumulator, classes) -> (H, W, 3)` uint8 RGB.
    beside_teacher: of a picture that a teacher takes part in, `(task, teacher's Model) -> task`, by
      which a model is evaluated then: its variables are a pair, the model's and the teacher's.
  """

  help: str
  draw: Callable[[Any, Sequence[str]], np.ndarray]
  beside_teacher: Callable[[Any, Any], Any] | None = None


class Example(NamedTuple):
  """What `predict` is given of an image.

  Attributes:
    name: file name of the results.
    origin: where it is from.
    image: `(H, W, 3)` uint8 RGB.
    fields: of the task, by name; {} where they are not known.
  """

  name: str
  origin: str
  image: np.ndarray
  fields: Mapping[str, Any]


class Writer(Protocol):
  """Writes what `predict` has found."""

  def add(self, example: Example, predictions: Mapping[str, Any]) -> None:
    """Takes what each model, by its name, predicts of an image."""

  def close(self) -> str:
    """Writes what is left; what was written, for people."""


class Presenter(Protocol):
  """How a task's data, predictions and metrics are shown.

  Made of a source or a model: its `classes`, and what else the task draws with.

  Attributes:
    figures: pictures of an evaluation, by the name of their option.
    compares: whether `predict` can show splits, and several models side by side.
  """

  figures: ClassVar[Mapping[str, Figure]]
  compares: ClassVar[bool]

  def __init__(self, shown: Any): ...

  @staticmethod
  def summary(metrics: Mapping[str, Any]) -> str:
    """The metrics of an evaluation in a line."""

  def table(self, metrics: Mapping[str, Any]) -> str:
    """The metrics of each class; '' where there are none."""

  def details(self, metrics: Mapping[str, Any], task: Any) -> list[tuple[str, str]]:
    """The metrics of all, `(name, value)`, with the conventions of the task."""

  def saved(self) -> dict[str, Any]:
    """What a checkpoint is to hold of it, beside the classes, as JSON has it."""

  def fields_of(self, prediction: Any) -> dict[str, np.ndarray]:
    """What `Model.predict` returns of an image, by the names of the fields that it predicts."""

  def comparison(self, image: np.ndarray, fields: Mapping[str, np.ndarray],
                 predictions: Mapping[str, Mapping[str, np.ndarray]]) -> np.ndarray:
    """`(H, W, 3)` uint8 RGB: an image, its fields, and what is predicted, by title."""

  def writer(self, output: str, *, main: str, titles: Mapping[str, str], strips: bool,
             legend: bool) -> Writer:
    """Writes predictions.

    Args:
      output: folder.
      main: name of the model whose results have files of their own.
      titles: of the models, by name.
      strips: whether all models are shown beside what is known.
      legend: whether classes are explained below pictures.
    """
