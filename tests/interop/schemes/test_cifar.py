"""Names of layers against those of the sources; see tests/golden/README.md."""

import collections
import json
import pathlib

import numpy as np
import pytest

from kdseg_jax.interop import conversion, schemes, structure
from kdseg_jax.interop.schemes import cifar
from kdseg_jax.models.cifar import BACKBONES
from tests.interop import states

GOLDEN = pathlib.Path(__file__).parents[2] / 'golden' / 'cifar.json'
DEEP = ('cifar_resnet56', 'cifar_resnet32x4', 'cifar_wrn_40_1', 'cifar_wrn_40_2')


def weights(arrays):
  return {key.removesuffix('.weight'): list(array.shape) for key, array in arrays.items()
          if key.endswith('.weight')}


@pytest.mark.parametrize('model', [
    'cifar_resnet20', 'cifar_resnet8x4', 'cifar_wrn_16_2', 'cifar_vgg8', 'cifar_vgg13',
    'cifar_mobilenetv2_half', 'cifar_shufflenetv1', 'cifar_shufflenetv2',
    *(pytest.param(name, marks=pytest.mark.slow) for name in DEEP)])
def test_layers_are_those_of_the_source(model):
  """No more, no fewer, of the same shapes; and the state dict is known by them."""
  arrays = states.state_dict(model, 'cifar', 100)
  assert weights(arrays) == json.loads(GOLDEN.read_text())[model]
  scheme = schemes.choose(model, arrays)
  assert scheme.name == 'cifar'
  assert structure.read(model, arrays, scheme.layers(model)) == (100, {'aux': False})


@pytest.mark.parametrize('model', BACKBONES)
def test_every_layer_of_ours_has_one_name(model):
  layers = schemes.named('cifar').layers(model)
  for names in ([layer.source for layer in layers], [layer.ours for layer in layers]):
    assert max(collections.Counter(names).values()) == 1


def test_only_vgg_has_biases():
  for model, biases in (('cifar_vgg8', 5), ('cifar_resnet8', 0)):
    arrays = states.state_dict(model, 'cifar', 100)
    kernels = [key for key, array in arrays.items() if array.ndim == 4]
    assert sum(key.replace('weight', 'bias') in arrays for key in kernels) == biases


def test_images_are_normalised_as_in_mdistiller():
  student = schemes.named('cifar').student
  np.testing.assert_allclose(student['mean'], 255 * np.array([0.5071, 0.4867, 0.4408]))
  np.testing.assert_allclose(student['std'], 255 * np.array([0.2675, 0.2565, 0.2761]))
  assert [scheme.name for scheme in cifar.SCHEMES] == ['cifar']


def test_the_nearest_of_other_models_is_named():
  arrays = states.state_dict('cifar_vgg8', 'cifar', 100)
  with pytest.raises(conversion.WeightsError, match=r'not those of cifar_resnet8.* They are those '
                                                    r'of cifar_vgg13, cifar_vgg8\. The first keys'):
    schemes.choose('cifar_resnet8', arrays)
