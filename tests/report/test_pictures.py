"""Pictures of a confusion matrix and of costs: what is drawn, and that it is drawn."""

import warnings

import numpy as np
import pytest

from kdseg_jax import lettering
from kdseg_jax.coco_ap import Curves
from kdseg_jax.report import pictures
from kdseg_jax.tasks import MainMetric

MATRIX = np.array([[90, 10, 0, 0], [10, 10, 0, 0], [0, 0, 0, 0], [0, 0, 0, 7]])
CLASSES = ['sky', 'road', 'absent', 'car']


def test_cells_are_shares_of_their_row_and_an_absent_class_is_left_out():
  axes = pictures._confusion_figure(MATRIX, CLASSES).axes[0]
  drawn = axes.images[0].get_array()
  np.testing.assert_allclose(drawn.filled(-1), [
      [0.9, 0.1, 0, 0], [0.5, 0.5, 0, 0], [-1] * 4, [0, 0, 0, 1]])
  assert axes.images[0].get_clim() == (0, 1)
  for axis in (axes.xaxis, axes.yaxis):
    assert [label.get_text() for label in axis.get_ticklabels()] == CLASSES
  assert axes.get_xlabel() == 'predicted' and axes.get_ylabel() == 'label'
  values = {text.get_position()[::-1]: text.get_text() for text in axes.texts}
  assert values[0, 0] == '90' and values[0, 1] == '10' and values[3, 3] == '100'
  assert values[0, 2] == '' and (2, 2) not in values
  colors = {text.get_position()[::-1]: text.get_color() for text in axes.texts}
  assert colors[0, 0] == 'white' and colors[0, 1] == colors[1, 0] == '0.2'


def test_colours_of_a_confusion_matrix_are_from_0_to_100_percent_whatever_its_shares():
  figure = pictures._confusion_figure(np.array([[6, 4], [3, 7]]), ['a', 'b'])
  assert figure.axes[0].images[0].get_clim() == (0, 1)
  bar = figure.axes[1]
  assert bar.get_ylim() == (0, 1) and bar.get_ylabel() == "share of the label's pixels"
  figure.draw_without_rendering()
  labels = [label.get_text() for label in bar.get_yticklabels()]
  assert labels[0] == '0 %' and labels[-1] == '100 %'


def test_more_than_25_classes_have_no_values():
  for count, values in ((25, 25**2), (26, 0)):
    figure = pictures._confusion_figure(np.eye(count), [str(i) for i in range(count)])
    assert len(figure.axes[0].texts) == values


def test_the_picture_shows_the_colours_of_its_cells():
  picture = pictures.confusion(MATRIX, CLASSES)
  assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
  colors, counts = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
  found = dict(zip(map(tuple, colors.tolist()), counts))
  grey, darkest = (217, 217, 217), (8, 48, 107)  # the absent class, and 100 %
  assert found[grey] > 3 * found[darkest] > 1000
  assert found[255, 255, 255] == max(counts)


@pytest.mark.parametrize('share,text', [
    (0.0, ''), (0.0004, '0.0'), (0.012, '1.2'), (0.0996, '10'), (1.0, '100')])
def test_values_have_two_digits(share, text):
  assert pictures._percent(share) == text


def test_wrong_shapes_and_file_names_are_refused():
  with pytest.raises(ValueError, match=r'of 2 classes, got shape \(3, 3\)'):
    pictures.confusion(np.eye(3), ['a', 'b'])
  with pytest.raises(ValueError, match='--confusion=a.jpg: expected .* PNG'):
    pictures.check_png('a.jpg', 'confusion')
  pictures.check_png('A.PNG', 'confusion')


