"""Published ImageNet weights against the logits of the models that they are of."""

import os
import pathlib

import jax
import numpy as np
import pytest
from flax import traverse_util
from sklearn.datasets import load_sample_images

from kdseg_jax import models
from kdseg_jax.interop import download, pretrained
from kdseg_jax.models.backbones import BACKBONES

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'imagenet.npz'
STAGES = {'stage1': 'features.3', 'stage2': 'features.6', 'stage3': 'features.13',
          'stage4': 'features.17'}  # of MobileNetV2


def require_weights(backbone):
  """Skips where they are not on this machine, unless the tests may download."""
  weights = next(iter(BACKBONES[backbone].weights.values()))
  if os.environ.get('KDSEG_TEST_DOWNLOADS') != '1' and download.find(download.Source(
      weights.file, weights.sha256, weights.url, weights.package)) is None:
    pytest.skip(f'{weights.file} is not here; KDSEG_TEST_DOWNLOADS=1 downloads it')


@pytest.mark.slow
@pytest.mark.parametrize('backbone, name', [
    ('mobilenetv2', 'mobilenet_v2'), ('efficientnet_lite0', 'efficientnet_lite0'),
    ('efficientnet_lite2', 'efficientnet_lite2')])
def test_logits(backbone, name):
  require_weights(backbone)
  found = pretrained.load('imagenet', backbone)
  variables = traverse_util.unflatten_dict(found.variables, sep='/')
  photos = np.stack([image[100:324, 200:424] for image in load_sample_images().images])
  logits, taps = jax.jit(models.create(backbone, 1000).apply)(variables, photos)
  with np.load(GOLDEN) as golden:
    for i, photo in enumerate(('china', 'flower')):
      expected = golden[f'{name}/{photo}/logits']
      np.testing.assert_allclose(logits[i], expected, rtol=0, atol=1e-4 * expected.std())
      if backbone == 'mobilenetv2':
        for stage, official in STAGES.items():
          mean = golden[f'{name}/{photo}/{official}/mean']
          np.testing.assert_allclose(np.mean(taps[stage][i], axis=(0, 1)), mean, rtol=0,
                                     atol=1e-4 * mean.std())
