"""Boxes drawn on images, and tables of COCO's figures."""

import numpy as np
import pytest

from kdseg_jax.coco_ap import FIGURES
from kdseg_jax.report import detection

PALETTE = np.array([(200, 30, 30), (250, 240, 60)], np.uint8)
BOXES = np.float32([[100, 100, 200, 180], [300, 200, 400, 300], [0, 0, 0, 0]])
LABELS = np.array([0, 1, -1])


def draw(image=None, boxes=BOXES, labels=LABELS, classes=('cat', 'dog'), **options):
  image = np.full((400, 500, 3), 90, np.uint8) if image is None else image
  return detection.draw_boxes(image, boxes, labels, classes=classes, palette=PALETTE, **options)


def colored(picture, color):
  return (picture == PALETTE[color]).all(axis=-1)


def test_each_box_has_its_colour_and_its_name_above_it_and_padding_has_none():
  picture = draw(scores=np.array([0.5, 0.75, 1.0]))
  assert picture.shape == (400, 500, 3) and picture.dtype == np.uint8
  for index, (x1, y1, x2, y2) in enumerate(BOXES[:2].astype(int)):
    own = colored(picture, index)
    assert own[y1, x1:x2].all() and own[y2 - 1, x1:x2].all()
    assert own[y1:y2, x1].all() and own[y1:y2, x2 - 1].all()
    assert not own[y1 + 5:y2 - 5, x1 + 5:x2 - 5].any()
    name = own[y1 - 12:y1 - 2, x1:x1 + 40]
    assert 0.4 < name.mean() < 1  # letters on its colour
  assert (picture[0, :90] == 90).all()
  np.testing.assert_array_equal(draw(labels=np.full(3, -1)), 90)


def test_letters_are_dark_on_bright_colours_and_bright_on_dark_ones():
  picture = draw().astype(int)
  assert picture[88:98, 100:130].max(axis=-1).max() > 240
  assert picture[88:98, 100:130].sum(axis=-1).min() > 150
  assert picture[188:198, 300:330].sum(axis=-1).min() < 60


def test_what_is_written_differs_by_score_and_crowd():
  pictures = [draw(), draw(scores=np.array([0.5, 0.5, 0])), draw(scores=np.array([0.5, 0.9, 0])),
              draw(crowd=np.array([True, False, False]))]
  for i, first in enumerate(pictures):
    for second in pictures[i + 1:]:
      assert not np.array_equal(first, second)
  thin = pictures[-1]
  assert not colored(thin, 0)[101, 120:180].any() and colored(draw(), 0)[101, 120:180].all()


def test_a_name_is_followed_by_its_score_in_percent_or_said_to_be_a_crowd():
  np.testing.assert_array_equal(
      draw(scores=np.array([0.756, 0.5, 0])), draw(classes=('cat 76%', 'dog 50%')))
  crowd = draw(scores=np.array([0.75, 0.5, 0]), crowd=np.array([True, False, False]))
  above = slice(0, 100)
  np.testing.assert_array_equal(crowd[above], draw(classes=('cat (crowd)', 'dog'))[above])


def test_the_surest_lies_over_the_others():
  boxes = np.float32([[50, 50, 150, 150], [50, 50, 150, 150]])
  for scores, first in (((0.9, 0.5), 0), ((0.5, 0.9), 1)):
    picture = draw(boxes=boxes, labels=np.array([0, 1]), scores=np.array(scores))
    assert colored(picture, first)[149, 50:150].all()


def test_names_of_equal_boxes_do_not_cover_each_other():
  boxes = np.float32([[150, 150, 250, 250]] * 2)
  picture = draw(boxes=boxes, labels=np.array([0, 1]))
  assert colored(picture, 1)[136:149].sum() > 150 and not colored(picture, 0)[136:149].sum() > 400
  assert (colored(picture, 0).sum(), colored(picture, 1).sum()) > (250, 250)


def test_boxes_at_the_rim_keep_their_names_inside_and_small_images_are_enlarged():
  small, corners = np.zeros((64, 64, 3), np.uint8), np.float32([[0, 0, 30, 20], [20, 30, 64, 64]])
  picture = draw(small, corners, np.array([0, 1]), scores=np.ones(2))
  assert picture.shape == (448, 448, 3)
  assert colored(picture, 0)[0, :210].all() and colored(picture, 0)[:140, 0].all()
  assert colored(picture, 1)[447, 140:].all() and colored(picture, 1)[210:, 447].all()
  around = draw(small, np.float32([[-5, -5, 80, 80]]), np.array([1]))
  assert colored(around, 1)[[0, 447]].all() and colored(around, 1)[:, [0, 447]].all()
  assert colored(around, 1)[2:12, 2:30].mean() > 0.4  # its name, inside


@pytest.mark.parametrize('top, bottom, rows', [
    (100, 160, (84, 99)),   # above
    (3, 60, (62, 75)),      # no room above: below
    (3, 390, (5, 16)), (240, 398, (224, 239))])
def test_a_name_stands_where_there_is_room(top, bottom, rows):
  picture = draw(boxes=np.float32([[50, top, 450, bottom]]), labels=np.array([0]))
  own = colored(picture, 0)[:, 55:80].any(axis=1)  # left of the middle, between the sides
  assert own[slice(*rows)].all()
  assert own.sum() < 24  # the name, and the two lines of the box


@pytest.mark.parametrize('shape, drawn', [
    ((60, 200), (120, 400)), ((200, 60), (400, 120)), ((100, 479), (100, 479)),
    ((240, 10), (480, 20)), ((600, 100), (600, 100))])
def test_the_longer_side_says_how_much_a_picture_is_enlarged(shape, drawn):
  assert draw(np.zeros((*shape, 3), np.uint8), np.zeros((0, 4)), np.zeros(0, int)).shape == (
      *drawn, 3)


def test_lines_and_letters_grow_with_large_pictures():
  sides = np.array([[0.2, 0.3, 0.8, 0.8]])
  widths, heights = [], []
  for side in (480, 1920):
    picture = draw(np.full((side, side, 3), 90, np.uint8), side * sides, np.array([0]))
    own = colored(picture, 0)
    bottom = np.flatnonzero(own[int(0.6 * side):, side // 2])
    widths.append(len(bottom))
    heights.append(own[:int(0.3 * side)].any(axis=1).sum())
  assert widths == [2, 4] and 1.7 < heights[1] / heights[0] < 2.3


def test_any_name_is_drawn():
  assert not np.array_equal(draw(classes=('道路', '$x_1$')), draw())


def test_tables_have_every_figure_and_class():
  metrics = dict.fromkeys(FIGURES, 0.125) | {'APl': -1.0, 'per_class_AP': [0.5, float('nan')]}
  lines = [[cell.strip() for cell in line.strip('|').split('|')]
           for line in detection.figures_table(metrics).splitlines()[2:]]
  assert [line[0] for line in lines] == list(FIGURES)
  assert {line[0]: line[2] for line in lines}['APl'] == '-' and lines[0][2] == '0.1250'
  table = detection.classes_table(('cat', 'dog'), metrics)
  assert '0.5000' in table and '-' in table.splitlines()[-1] and 'AP' in table.splitlines()[0]
