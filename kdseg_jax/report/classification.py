"""Classes of images for people: metrics, predictions written on the image, the confusion matrix."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw

from kdseg_jax import lettering
from kdseg_jax.data import files
from kdseg_jax.data.json_files import write_json
from kdseg_jax.inference import Classification
from kdseg_jax.report import pictures, tables
from kdseg_jax.report.base import Example, Figure

_LEAST_WIDTH, _LINE, _LETTERS, _MARGIN = 256, 22, 14, 6  # of a captioned picture, in pixels


class ClassificationPresenter:
  """How the classes of images, and metrics of them, are shown; see `Presenter`.

  Args:
    shown: a source or a model: its `classes`.
  """

  figures: ClassVar[Mapping[str, Figure]] = {'confusion': Figure(
      'PNG file that receives a picture of the confusion matrix.',
      lambda found, classes: pictures.confusion(found.matrix, classes, counted='images'))}
  compares: ClassVar[bool] = True

  def __init__(self, shown: Any):
    self.classes = shown.classes

  @staticmethod
  def summary(metrics: Mapping[str, Any]) -> str:
    """Top-1, top-5 where there are more than five classes, and the number of images."""
    top5 = f', top-5 {metrics["top5"]:.4f}' if 'top5' in metrics else ''
    return f'top-1 {metrics["top1"]:.4f}{top5} on {metrics["images"]} images'

  def table(self, metrics: Mapping[str, Any]) -> str:
    """The accuracy of each class."""
    return tables.per_class(self.classes, metrics['per_class_accuracy'], 'accuracy')

  def details(self, metrics: Mapping[str, Any], task: Any) -> list[tuple[str, str]]:
    """Top-1, and top-5 where there are more than five classes."""
    del task
    return [(title, f'{metrics[name]:.4f}') for name, title in (
        ('top1', 'top-1'), ('top5', 'top-5')) if name in metrics]

  def saved(self) -> dict[str, Any]:
    """Nothing beside the classes."""
    return {}

  def fields_of(self, prediction: Classification) -> dict[str, np.ndarray]:
    """The label of a `Classification`, and its probability."""
    return {'label': np.int32(prediction.label),
            'probability': prediction.probabilities[prediction.label]}

  def comparison(self, image: np.ndarray, fields: Mapping[str, np.ndarray],
                 predictions: Mapping[str, Mapping[str, np.ndarray]]) -> np.ndarray:
    """An image above its label and what is predicted."""
    lines = [f'label: {self._name(fields["label"])}'] if 'label' in fields else []
    return captioned(image, lines + [
        f'{title}: {self._name(found["label"])} {100 * found["probability"]:.1f} %'
        for title, found in predictions.items()])

  def writer(self, output: str, *, main: str, titles: Mapping[str, str], strips: bool,
             legend: bool) -> ClassWriter:
    """Writes the most probable classes, and pictures of them; the other options say nothing."""
    del strips, legend
    return ClassWriter(self, output, main, titles)

  def _name(self, label):
    return self.classes[label] if 0 <= label < len(self.classes) else 'not known'


class ClassWriter:
  """Writes `predictions.json`, the most probable classes of each image, and `pictures/<name>.png`.

  Pictures show the image above what each model predicts.
  """

  def __init__(self, presenter: ClassificationPresenter, output: str, main: str,
               titles: Mapping[str, str]):
    self._presenter, self._output, self._main, self._titles = presenter, output, main, titles
    self._found: dict[str, list[dict[str, Any]]] = {}

  def add(self, example: Example, predictions: Mapping[str, Classification]) -> None:
    """Takes what the models predict of an image."""
    self._found[example.origin] = most_probable(predictions[self._main], self._presenter.classes)
    files.write_png(
        os.path.join(self._output, 'pictures', example.name),
        self._presenter.comparison(example.image, example.fields, {
            self._titles.get(model, model): self._presenter.fields_of(prediction)
            for model, prediction in predictions.items()}))

  def close(self) -> str:
    """Writes the file; its content as a table."""
    file = os.path.join(self._output, 'predictions.json')
    write_json(file, self._found)
    return f'{table(self._found)}\n\n{len(self._found)} images. Predictions: {file}'


def captioned(image: np.ndarray, lines: Sequence[str]) -> np.ndarray:
  """An image above lines of text, on white; small ones are enlarged by a whole number.

  Args:
    image: `(H, W, 3)` uint8 RGB.
    lines: written smaller where they would not fit.

  Returns:
    `(H', W', 3)` uint8 RGB, more than 128 pixels wide.
  """
  factor = max(1, _LEAST_WIDTH // image.shape[1])
  height, width = (factor * side for side in image.shape[:2])
  image = cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST)
  picture = PIL.Image.new('RGB', (width, height + _LINE * len(lines) + _MARGIN), 'white')
  picture.paste(PIL.Image.fromarray(image))
  draw, lettered = PIL.ImageDraw.Draw(picture), lettering.letter(lines, instead='line {}')
  for i, text in enumerate(lettered.texts):
    font = lettered.fitted(text, _LETTERS, width - 2 * _MARGIN)
    draw.text((_MARGIN, height + _LINE * (i + 0.5)), text, fill='black', anchor='lm', font=font)
  return np.asarray(picture)


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
