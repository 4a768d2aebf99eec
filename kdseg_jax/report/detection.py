"""Boxes for people: metrics, predictions drawn on their image, precision over recall."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw

from kdseg_jax import lettering
from kdseg_jax.coco_ap import FIGURES
from kdseg_jax.data import files, palettes
from kdseg_jax.data.json_files import write_json
from kdseg_jax.report import pictures, tables
from kdseg_jax.report.base import Example, Figure
from kdseg_jax.tasks.detection import conflict

_LEAST_SIDE = 480       # of the longer side: smaller images are enlarged
_LETTERS = 12           # pixels of letters in an image of that size; they grow slower than it
_LEAST_SCORE = 0.3      # of predictions in pictures
_DISTANCES = {
    'positive_scores': 'scores, positive', 'conflict_scores': 'scores, in conflict above 0.5',
    'positive_boxes': 'boxes (1 - IoU), positive'}
_MEANING = {
    'AP': 'IoU 0.50 to 0.95', 'AP50': 'IoU 0.50', 'AP75': 'IoU 0.75',
    'APs': 'objects up to 32x32', 'APm': 'up to 96x96', 'APl': 'larger',
    'AR1': '1 detection an image', 'AR10': '10 detections', 'AR100': '100 detections',
    'ARs': 'objects up to 32x32', 'ARm': 'up to 96x96', 'ARl': 'larger'}


class DetectionPresenter:
  """How boxes, and metrics of them, are shown; see `Presenter`.

  Pictures show predictions of a score of at least 0.3.

  Args:
    shown: a source or a model: its `classes` and `palette`.
  """

  figures: ClassVar[Mapping[str, Figure]] = {
      'precision': Figure(
          'PNG file that receives the curves of precision over recall.',
          lambda found, classes: pictures.precision(found.results.curves())),
      'conflict': Figure(
          'PNG file that receives how far the teacher (config.teacher.checkpoint) disagrees with '
          'what the student is assigned, the target conflict of CrossKD; a table is printed.',
          lambda found, classes: pictures.conflict(found.conflict), conflict.Conflict)}
  compares: ClassVar[bool] = True

  def __init__(self, shown: Any):
    self.classes, self._shown = shown.classes, shown

  @property
  def palette(self) -> np.ndarray:
    """`(C, 3)` uint8, the colours of the classes."""
    return np.asarray(self._shown.palette, np.uint8)

  @staticmethod
  def summary(metrics: Mapping[str, Any]) -> str:
    """AP, AP50 and the number of images."""
    return f'AP {metrics["AP"]:.4f}, AP50 {metrics["AP50"]:.4f} on {metrics["images"]} images'

  def table(self, metrics: Mapping[str, Any]) -> str:
    """AP of each class, the 12 figures of COCO, and the target conflict where it was measured."""
    parts = [classes_table(self.classes, metrics), figures_table(metrics)]
    return '\n\n'.join(parts + ([conflict_tables(metrics['conflict'])] if 'conflict' in metrics
                                else []))

  def details(self, metrics: Mapping[str, Any], task: Any) -> list[tuple[str, str]]:
    """AP, with its convention, and AP50."""
    del task
    return [('AP', f'{metrics["AP"]:.4f}   (COCO: mean over IoU 0.50 to 0.95 and classes)'),
            ('AP50', f'{metrics["AP50"]:.4f}')]

  def saved(self) -> dict[str, Any]:
    """The palette."""
    return {'palette': self.palette.tolist()}

  def fields_of(self, prediction: Any) -> dict[str, np.ndarray]:
    """The boxes of `Detections`, their classes and scores."""
    return prediction._asdict()

  def comparison(self, image: np.ndarray, fields: Mapping[str, np.ndarray],
                 predictions: Mapping[str, Mapping[str, np.ndarray]]) -> np.ndarray:
    """The boxes of an image, where they are known, and those that are predicted, side by side."""
    panels = {}
    if 'boxes' in fields:
      panels['ground truth'] = self._drawn(
          image, fields['boxes'], fields['classes'], crowd=fields['crowd'])
    for title, found in predictions.items():
      sure = found['scores'] >= _LEAST_SCORE
      panels[title] = self._drawn(image, found['boxes'][sure], found['classes'][sure],
                                  scores=found['scores'][sure])
    pictures_of = list(panels.values())
    return pictures_of[0] if len(panels) == 1 else palettes.strip(
        pictures_of, list(panels), height=pictures_of[0].shape[0])

  def writer(self, output: str, *, main: str, titles: Mapping[str, str], strips: bool,
             legend: bool) -> BoxWriter:
    """Writes boxes, and pictures of them; the other options say nothing: names stand at boxes."""
    del strips, legend
    return BoxWriter(self, output, main, titles)

  def _drawn(self, image, boxes, labels, **options):
    return draw_boxes(image, boxes, labels, classes=self.classes, palette=self.palette, **options)


class BoxWriter:
  """Writes `predictions.json`, the boxes of each image, and `pictures/<name>.png`.

  A box is `{'class': name, 'score': ..., 'box': [x1, y1, x2, y2]}` in pixels of its image. Pictures
  show what each model predicts, side by side.
  """

  def __init__(self, presenter: DetectionPresenter, output: str, main: str,
               titles: Mapping[str, str]):
    self._presenter, self._output, self._main, self._titles = presenter, output, main, titles
    self._found: dict[str, list[dict[str, Any]]] = {}

  def add(self, example: Example, predictions: Mapping[str, Any]) -> None:
    """Takes what the models predict of an image."""
    classes = self._presenter.classes
    self._found[example.origin] = [
        {'class': classes[label], 'score': float(score), 'box': [float(side) for side in box]}
        for box, label, score in zip(*predictions[self._main], strict=True)]
    files.write_png(
        os.path.join(self._output, 'pictures', example.name),
        self._presenter.comparison(example.image, example.fields, {
            self._titles.get(model, model): self._presenter.fields_of(prediction)
            for model, prediction in predictions.items()}))

  def close(self) -> str:
    """Writes the file; how many boxes there are, and where."""
    file = os.path.join(self._output, 'predictions.json')
    write_json(file, self._found)
    boxes = [box for found in self._found.values() for box in found]
    sure = sum(box['score'] >= _LEAST_SCORE for box in boxes)
    return (f'{len(self._found)} images, {len(boxes)} boxes, {sure} of them of a score of at least '
            f'{_LEAST_SCORE} and in the pictures. Predictions: {file}')


def draw_boxes(image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, *,
               classes: Sequence[str], palette: np.ndarray, scores: np.ndarray | None = None,
               crowd: np.ndarray | None = None) -> np.ndarray:
  """Draws boxes in the colours of their classes, with the name and the score of each.

  The surest comes last, over the others. A name stands above its box, below where there is no room,
  else in it; where it would cover another one it is moved to the first free of these places. Small
  images are enlarged by a whole number.

  Args:
    image: `(H, W, 3)` uint8 RGB.
    boxes: `(M, 4)`, x1 y1 x2 y2 in pixels.
    labels: `(M,)` integers, indices into `classes`; negative ones are padding and not drawn.
    classes: names, see `lettering.letter` for those that no font can draw.
    palette: `(C, 3)` uint8.
    scores: `(M,)` in [0, 1], written as percent; None of ground truth.
    crowd: `(M,)` bool, drawn thin and with '(crowd)' in place of a score; None is none.

  Returns:
    `(H', W', 3)` uint8 RGB.
  """
  factor = max(1, _LEAST_SIDE // max(image.shape[:2]))
  size = tuple(factor * side for side in image.shape[1::-1])
  picture = PIL.Image.fromarray(cv2.resize(image, size, interpolation=cv2.INTER_NEAREST))
  order = np.flatnonzero(np.asarray(labels) >= 0)
  if scores is not None:
    order = order[np.argsort(np.asarray(scores)[order], kind='stable')]
  lettered = lettering.letter(classes)
  growth = max(1.0, max(size) / _LEAST_SIDE) ** 0.5
  font, line = lettered.font(_LETTERS * growth), max(1, round(2 * growth))
  draw = PIL.ImageDraw.Draw(picture)
  corners = {i: _corners(boxes[i], factor, size) for i in order}
  is_crowd = lambda i: crowd is not None and bool(crowd[i])
  for i in order:
    draw.rectangle(corners[i], outline=_color(palette, labels[i]),
                   width=1 if is_crowd(i) else line)
  written: list[tuple[float, ...]] = []
  for i in order[::-1]:  # the surest chooses its place first
    text = lettered.texts[labels[i]] + (' (crowd)' if is_crowd(i) else (
        '' if scores is None else f' {100 * float(scores[i]):.0f}%'))
    place = _place(draw, text, font, corners[i], size, written)
    written.append(place)
    color = _color(palette, labels[i])
    draw.rectangle(place, fill=color)
    draw.text(((place[0] + place[2] + 1) / 2, (place[1] + place[3] + 1) / 2), text, font=font,
              fill=_readable(color), anchor='mm')
  return np.asarray(picture)


def figures_table(metrics: Mapping[str, Any]) -> str:
  """The 12 figures of COCO with what each is of; '-' where there is no such object."""
  return tables.table(['figure', 'of', 'value'], [
      (name, _MEANING[name], '-' if metrics[name] < 0 else f'{metrics[name]:.4f}')
      for name in FIGURES])


def classes_table(classes: Sequence[str], metrics: Mapping[str, Any]) -> str:
  """AP of each class; '-' for one without objects."""
  return tables.per_class(classes, metrics['per_class_AP'], 'AP')


def conflict_tables(found: Mapping[str, Any]) -> str:
  """How often a teacher and the targets of a student disagree, and the mean distances."""
  above = tables.table(
      ['teacher - target above', 'of positive positions', 'in the background, a positive one'],
      [(f'{threshold:.1f}', *(tables.number(found[name][found['thresholds'].index(threshold)])
                              for name in ('positive_share', 'background_ratio')))
       for threshold in (0.1, 0.3, 0.5, 0.7, 0.9)])
  distances = tables.table(
      ['mean distance', 'positions', *(' to '.join(pair.split('_')) for pair in conflict.PAIRS)],
      [(title, found[name]['positions'],
        *(tables.number(found[name][pair]) for pair in conflict.PAIRS))
       for name, title in _DISTANCES.items()])
  return f'{above}\n\n{distances}'


def _corners(box, factor, size):
  """The pixels of a box's rim in the enlarged picture."""
  x1, y1, x2, y2 = (float(value) * factor for value in box)
  return (min(max(x1, 0), size[0] - 1), min(max(y1, 0), size[1] - 1),
          min(max(x2 - 1, x1, 0), size[0] - 1), min(max(y2 - 1, y1, 0), size[1] - 1))


