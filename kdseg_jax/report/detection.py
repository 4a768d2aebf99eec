"""Boxes for people: drawn on their image with class and score, and tables of COCO's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw

from kdseg_jax import lettering
from kdseg_jax.coco_ap import FIGURES
from kdseg_jax.report import tables

_LEAST_SIDE = 480       # of the longer side: smaller images are enlarged
_LETTERS = 12           # pixels of letters in an image of that size; they grow slower than it
_MEANING = {
    'AP': 'IoU 0.50 to 0.95', 'AP50': 'IoU 0.50', 'AP75': 'IoU 0.75',
    'APs': 'objects up to 32x32', 'APm': 'up to 96x96', 'APl': 'larger',
    'AR1': '1 detection an image', 'AR10': '10 detections', 'AR100': '100 detections',
    'ARs': 'objects up to 32x32', 'ARm': 'up to 96x96', 'ARl': 'larger'}


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
  places = []
  for x, y in candidates:
    x, y = (round(min(max(value, 0), max(total - side, 0))) for value, total, side in (
        (x, size[0], width), (y, size[1], height)))
    places.append((x, y, x + width - 1, y + height - 1))
  return min(places, key=lambda place: sum(_shared(place, other) for other in written))


def _shared(first, second):
  """The area that two rectangles share."""
  width = min(first[2], second[2]) - max(first[0], second[0])
  height = min(first[3], second[3]) - max(first[1], second[1])
  return max(width, 0) * max(height, 0)
