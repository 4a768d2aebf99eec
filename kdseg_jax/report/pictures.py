"""Pictures of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdseg_jax import extras, lettering
from kdseg_jax.coco_ap import Curves
from kdseg_jax.errors import UserError
from kdseg_jax.tasks import MainMetric

_MOST_CLASSES_WITH_VALUES = 25


def check_png(path: str, option: str) -> None:
  """Raises ValueError unless a picture can be drawn, into the file ending in .png of an option."""
  if not path.lower().endswith('.png'):
    raise UserError(f'--{option}={path}: expected the name of a PNG file, ending in .png.')
  extras.require('report', 'matplotlib', f'--{option}')


def confusion(matrix: np.ndarray, classes: Sequence[str], *, counted: str = 'pixels'
              ) -> np.ndarray:
  """Draws a confusion matrix, each row divided by its sum.

  Rows are labels, columns predictions, so that the diagonal holds each class's recall. Up to 25
  classes, every cell shows its value in percent; the row of a class that has no labels is grey.

  Args:
    matrix: `(C, C)` counts, rows = labels.
    classes: C names.
    counted: what the counts are of.

  Returns:
    `(H, W, 3)` uint8 RGB.

  Raises:
    ValueError: the matrix is not (C, C).
  """
  return _drawn(_confusion_figure(matrix, classes, counted))


class Point(NamedTuple):
  """What one model costs and how it scores.

  Attributes:
    label: that stands at it.
    macs: multiply-adds of an image.
    value: of the metric.
    interval: [low, high] of it; None for none.
  """

  label: str
  macs: float
  value: float
  interval: Sequence[float] | None = None


def tradeoff(lines: Mapping[str, Sequence[Point]], metric: MainMetric) -> np.ndarray:
  """Draws how models score against their multiply-adds, which have a logarithmic axis.

  Args:
    lines: title -> the models that a line joins, in the order of their multiply-adds.
    metric: of the values.

  Returns:
    `(H, W, 3)` uint8 RGB.

  Raises:
    ValueError: there is no model.
  """
  return _drawn(_tradeoff_figure(lines, metric))


def precision(curves: Curves) -> np.ndarray:
  """Draws precision over recall, the mean of all classes, at the IoUs 0.5, 0.75 and 0.9.

  Args:
    curves: of `CocoResults`.

  Returns:
    `(H, W, 3)` uint8 RGB.
  """
  return _drawn(_precision_figure(curves.precision[..., 0]))


def conflict(found: Mapping[str, Any]) -> np.ndarray:
  """Draws how often a teacher and the targets of a student disagree, and mean distances.

  Args:
    found: of `tasks.detection.conflict.summarize`.

  Returns:
    `(H, W, 3)` uint8 RGB.

  Raises:
    UserError: there is no positive position.
  """
  return _drawn(_conflict_figure(found))


def _drawn(figure):
  # Slow to import, and only pictures need it.
  from matplotlib.backends.backend_agg import FigureCanvasAgg

  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3]


def _confusion_figure(matrix, classes, counted='pixels'):
  from matplotlib.figure import Figure  # not pyplot, which keeps global state

  count = len(classes)
  if np.shape(matrix) != (count, count):
    raise UserError(
        f'Expected a confusion matrix of {count} classes, got shape {np.shape(matrix)}.')
  matrix = np.asarray(matrix, np.float64)
  totals = matrix.sum(axis=1, keepdims=True)
  shares = np.ma.masked_array(matrix / np.maximum(totals, 1),
                              np.broadcast_to(totals == 0, matrix.shape))
  few = count <= _MOST_CLASSES_WITH_VALUES
  side, font = (0.48 * count, 9) if few else (0.16 * count, 6)  # inches, points
  figure = Figure(figsize=(side + 3.2, side + 2.4), layout='constrained', dpi=150)
  axes = figure.subplots()
  axes.set_facecolor('0.85')
  drawn = axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
  names, style = _lettered(classes, 'class {}', font)
  axes.set_xticks(range(count), names, rotation=90, **style)
  axes.set_yticks(range(count), names, **style)
  axes.set_xlabel('predicted')
  axes.set_ylabel('label')
  bar = figure.colorbar(drawn, ax=axes, shrink=0.6, format=lambda share, _: f'{100 * share:.0f} %')
  bar.set_label(f"share of the label's {counted}")
  if few:
    for row, column in np.argwhere(~np.ma.getmaskarray(shares)):
      share = shares[row, column]
      axes.text(column, row, _percent(share), ha='center', va='center', fontsize=8,
                color='white' if share > 0.5 else '0.2')
  return figure


def _tradeoff_figure(lines, metric):
  from matplotlib.figure import Figure

  if not any(lines.values()):
    raise UserError('There is no model whose cost and score could be drawn.')
  figure = Figure(figsize=(6, 4), layout='constrained', dpi=150)
  axes = figure.subplots()
  titles, style = _lettered(list(lines), 'line {}', 9)
  for title, points in zip(titles, lines.values()):
    points = sorted(points, key=lambda point: point.macs)
    x = [point.macs / 1e9 for point in points]
    y = np.array([metric.scale * point.value for point in points])
    ends = metric.scale * np.array([point.interval or [point.value] * 2 for point in points])
    drawn = axes.errorbar(x, y, yerr=abs(ends.T - y), marker='o', capsize=3, label=title)
    for point, across, up in zip(points, x, y):
      axes.annotate(point.label, (across, up), xytext=(5, 4), textcoords='offset points',
                    fontsize=8, color=drawn.lines[0].get_color())
  axes.set_xscale('log')
  axes.set_xlabel('multiply-adds of an image, 1e9')
  axes.set_ylabel(f'{metric.title}, {metric.unit}'.rstrip(', '))
  axes.grid(alpha=0.3, which='both')
  for text in axes.legend(prop=style['fontproperties']).get_texts():
    text.set_parse_math(False)
  return figure


def _precision_figure(values):
  from matplotlib.figure import Figure

  present = (values > -1).all(axis=(0, 1))
  if not present.any():
    raise UserError('There is no object whose precision could be drawn.')
  figure = Figure(figsize=(5, 4), layout='constrained', dpi=150)
  axes = figure.subplots()
  for iou in (0.5, 0.75, 0.9):
    mean = values[round((iou - 0.5) / 0.05)][:, present].mean(axis=1)
    axes.plot(np.linspace(0, 1, len(mean)), mean, label=f'IoU {iou}: {mean.mean():.3f}')
  axes.set(xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02))
  axes.grid(alpha=0.3)
  axes.legend()
  return figure


def _conflict_figure(found):
  from matplotlib.figure import Figure

  if not found['positive']:
    raise UserError('There is no object that is assigned, of which conflict could be drawn.')
  figure = Figure(figsize=(9, 3.8), layout='constrained', dpi=150)
  curves, bars = figure.subplots(1, 2)
  thresholds = found['thresholds']
  curves.plot(thresholds, found['positive_share'], marker='.', label='positive positions')
  curves.plot(thresholds, found['background_ratio'], marker='.', label='background')
  curves.set(xlabel='discrepancy of teacher and target above',
             ylabel='positions, per positive one', xlim=(0, 1), ylim=(0, None))
  curves.legend()
  groups = {'scores,\npositive': 'positive_scores',
            'scores, conflict\nabove 0.5': 'conflict_scores',
            'boxes (1 - IoU),\npositive': 'positive_boxes'}
  places, width = np.arange(len(groups)), 0.27
  for i, pair in enumerate(('student_target', 'teacher_target', 'student_teacher')):
    heights = [found[name][pair] for name in groups.values()]
    bars.bar(places + (i - 1) * width, heights, width, label=' to '.join(pair.split('_')))
  bars.set_xticks(places, list(groups))
  bars.set(ylabel='mean distance', ylim=(0, 1))
  bars.legend()
  for axes in (curves, bars):
    axes.grid(alpha=0.3, axis='y')
  return figure


def _lettered(texts, instead, size):
  """Texts as they are to be drawn, and how: in a font that has their glyphs, '$' as it is."""
  from matplotlib.font_manager import FontProperties

  texts, path = lettering.letter(texts, instead=instead)
  return texts, {'fontproperties': FontProperties(fname=path, size=size), 'parse_math': False}


def _percent(share):
  """'' for none, one digit after the point where it says something."""
  percent = 100 * share
  if not percent:
    return ''
  return f'{percent:.1f}' if percent < 9.95 else f'{percent:.0f}'
