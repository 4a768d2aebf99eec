"""Masks from COCO's segmentations, by hand and against figures made otherwise."""

import numpy as np
import pytest

from kdseg_jax.data import coco_masks


def test_a_pixel_is_inside_where_its_centre_is():
  mask = coco_masks.mask([[1.4, 0.6, 3.6, 0.6, 3.6, 2.4, 1.4, 2.4]], (4, 5), 'a')
  expected = np.zeros((4, 5), bool)
  expected[1, 1:4] = True  # centres at 1.5; 1.5, 2.5, 3.5
  np.testing.assert_array_equal(mask, expected)


def test_polygons_of_an_object_are_united_and_those_outside_are_cut():
  squares = [[-5, -5, 2, -5, 2, 2, -5, 2], [1, 1, 9, 1, 9, 3, 1, 3]]
  expected = np.zeros((4, 5), bool)
  expected[:2, :2] = expected[1:3, 1:] = True
  np.testing.assert_array_equal(coco_masks.mask(squares, (4, 5), 'a'), expected)


def test_polygons_that_share_an_edge_through_centres_share_no_pixel_and_leave_none_out():
  left, right = [0.5, 0.5, 2.5, 0.5, 2.5, 3.5, 0.5, 3.5], [2.5, 0.5, 4.5, 0.5, 4.5, 3.5, 2.5, 3.5]
  upper, lower = [0.5, 0.5, 4.5, 0.5, 4.5, 3.5], [0.5, 0.5, 4.5, 3.5, 0.5, 3.5]
  whole = np.zeros((5, 6), int)
  whole[:3, :4] = 1  # as many pixels as the area is
  for parts in ((left, right), (upper, lower)):
    masks = [coco_masks.mask([part], (5, 6), 'a').astype(int) for part in parts]
    np.testing.assert_array_equal(sum(masks), whole)


@pytest.mark.parametrize('corners', [3, 5, 12])
def test_regular_polygons(corners):
  """By the half-planes of their edges."""
  size, centre, radius = (40, 50), np.array([26.3, 19.7]), 15
  angles = 2 * np.pi * np.arange(corners) / corners + 0.3
  points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], -1)
  grid = np.stack(np.meshgrid(np.arange(50) + 0.5, np.arange(40) + 0.5), -1) - centre
  middles = angles + np.pi / corners
  along = grid @ np.stack([np.cos(middles), np.sin(middles)])
  expected = (along < radius * np.cos(np.pi / corners)).all(-1)
  np.testing.assert_array_equal(coco_masks.mask([points.ravel().tolist()], size, 'a'), expected)


def test_a_polygon_that_crosses_itself_is_empty_where_it_winds_twice():
  """The pentagram: 5 points in the order that leaves the middle out."""
  angles = 4 * np.pi * np.arange(5) / 5
  points = 20 + 18 * np.stack([np.cos(angles), np.sin(angles)], -1)
  mask = coco_masks.mask([points.ravel().tolist()], (40, 40), 'a')
  assert not mask[20, 20] and mask[20, 35]


def test_runs_go_down_the_columns_and_begin_outside():
  expected = np.array([[0, 0, 1], [0, 1, 0]], bool)
  np.testing.assert_array_equal(
      coco_masks.mask({'counts': [3, 2, 1], 'size': [2, 3]}, (2, 3), 'a'), expected)
  np.testing.assert_array_equal(coco_masks.mask({'counts': [0, 6]}, (2, 3), 'a'), np.ones((2, 3)))


def compressed(counts):
  """The text form from its description: 5 bits a character, differences from the fourth on."""
  text = ''
  for i, count in enumerate(counts):
    rest = count - counts[i - 2] if i > 2 else count
    while True:
      group, rest = rest & 31, rest >> 5
      more = rest != (-1 if group & 16 else 0)
      text += chr(48 + group + 32 * more)
      if not more:
        break
  return text


def test_compressed_runs():
  counts = [0, 1, 31, 32, 1000, 5, 3, 70_000, 15, 16, 2]
  assert coco_masks.decompress(compressed(counts)) == counts
  expected = np.zeros((4, 4), bool)
  expected[1:3, 1:3] = True
  # What pycocotools writes of it.
  np.testing.assert_array_equal(coco_masks.mask({'counts': '52203'}, (4, 4), 'a'), expected)


@pytest.mark.parametrize('segmentation, message', [
    ('text', 'neither a list of polygons nor runs'), (None, 'neither a list of polygons'),
    ([[1, 2, 3, 4]], 'three or more points'), ([[1, 2, 3, 4, 5, 6, 7]], 'three or more points'),
    ([[1, 2, 3, 4, 5, float('nan')]], 'three or more points'), ([['a'] * 6], 'three or more'),
    ({'counts': [3, 2]}, 'do not fill the 2x3'), ({'counts': [7, -1]}, 'do not fill the 2x3'),
    ({'counts': [10**30, 6]}, 'do not fill the 2x3'), ({'counts': 6}, 'do not fill the 2x3'),
    ([[10**400, 2, 3, 4, 5, 6]], 'three or more points'),
    ({'counts': [2.5, 3.5]}, 'do not fill the 2x3'), ({'counts': '5'}, 'do not fill the 2x3')])
def test_wrong_segmentations(segmentation, message):
  with pytest.raises(ValueError, match=f'annotation 7: .*{message}'):
    coco_masks.mask(segmentation, (2, 3), 'annotation 7')
