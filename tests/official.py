"""Official models by their state dicts' names and shapes; see tests/golden/README.md."""

import functools
import gzip
import json
import pathlib
import zlib

import jax
import numpy as np
from flax import traverse_util

from kdseg_jax import models
from kdseg_jax.interop import conversion, schemes, structure

FOLDER = pathlib.Path(__file__).parent / 'golden'

# Case of the arrays -> our model and its naming scheme.
CASES = {
    'cirkd_v1_deeplab_mobile_mobilenetv2': ('deeplabv3_mobilenetv2', 'cirkd'),
    'cirkd_v1_deeplabv3_resnet18': ('deeplabv3_resnet18', 'cirkd'),
    'cirkd_v1_deeplabv3_resnet50': ('deeplabv3_resnet50', 'cirkd'),
    'cirkd_v1_deeplabv3_resnet101': ('deeplabv3_resnet101', 'cirkd'),
    'cirkd_v1_psp_resnet18': ('pspnet_resnet18', 'cirkd'),
    'cirkd_v1_psp_resnet101': ('pspnet_resnet101', 'cirkd'),
    'cirkd_v2_psp_mobile_mobilenetv2': ('pspnet_mobilenetv2', 'cirkd'),
    'crosskd_atss_r50': ('atss_resnet50', 'mmdetection'),
    'crosskd_fcos_r50': ('fcos_resnet50', 'mmdetection_caffe'),
    'crosskd_gfl_r18': ('gfl_resnet18', 'mmdetection'),
    'crosskd_retinanet_r18': ('retinanet_resnet18', 'mmdetection'),
    'crosskd_retinanet_r18_on_input': ('retinanet_resnet18', 'mmdetection'),
    'mdistiller_mobilenetv2_half': ('cifar_mobilenetv2_half', 'cifar'),
    'mdistiller_vgg13': ('cifar_vgg13', 'cifar'),
    'mdistiller_vgg8': ('cifar_vgg8', 'cifar'),
    'reviewkd_imagenet_mobilenet': ('mobilenetv1', 'reviewkd_mobilenet'),
    'reviewkd_resnet20': ('cifar_resnet20', 'cifar'),
    'reviewkd_resnet32x4': ('cifar_resnet32x4', 'cifar'),
    'reviewkd_resnet56': ('cifar_resnet56', 'cifar'),
    'reviewkd_resnet8x4': ('cifar_resnet8x4', 'cifar'),
    'reviewkd_shufflev1': ('cifar_shufflenetv1', 'cifar'),
    'reviewkd_shufflev2': ('cifar_shufflenetv2', 'cifar'),
    'reviewkd_wrn_16_2': ('cifar_wrn_16_2', 'cifar'),
    'reviewkd_wrn_40_1': ('cifar_wrn_40_1', 'cifar'),
    'reviewkd_wrn_40_2': ('cifar_wrn_40_2', 'cifar'),
    'skd_pspnet_resnet18': ('pspnet_resnet18', 'skd_pspnet'),
    'skd_pspnet_resnet101': ('pspnet_resnet101', 'skd_pspnet'),
    'skd19_espnet': ('espnet', 'skd_espnet'),
    'skd19_espnet_c': ('espnet_c', 'skd_espnet'),
    'timm_resnet18d': ('resnet18d', 'timm_resnet'),
    'timm_xception41': ('xception41', 'timm_xception'),
    'timm_xception65': ('xception65', 'timm_xception'),
    'torchvision_resnet18': ('resnet18', 'torchvision_resnet'),
    'torchvision_resnet50': ('resnet50', 'torchvision_resnet'),
    'torchvision_mobilenet_v2': ('mobilenetv2', 'torchvision_mobilenetv2'),
}

OF_ONE_WIDTH = ('cifar_mobilenetv2_half', 'cifar_shufflenetv1', 'cifar_shufflenetv2')


@functools.cache
def shapes():
  """Case -> key -> shape."""
  return {case: keys for file in sorted(FOLDER.glob('state_dicts*.json.gz'))
          for case, keys in json.loads(gzip.decompress(file.read_bytes())).items()}


def state_dict(case, fill):
  """The arrays of a case, made by `fill(key, shape)`."""
  return {key: fill(key, tuple(shape)).astype(np.float32) for key, shape in shapes()[case].items()}


def drawn(key, shape):
  """The array that the official outputs are of; the rule is in the README."""
  draws = np.random.RandomState(zlib.crc32(key.encode()))
  kind = key.rpartition('.')[2]
  if kind == 'running_mean':
    return 0.1 * draws.standard_normal(shape)
  if kind == 'running_var':
    return 0.5 + draws.random_sample(shape)
  if kind == 'num_batches_tracked':
    return np.zeros(shape)
  if len(shape) > 1:
    return draws.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
  return 1 + 0.2 * draws.standard_normal(shape) if kind == 'weight' else (
      0.1 * draws.standard_normal(shape))


def counted(key, shape):
  """No number of an array twice, and arrays that differ: sooner made than drawn ones."""
  first = 1 + zlib.crc32(key.encode()) % 1000
  return np.arange(first, first + np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)


def variable_shapes(model):
  """Of a model's variables, without running it."""
  image = np.zeros((1, 32, 32, 3), np.float32)
  return jax.eval_shape(lambda: model.init({'params': jax.random.key(0)}, image))


def load(case, arrays, **options):
  """Model and variables of a state dict, as the import makes them, with other options of it."""
  name, _ = CASES[case]
  scheme = schemes.choose(name, arrays)
  layers = scheme.layers(name)
  found = structure.read(name, arrays, layers)
  model = models.create(name, found.num_classes, **{**scheme.student, **found.student, **options})
  converted = conversion.to_variables(arrays, layers, variable_shapes(model))
  assert not any(converted[1:])  # nothing absent, left out, unknown or of another shape
  return model, traverse_util.unflatten_dict(converted.variables, sep='/')