def _color(palette, label):
  return tuple(map(int, palette[label]))


def _readable(color):
  """Black on bright colours, white on dark ones."""
  return 'black' if np.dot(color, (0.299, 0.587, 0.114)) > 140 else 'white'


def _place(draw, text, font, corners, size, written):
  """Where the name of a box stands: x1 y1 x2 y2, in the picture."""
  left, top, right, bottom = draw.textbbox((0, 0), text, font=font, anchor='lt')
  ascent, descent = font.getmetrics()
  width, height = right - left + 5, max(bottom - top, ascent + descent) + 1
  x1, y1, x2, y2 = corners
  candidates = [(x, y) for y in (y1 - height, y2 + 1, y1, y2 - height) for x in (x1, x2 - width)]
  places, with_room = [], [(x, y) for x, y in candidates if 0 <= y <= size[1] - height]
  for x, y in with_room or candidates:
    x, y = (round(min(max(value, 0), max(total - side, 0))) for value, total, side in (
        (x, size[0], width), (y, size[1], height)))
    places.append((x, y, x + width - 1, y + height - 1))
  return min(places, key=lambda place: sum(_shared(place, other) for other in written))


def _shared(first, second):
  """The area that two rectangles share."""
  width = min(first[2], second[2]) - max(first[0], second[0])
  height = min(first[3], second[3]) - max(first[1], second[1])
  return max(width, 0) * max(height, 0)
