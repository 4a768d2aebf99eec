"""What keeps divisions from 0, by hand: of vectors as short as it, so not of length 1."""

import numpy as np
import pytest

from kdseg_jax import losses
from kdseg_jax.losses import cross_head, cross_image

SHORT = np.float32([3e-9, 4e-9])  # of length 5e-9
LONG = np.float32([3, 4])


def pixels(vector, count=2):
  """A map of equal pixels."""
  return np.tile(vector, (1, 1, count, 1))


def test_embeddings_are_divided_by_1e_8_at_least():
  np.testing.assert_allclose(cross_image.normalize(SHORT), [0.3, 0.4], rtol=1e-5)
  np.testing.assert_allclose(cross_image.normalize(LONG), [0.6, 0.8], rtol=1e-5)


@pytest.mark.parametrize('q, length', [(2, 5e-9), (1, 7e-9)])
def test_directions_of_features_are_divided_by_1e_8_more_than_their_length(q, length):
  found = losses.feature_adaptation(pixels(SHORT), pixels(0 * LONG), p=2, q=q)
  np.testing.assert_allclose(found, 5e-9 / (length + 1e-8), rtol=1e-5)


def test_channels_are_divided_by_1e_6_more_than_their_deviation():
  x = np.float32([-1e-6, 1e-6]).reshape(1, 1, 2, 1)  # of the deviation 1e-6 * sqrt(2)
  np.testing.assert_allclose(
      cross_head.standardise(x, None).ravel(), [1 - np.sqrt(2), np.sqrt(2) - 1], rtol=1e-4)


def test_pixels_and_the_centre_of_their_class_are_divided_by_1e_8_at_least():
  found = losses.intra_class_variation(
      pixels(SHORT), pixels(LONG), np.zeros((1, 1, 2), int), num_classes=2)
  # Halves of unit vectors, whose product is 1/4; the teacher's is 1.
  np.testing.assert_allclose(found, (1 - 0.25)**2, rtol=1e-4)


def test_attention_maps_are_divided_by_1e_12_at_least():
  found = losses.attention_transfer(pixels(np.float32([5e-7])), pixels(np.float32([1])))
  np.testing.assert_allclose(found, (np.sqrt(0.5) - 0.25)**2, rtol=1e-4)


@pytest.mark.parametrize('loss, value', [
    (losses.iou_log, -np.log(1e-6)), (losses.giou, 1), (losses.diou, 1)])
def test_boxes_without_area_do_not_overlap_even_at_one_point(loss, value):
  point = np.float32([[3, 4, 3, 4]])
  np.testing.assert_allclose(loss(point, point), value, rtol=1e-5)
