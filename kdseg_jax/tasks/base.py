"""What a task is: all that differs between segmentation, classification and detection."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

Size = tuple[int, int]


class Field(NamedTuple):
  """What a batch holds of every example beside `image`, `mask` and `index`.

  Attributes:
    shape: `(height, width)` of the image -> shape of one example.
    dtype: of the array.
    padding: value of padding pixels and of padding examples.
    geometry: how it moves with the image: 'map' as its pixels do, of the image's height and width;
      'boxes' as the corners of boxes do, `(M, 4)`, or `(M,)` of what belongs to each box and stays
      with it; None not at all.
  """

  shape: Callable[[Size], tuple[int, ...]]
  dtype: Any
  padding: Any
  geometry: str | None = None

  def admits(self, shape: tuple[int, ...], size: Size) -> bool:
    """Whether an example of a source may be of this shape: with any number of boxes, else exactly.

    Args:
      shape: of the example's array.
      size: (height, width) of its image.
    """
    own = self.shape(size)
    return shape[1:] == own[1:] and len(shape) == len(own) if self.geometry == 'boxes' else (
        shape == own)


class Outputs(NamedTuple):
  """What one batch contributes to the metrics.

  Attributes:
    sums: arrays that are summed over devices and added over batches: counts.
    examples: `(N, ...)` arrays that stay with their example: those of all devices are put one after
      the other, and those of padding examples are dropped.
  """

  sums: Mapping[str, Any] = {}
  examples: Mapping[str, Any] = {}


class MainMetric(NamedTuple):
  """The metric that ranks models. No one else knows which value is better, or how it is printed.

  Attributes:
    name: its key in the metrics of an evaluation.
    title: for people, e.g. 'mIoU'.
    maximize: whether more is better.
    scale: by which it is multiplied where it is printed.
    unit: what stands behind it then.
    digits: after the point.
    per_class: key of the list of its values for each class; None if it has none.
  """

  name: str
  title: str
  maximize: bool = True
  scale: float = 1.0
  unit: str = ''
  digits: int = 1
  per_class: str | None = None

  @property
  def worst(self) -> float:
    """The worst value there is, infinite."""
    return -math.inf if self.maximize else math.inf

  def best(self, values: Iterable[float]) -> float:
    """The best of some values."""
    return max(values) if self.maximize else min(values)

  def text(self, value: float, *, sign: bool = False) -> str:
    """A value, or with `sign` a difference, as it is printed, without the unit."""
    return format(self.scale * value, f'{"+" if sign else ""}.{self.digits}f')

  def with_unit(self, value: float) -> str:
    """A value and its unit, e.g. '65.1 %'."""
    return f'{self.text(value)} {self.unit}'.rstrip()

  def titled(self, name: str, value: float | None) -> str:
    """A model's name and how it scores, e.g. 'teacher 65.1'; without where it is None."""
    return name if value is None else f'{name} {self.text(value)}'


class Accumulator(Protocol):
  """The metrics of an evaluation, batch by batch; the same on any number of processes."""

  def add(self, outputs: Outputs) -> None:
    """Adds one batch: sums of all devices, and examples without padding."""

  def summarize(self) -> dict[str, Any]:
    """Floats, integers and lists of them by name; `images` is how many there were."""


class DataCheck:
  """What is looked at in the examples before a run; here only whether they can be read."""

  def tally(self, example: Mapping[str, Any]) -> np.ndarray:
    """What one example contributes, to be added up over a split."""
    del example
    return np.zeros(0, np.int64)

  def is_complete(self, total: np.ndarray) -> bool:
    """Whether further training examples would tell nothing new."""
    del total
    return True

  def check_evaluation(self, total: np.ndarray, split: str) -> None:
    """Warns of what is missing in a split to be evaluated; UserError if nothing can be."""

  def check_training(self, total: np.ndarray, split: str, *, read: int, length: int,
                     evaluated: np.ndarray | None, has_teacher: bool) -> None:
    """Warns of what is missing in a training split; UserError if nothing can be learned.

    Args:
      total: of the examples that were read.
      split: name of the split.
      read: how many they are.
      length: how many there are.
      evaluated: total of the evaluation split; None if it was not read.
      has_teacher: whether there is a teacher to learn from.
    """


class Task(Protocol):
  """A task; what differs between tasks is here and in its presenter (`kdseg_jax.report`).

  Attributes:
    name: in the registry.
    main_metric: what ranks models.
  """

  name: ClassVar[str]
  main_metric: ClassVar[MainMetric]

  @property
  def fields(self) -> Mapping[str, Field]:
    """What a batch holds beside image, mask and index."""

  def loss(self, taps: Mapping[str, Any], batch: Mapping[str, Any], *,
           axis_name: str | None = None) -> tuple[Any, tuple[dict[str, Any], dict[str, Any]]]:
    """`(loss, (targets, metrics))`; targets are what distillers may require of it."""

  def scorer(self, model: Any, views: Any) -> Callable[[Any, Mapping[str, Any]], Any]:
    """`(variables, batch) -> scores`: how a model is run on images; refuses views it cannot do."""

  def predictor(self, model: Any, views: Any, *, size: tuple[int, ...], multiple: int) -> Callable:
    """`(variables, images (N, H, W, 3) uint8, *, scores) -> list`, on the host: a tuple an image.

    Args:
      model: the model.
      views: what it is shown of an image; refuses views it cannot do.
      size: (height, width) at which it sees images; () is their own.
      multiple: of which their own sizes become a multiple by padding.
    """

  def outputs(self, scores: Any, batch: Mapping[str, Any]) -> Outputs:
    """What a device's part of a batch contributes to the metrics."""

  def predictions(self, scores: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """What is predicted, `(N, ...)` arrays by name; under a field's name as that field is."""

  def accumulator(self) -> Accumulator:
    """A fresh one."""

  def data_check(self, classes: Iterable[str]) -> DataCheck:
    """What is looked at in the data before a run; `classes` are their names."""
