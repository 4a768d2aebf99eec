"""What the scheme of the nets for CIFAR sets; its names are tested with those of all schemes."""

import numpy as np
import pytest

from kdseg_jax.interop import conversion, schemes
from tests import official


def test_images_are_normalised_as_in_mdistiller():
  student = schemes.named('cifar').student
  np.testing.assert_allclose(student['mean'], 255 * np.array([0.5071, 0.4867, 0.4408]))
  np.testing.assert_allclose(student['std'], 255 * np.array([0.2675, 0.2565, 0.2761]))


def test_the_nearest_of_other_models_are_named():
  arrays = official.state_dict('mdistiller_vgg13', official.counted)
  with pytest.raises(conversion.WeightsError, match=r'not those of cifar_resnet8.* They are those '
                                                    r'of cifar_vgg13\. The first keys'):
    schemes.choose('cifar_resnet8', arrays)
