"""What the scheme of the nets for CIFAR sets; its names are tested with those of all schemes."""

import numpy as np
import pytest

from kdseg_jax.interop import conversion, schemes
from tests import official


def test_images_are_normalised_as_in_mdistiller():
  student = schemes.named('cifar').student
  np.testing.assert_allclose(student['mean'], 255 * np.array([0.5071, 0.4867, 0.4408]))
  np.testing.assert_allclose(student['std'], 255 * np.array([0.2675, 0.2565, 0.2761]))


@pytest.mark.parametrize('model, convolutions', [
    ('cifar_shufflenetv1', ['conv1', 'conv2', 'conv3']),
    # The left branch goes first: depthwise and 1x1; the right one has another 1x1 before.
    ('cifar_shufflenetv2', ['left1', 'left2', 'right1', 'right2', 'right3'])])
def test_the_convolutions_of_a_striding_block_are_numbered_branch_by_branch(model, convolutions):
  found = {layer.source: layer.ours for layer in schemes.named('cifar').layers(model)}
  for stage in (1, 2, 3):
    names = [found[f'layer{stage}.0.conv{i}'].split('/')[2]
             for i in range(1, len(convolutions) + 1)]
    assert names == convolutions and f'layer{stage}.0.conv{len(names) + 1}' not in found


def test_the_nearest_of_other_models_are_named():
  arrays = official.state_dict('mdistiller_vgg13', official.counted)
  with pytest.raises(conversion.WeightsError, match=r'not those of cifar_resnet8.* They are those '
                                                    r'of cifar_vgg13\. The first keys'):
    schemes.choose('cifar_resnet8', arrays)
