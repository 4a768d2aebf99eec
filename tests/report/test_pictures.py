"""Pictures of a confusion matrix, of affinities, of costs: what is drawn, and that it is drawn."""

import warnings

import numpy as np
import pytest

from kdseg_jax import lettering
from kdseg_jax.report import pictures
from kdseg_jax.tasks import MainMetric

MATRIX = np.array([[90, 10, 0, 0], [10, 10, 0, 0], [0, 0, 0, 0], [0, 0, 0, 7]])
CLASSES = ['sky', 'road', 'absent', 'car']

IMAGE = np.full((40, 80, 3), (10, 200, 30), np.uint8)
MAPS = {'teacher': np.array([[1, 0.5], [0.25, 0]]), 'student': np.array([[1, -0.5], [0, 1]])}


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


def test_affinities_are_drawn_over_the_image_on_one_scale_with_the_node_framed_in_all():
  *panels, bar = pictures._affinity_figure(IMAGE, (0, 1), MAPS).axes
  assert [axes.get_title() for axes in panels] == ['image', 'teacher', 'student']
  assert bar.get_ylabel() == 'cosine similarity'
  np.testing.assert_array_equal(panels[0].images[0].get_array(), IMAGE)
  for axes, values in zip(panels[1:], MAPS.values()):
    np.testing.assert_array_equal(axes.images[0].get_array(), values)
    assert axes.images[0].get_clim() == (-0.5, 1)
  for axes in panels:
    assert axes.images[0].get_extent() == [0, 80, 40, 0]
    (frame,) = axes.patches
    assert frame.get_bbox().bounds == (40, 0, 40, 20)  # row 0, column 1 of 2x2 nodes


def test_the_picture_of_affinities_shows_image_maps_and_frames():
  picture = pictures.affinity(IMAGE, (1, 0), MAPS)
  assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
  colors, counts = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
  found = dict(zip(map(tuple, colors.tolist()), counts))
  lowest, highest = (68, 1, 84), (253, 231, 36)  # the ends of viridis
  # A quarter of the student's map is lowest; one of the teacher's and two of its own highest.
  assert 2.5 * found[lowest] < found[highest] < 4 * found[lowest]
  assert found[10, 200, 30] > 3 * found[lowest]
  assert found[255, 0, 0] > 100


@pytest.mark.parametrize('node,maps,message', [
    ((0, 2), MAPS, r'node=\(0, 2\) is outside the maps, which are 2x2'),
    ((-1, 0), MAPS, r'node=\(-1, 0\) is outside'),
    ((0, 0), MAPS | {'other': np.eye(3)}, r'one shape, got shapes \[\(2, 2\), .*\(3, 3\)'),
    ((0, 0), {'flat': np.ones(4)}, r'maps \(h, w\) of one shape, got shapes \[\(4,\)\]'),
    ((0, 0), {}, r'Expected one or more maps'),
])
def test_affinities_that_cannot_be_drawn_are_refused(node, maps, message):
  with pytest.raises(ValueError, match=message):
    pictures.affinity(IMAGE, node, maps)


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
  figure = pictures._affinity_figure(IMAGE, (0, 1), {'学生': MAPS['teacher'], '\ue000': np.eye(2)})
  assert [axes.get_title() for axes in figure.axes[:3]] == ['image', 'XueSheng', 'map 2']
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
  assert [text.get_text() for text in axes.get_legend().get_texts()] == list(LINES)


def test_the_picture_of_costs_has_a_colour_a_line():
  picture = pictures.tradeoff(LINES, METRIC)
  found = set(map(tuple, picture.reshape(-1, 3).tolist()))
  assert picture.dtype == np.uint8 and {(31, 119, 180), (255, 127, 14)} <= found


def test_no_model_has_no_picture():
  with pytest.raises(ValueError, match='There is no model'):
    pictures.tradeoff({'alone': []}, METRIC)
