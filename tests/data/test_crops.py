"""The centres of images against torchvision's rule."""

import pickle

import numpy as np
import pytest

from kdseg_jax import data
from kdseg_jax.data import crops, files


@pytest.mark.parametrize('size,resized,corner', [
    ((375, 500), (256, 341), (16, 58)),  # torchvision: int(256 * 500 / 375), round((341 - 224) / 2)
    ((500, 333), (384, 256), (80, 16)), ((224, 300), (256, 342), (16, 59)),
    ((256, 256), (256, 256), (16, 16)), ((256, 343), (256, 343), (16, 60)),
    ((2, 9), (256, 1152), (16, 464))])
def test_the_shorter_side_is_resized_and_the_centre_kept(size, resized, corner):
  image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
  got = crops.centre(image, 256, (224, 224))
  whole = image if size == resized else files.resize_image(image, resized)
  window = tuple(slice(start, start + 224) for start in corner)
  np.testing.assert_array_equal(got, whole[window])


def test_a_source_of_centres_keeps_all_else():
  scenes = data.create('scene_classes', 'val', size=(40, 50))
  centres = data.Centres(scenes, 20, (16, 18))
  assert len(centres) == len(scenes) and centres.size == (16, 18) and centres.is_generated
  assert centres.classes == scenes.classes
  np.testing.assert_array_equal(centres.palette, scenes.palette)
  got, want = pickle.loads(pickle.dumps(centres))[3], scenes[3]
  np.testing.assert_array_equal(got.pop('image'), crops.centre(want.pop('image'), 20, (16, 18)))
  assert got.keys() == want.keys() and got['label'] == want['label']
