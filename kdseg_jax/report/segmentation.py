"""Segmentations for people: metrics, labels in their colours, strips, the confusion matrix."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from kdseg_jax.data import files, palettes
from kdseg_jax.report import pictures, tables
from kdseg_jax.report.base import Example, Figure


class SegmentationPresenter:
  """How labels, and metrics of them, are shown; see `Presenter`.

  Args:
    shown: a source or a model: its `classes` and `palette`.
  """

  figures: ClassVar[Mapping[str, Figure]] = {'confusion': Figure(
      'PNG file that receives a picture of the confusion matrix.',
      lambda found, classes: pictures.confusion(found.matrix, classes))}
  compares: ClassVar[bool] = True

  def __init__(self, shown: Any):
    self.classes, self._shown = shown.classes, shown

  @property
  def palette(self) -> np.ndarray:
    """`(C, 3)` uint8, the colours of the classes."""
    return np.asarray(self._shown.palette, np.uint8)

  @staticmethod
  def summary(metrics: Mapping[str, Any]) -> str:
    """Mean IoU, pixel accuracy and the number of images."""
    return (f'mean IoU {metrics["mean_iou"]:.4f}, pixel accuracy {metrics["pixel_accuracy"]:.4f} '
            f'on {metrics["images"]} images')

  def table(self, metrics: Mapping[str, Any]) -> str:
    """The IoU of each class."""
    return tables.per_class(self.classes, metrics['per_class_iou'])

  def details(self, metrics: Mapping[str, Any], task: Any) -> list[tuple[str, str]]:
    """Mean IoU, with its convention, and pixel accuracy."""
    convention = ('classes that occur nowhere count as 0' if task.absent_as_zero else
                  'mean over the classes that occur')
    return [('mean IoU', f'{metrics["mean_iou"]:.4f}   ({convention})'),
            ('pixel accuracy', f'{metrics["pixel_accuracy"]:.4f}')]

  def saved(self) -> dict[str, Any]:
    """The palette."""
    return {'palette': self.palette.tolist()}

  def fields_of(self, prediction: Any) -> dict[str, np.ndarray]:
    """The labels of a `Segmentation`."""
    return {'label': prediction.labels}

  def comparison(self, image: np.ndarray, fields: Mapping[str, np.ndarray],
                 predictions: Mapping[str, Mapping[str, np.ndarray]]) -> np.ndarray:
    """An image, its label and predicted labels as overlays, above a legend."""
    return palettes.comparison(
        image, fields['label'], {title: found['label'] for title, found in predictions.items()},
        self.classes, self.palette)

  def writer(self, output: str, *, main: str, titles: Mapping[str, str], strips: bool,
             legend: bool) -> PictureWriter:
    """Writes labels, overlays and strips."""
    return PictureWriter(self, output, main, titles, strips, legend)


class PictureWriter:
  """Writes `labels/<name>.png`, `overlays/<name>.png` and `strips/<name>.png`."""

  def __init__(self, presenter: SegmentationPresenter, output: str, main: str,
               titles: Mapping[str, str], strips: bool, legend: bool):
    self._presenter, self._output, self._main = presenter, output, main
    self._titles, self._strips, self._legend = titles, strips, legend
    self._written = 0

  def add(self, example: Example, predictions: Mapping[str, Any]) -> None:
    """Writes the pictures of an image."""
    palette, image, label = self._presenter.palette, example.image, example.fields.get('label')
    labels = {model: prediction.labels for model, prediction in predictions.items()}
    overlays = {model: palettes.overlay(image, predicted, palette)
                for model, predicted in labels.items()}
    main = labels[self._main]
    files.write_palette_png(os.path.join(self._output, 'labels', example.name), main, palette)
    overlay = overlays[self._main]
    self._write('overlays', example.name,
                self._explained(overlay, [main]) if self._legend else overlay)
    if self._strips:
      panels = {'image': image}
      if label is not None:
        panels['label'] = palettes.overlay(image, label, palette)
      panels |= {self._titles[model]: picture for model, picture in overlays.items()}
      strip = palettes.strip(list(panels.values()), list(panels))
      self._write('strips', example.name, self._explained(
          strip, [*labels.values(), *([] if label is None else [label])]))
    self._written += 1

  def close(self) -> str:
    """How many there are, and where."""
    return f'{self._written} images. Labels and overlays: {self._output}'

  def _explained(self, picture, labels):
    return palettes.with_legend(picture, labels, self._presenter.classes, self._presenter.palette)

  def _write(self, folder, name, picture):
    files.write_png(os.path.join(self._output, folder, name), picture)
