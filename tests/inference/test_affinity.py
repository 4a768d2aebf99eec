"""The affinity of an image's pixels to one of them: by hand, by toy models, refusals."""

import dataclasses

import flax.linen as nn
import numpy as np
import pytest
from ml_collections import ConfigDict

from kdseg_jax.errors import UserError
from kdseg_jax.inference import affinity
from tests import toys


class EveryOther(nn.Module):
  """Every other pixel is a feature."""

  @nn.compact
  def __call__(self, image, mask=None, index=None, train=False):
    x = image[:, ::2, ::2].astype(np.float32)
    return x, {'embedding': x, 'stage4': x + 1}


HALVES = np.zeros((4, 8, 3), np.uint8)
HALVES[:, :4, 0], HALVES[:, 4:, 2] = 200, 100  # red and blue


def test_cosines_are_those_by_hand_and_zero_vectors_have_none():
  features = np.float32([[(1, 0), (0, 2), (-2, 0)], [(3, 3), (0, 0), (1, 0)]])
  np.testing.assert_allclose(
      affinity.cosines(features, (0, 0)), [[1, 0, -1], [0.5**0.5, 0, 1]], rtol=1e-6)
  np.testing.assert_array_equal(affinity.cosines(features, (1, 1)), np.zeros((2, 3)))


@pytest.mark.parametrize('pixel, size, nodes, expected', [
    ((0, 0), (180, 240), (12, 15), (0, 0)), ((239, 179), (180, 240), (12, 15), (11, 14)),
    ((8, 8), (180, 240), (12, 15), (0, 0)), ((9, 9), (180, 240), (12, 15), (1, 1)),
    ((3, 2), (4, 8), (4, 8), (2, 3)), ((0, 0), (1, 1), (1, 1), (0, 0)),
    ((5, 0), (1, 6), (1, 3), (0, 2))])
def test_the_nearest_node_is_taken_with_corners_aligned(pixel, size, nodes, expected):
  assert affinity.node_of(pixel, size, nodes) == expected


def test_the_last_features_of_a_model_are_compared():
  found = affinity.affinity(toys.loaded(EveryOther()), HALVES, (1, 1))
  np.testing.assert_allclose(found, [[1, 1, 0, 0], [1, 1, 0, 0]], atol=1e-6)
  found = affinity.affinity(toys.loaded(EveryOther()), HALVES, (7, 0))
  np.testing.assert_allclose(found, [[0, 0, 1, 1], [0, 0, 1, 1]], atol=1e-6)


def test_the_model_sees_images_at_the_size_of_its_config_and_pixels_are_those_of_the_image():
  model = toys.loaded(EveryOther())
  config = ConfigDict(model.config)
  config.data.size = (2, 4)
  for pixel, expected in (((1, 1), [[1, 0]]), ((3, 0), [[1, 0]]), ((4, 3), [[0, 1]])):
    found = affinity.affinity(dataclasses.replace(model, config=config), HALVES, pixel)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize('pixel', [(8, 0), (0, 4), (-1, 0)])
def test_a_pixel_outside_is_refused_with_the_size_of_the_image(pixel):
  with pytest.raises(UserError, match=r'x=-?\d, y=\d is outside the image, which is 8 wide and 4 '
                                      'high: expected x from 0 to 7 and y from 0 to 3'):
    affinity.affinity(toys.loaded(EveryOther()), HALVES, pixel)


def test_without_a_map_of_embeddings_the_deepest_stage_is_shown():
  image, vector = np.zeros((1, 2, 2, 3)), np.zeros((1, 3))
  stages = {'stage2': image, 'stage10': image, 'stage3': image, 'stage11_preactivation': image}
  assert affinity.last_map(stages | {'embedding': image}) == 'embedding'
  assert affinity.last_map(stages | {'embedding': vector}) == 'stage10'
  assert affinity.last_map(stages | {'stage10': vector, 'cls': (image,)}) == 'stage3'


def test_a_model_without_a_map_is_refused():
  model = toys.loaded(toys.Classifier(), toys.variables(toys.Classifier(), HALVES[None]))
  with pytest.raises(UserError, match=r"no map of features.*it has \['embedding', 'logits', 'pool"):
    affinity.affinity(model, HALVES, (0, 0))