def test_names_are_drawn_as_they_are_or_in_latin_letters(monkeypatch):
  monkeypatch.setattr(lettering, '_system_fonts', lambda: ())
  names = ['$a$ and $b$', 'Straße', '道路', '\ue000']
  drawn = ['$a$ and $b$', 'Straße', 'DaoLu', 'class 3']
  axes = pictures._confusion_figure(np.eye(4), names).axes[0]
  for axis in (axes.xaxis, axes.yaxis):
    assert [label.get_text() for label in axis.get_ticklabels()] == drawn
    for label in axis.get_ticklabels():
      assert not label.get_parse_math()
      assert lettering.can_draw(label.get_text(), label.get_fontproperties().get_file())
  with warnings.catch_warnings():
    warnings.simplefilter('error')  # matplotlib warns of every missing glyph
    pictures.confusion(np.eye(4), names)


METRIC = MainMetric('mean_iou', 'mIoU', scale=100, unit='%')
LINES = {
    'alone': [pictures.Point('stride 8', 4e9, 0.5, [0.45, 0.6]), pictures.Point('16', 1e9, 0.4)],
    'adapted to $T$': [pictures.Point('16', 1e9, 0.55, [0.5, 0.6])]}


def test_scores_are_drawn_against_costs():
  axes = pictures._tradeoff_figure(LINES, METRIC).axes[0]
  alone, adapted = axes.containers
  np.testing.assert_allclose(alone.lines[0].get_xydata(), [[1, 40], [4, 50]])
  np.testing.assert_allclose(adapted.lines[0].get_xydata(), [[1, 55]])
  np.testing.assert_allclose(  # from the lower to the upper end of the interval, if there is one
      alone.lines[2][0].get_segments(), [[[1, 40], [1, 40]], [[4, 45], [4, 60]]])
  assert axes.get_xscale() == 'log' and axes.get_ylabel() == 'mIoU, %'
  assert [text.get_text() for text in axes.texts] == ['16', 'stride 8', '16']
  legend = axes.get_legend().get_texts()
  assert [text.get_text() for text in legend] == list(LINES)
  assert not any(text.get_parse_math() for text in legend)
  plain = pictures._tradeoff_figure(LINES, MainMetric('error', 'mean error')).axes[0]
  assert plain.get_ylabel() == 'mean error'
  np.testing.assert_allclose(plain.containers[0].lines[0].get_ydata(), [0.4, 0.5])


def test_the_picture_of_costs_has_a_colour_a_line():
  picture = pictures.tradeoff(LINES, METRIC)
  found = set(map(tuple, picture.reshape(-1, 3).tolist()))
  assert picture.dtype == np.uint8 and {(31, 119, 180), (255, 127, 14)} <= found


def test_no_model_has_no_picture():
  with pytest.raises(ValueError, match='There is no model'):
    pictures.tradeoff({'alone': []}, METRIC)


def test_precision_is_the_mean_of_the_classes_that_are_there():
  values = np.full((10, 101, 4), -1.0)
  values[:, :, 1] = np.linspace(1, 0.1, 10)[:, None]
  values[:, :, 3] = 0.5 * values[:, :, 1]
  lines = pictures._precision_figure(values).axes[0].lines
  for line, place, label in zip(lines, (0, 5, 8), (0.5, 0.75, 0.9), strict=True):
    mean = 0.75 * values[place, 0, 1]
    np.testing.assert_allclose(line.get_ydata(), np.full(101, mean))
    assert line.get_label() == f'IoU {label}: {mean:.3f}'
    np.testing.assert_allclose(line.get_xdata(), np.linspace(0, 1, 101))
  with pytest.raises(ValueError, match='no object whose precision'):
    pictures._precision_figure(np.full((10, 101, 4), -1.0))


def test_a_class_whose_precision_falls_to_0_is_part_of_the_mean():
  values = np.ones((10, 101, 2))
  values[:, 51:, 1] = 0
  for line in pictures._precision_figure(values).axes[0].lines:
    np.testing.assert_allclose(line.get_ydata(), np.where(np.arange(101) < 51, 1, 0.5))


def test_precision_is_drawn_of_objects_of_every_size():
  precision = np.full((10, 101, 1, 4), -1.0)
  precision[..., 0] = 0.5  # the other areas have no objects
  picture = pictures.precision(Curves(precision, np.full((10, 1, 4, 3), -1.0)))
  assert picture.dtype == np.uint8 and picture.shape == (600, 750, 3)
