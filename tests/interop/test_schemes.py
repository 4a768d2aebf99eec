"""Naming schemes: every array of the published families has one place here, and back."""

import collections
import re

import jax
import numpy as np
import pytest

from kdseg_jax import models
from kdseg_jax.errors import UserError
from kdseg_jax.interop import conversion, importing, schemes, structure
from kdseg_jax.interop.layers import Layer
from kdseg_jax.models import cifar
from tests import official


def slow_if_deep(*names):
  deep = re.search('resnet(44|56|101|110|32x4)|wrn_40|shuffle|mobilenetv2_half|xception'
                   '|(gfl|retinanet|fcos|atss)_resnet(34|50)', names[-1])
  return pytest.param(*names, marks=[pytest.mark.slow] if deep else [])


ALL = [slow_if_deep(scheme.name, model)
       for scheme in schemes.SCHEMES.values() for model in scheme.models]
_DETECTOR = {
    'aux': False, 'deep_stem': False, 'head_channels': 256, 'fpn_channels': 256,
    'stacked_convs': 4, 'norm_groups': 0, 'tower_bias': False, 'extra_convs': 'on_output'}
WITH_AUXILIARY = {'cirkd_v1_deeplabv3_resnet18': 'auxlayer', 'skd_pspnet_resnet18': 'dsn'}


def filled(shapes):
  return jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)


def without_buffers(arrays):
  return {key: array for key, array in arrays.items()
          if not key.endswith(('num_batches_tracked', 'integral.project'))}


@pytest.mark.parametrize('case', [slow_if_deep(case) for case in official.CASES])
def test_every_array_has_its_place_and_goes_back(case):
  """In names, shapes and values; those of |weight| + eps to rounding."""
  arrays = official.state_dict(case, official.counted)
  name, scheme = official.CASES[case]
  assert schemes.choose(name, arrays).name == scheme
  _, variables = official.load(case, arrays)
  back = conversion.to_state_dict(variables, schemes.named(scheme).layers(name))
  expected = without_buffers(arrays)
  assert back.keys() == expected.keys()
  for key, array in expected.items():
    assert back[key].shape == array.shape
    np.testing.assert_allclose(back[key], array, rtol=1e-6 if scheme == 'skd_pspnet' else 0)


RESNETS = {f'resnet{depth}' for depth in (18, 34, 50, 101)}
LITE = {f'efficientnet_lite{variant}' for variant in range(5)}
NAMED = {
    'torchvision_resnet': RESNETS, 'torchvision_mobilenetv2': {'mobilenetv2'},
    'timm_resnet': RESNETS | {f'{name}d' for name in RESNETS},
    'timm_xception': {'xception41', 'xception65'},
    'efficientnet_lite': LITE, 'timm_efficientnet_lite': LITE,
    'cirkd': {f'{head}_{backbone}' for head in ('deeplabv3', 'pspnet')
              for backbone in RESNETS | {'mobilenetv2'}},
    'skd_pspnet': {f'pspnet_{name}' for name in RESNETS}, 'skd_espnet': {'espnet', 'espnet_c'},
    'cifar': set(cifar.BACKBONES),
    'reviewkd_mobilenet': {'mobilenetv1'},
    'mmdetection_caffe': {f'fcos_{name}' for name in RESNETS},
    'mmdetection': {f'{head}_{name}' for head in ('gfl', 'retinanet', 'fcos', 'atss')
                    for name in RESNETS}}


def test_schemes_name_whole_families():
  assert {name: set(scheme.models) for name, scheme in schemes.SCHEMES.items()} == NAMED


@pytest.mark.parametrize('scheme, model', [
    (scheme.name, model) for scheme in schemes.SCHEMES.values() for model in scheme.models])
def test_no_two_layers_have_one_place(scheme, model):
  """Of the deepest too, as below."""
  counts = collections.Counter(layer.ours for layer in schemes.named(scheme).layers(model))
  assert [place for place, count in counts.items() if count > 1] == []


@pytest.mark.parametrize('scheme, model', [
    (scheme.name, model) for scheme in schemes.SCHEMES.values() for model in scheme.models])
def test_layers_that_are_numbered_there_are_in_the_same_order_here(scheme, model):
  numbers = lambda name: [*map(int, re.findall(r'\d+', name))]
  kind = lambda name: re.sub(r'\d+', '#', name)
  pairs = collections.defaultdict(list)
  for layer in schemes.named(scheme).layers(model):
    pairs[kind(layer.source), kind(layer.ours)].append((numbers(layer.source), numbers(layer.ours)))
  for alike in pairs.values():
    ours = [ours for _, ours in sorted(alike)]
    assert ours == sorted(ours)


@pytest.mark.parametrize('case', official.CASES)
def test_a_whole_model_is_not_taken_for_its_backbone_alone(case):
  name, scheme = official.CASES[case]
  found, model = importing._scheme(importing.Request('file', name), official.shapes()[case])
  assert (found.name, model) == (scheme, name)


@pytest.mark.parametrize('case', official.CASES)
def test_every_name_of_a_published_file_is_that_of_a_layer(case):
  """Of the deepest too, without their models: what takes its time is to trace these."""
  name, scheme = official.CASES[case]
  sources = {layer.source for layer in schemes.named(scheme).layers(name)}
  assert {key.rpartition('.')[0] for key in without_buffers(official.shapes()[case])} <= sources


@pytest.mark.parametrize('scheme, name', ALL)
def test_every_leaf_of_every_model_has_a_name(scheme, name):
  """Of other depths too, of which there are no lists of keys."""
  layers = schemes.named(scheme).layers(name)
  assert max(collections.Counter(layer.ours for layer in layers).values()) == 1
  segmenter = name not in models.CLASSIFIERS + models.DETECTORS and 'resnet' in name
  options = {'aux': True} if segmenter else {}
  if 'deep_stem' in models.options_of(name):
    options['deep_stem'] = True
  if name not in official.OF_ONE_WIDTH:
    options['width'] = 0.125
  model = models.create(name, 7, **options)
  shapes = official.variable_shapes(model)
  arrays = conversion.to_state_dict(filled(shapes), layers)
  assert len(arrays) == len(jax.tree.leaves(shapes))
  # timm's plain ResNets have the same names, and FCOS on either kind of ResNet.
  assert schemes.choose(name, arrays).name in (
      scheme, scheme.replace('timm', 'torchvision'), scheme + '_caffe')
  converted = conversion.to_variables(arrays, layers, shapes)
  assert not (converted.absent or converted.unknown or converted.left_out)
  found = structure.read(name, arrays, layers)
  assert (found.num_classes, found.student['aux']) == (7, segmenter)


@pytest.mark.parametrize('case, expected', [
    ('cirkd_v1_deeplabv3_resnet18', {
        'aux': True, 'aux_channels': 64, 'aux_bias': False, 'deep_stem': True,
        'head_channels': 128}),
    ('cirkd_v2_psp_mobile_mobilenetv2', {'aux': False, 'head_channels': 128}),
    ('skd_pspnet_resnet101', {
        'aux': True, 'aux_channels': 512, 'aux_bias': True, 'deep_stem': True,
        'head_channels': 512}),
    ('crosskd_gfl_r18', _DETECTOR | {'norm_groups': 32, 'reg_max': 16}),
    ('crosskd_atss_r50', _DETECTOR | {'norm_groups': 32}),
    ('crosskd_fcos_r50', _DETECTOR | {'norm_groups': 32}),
    ('crosskd_retinanet_r18', _DETECTOR),
    ('crosskd_retinanet_r18_on_input', _DETECTOR | {'extra_convs': 'on_input'}),
    ('skd19_espnet', {'aux': False}), ('timm_resnet18d', {'aux': False}),
    ('torchvision_resnet18', {'aux': False, 'deep_stem': False})])
def test_structure(case, expected):
  name, scheme = official.CASES[case]
  arrays = official.state_dict(case, official.counted)
  found = structure.read(name, arrays, schemes.named(scheme).layers(name))
  assert found.student == expected
  assert found.num_classes == (
      1000 if name in models.CLASSIFIERS else 80 if name in models.DETECTORS else 19)


@pytest.mark.parametrize('case, prefix', WITH_AUXILIARY.items())
def test_the_auxiliary_head_may_be_missing(case, prefix):
  arrays = {key: array for key, array in official.state_dict(case, official.counted).items()
            if not key.startswith(prefix)}
  model, _ = official.load(case, arrays)
  assert model.auxiliary_head is None


def test_second_version_of_cirkd():
  """One convolution as the stem, and a wider head, under the same names."""
  name, layers = 'deeplabv3_resnet18', schemes.named('cirkd').layers('deeplabv3_resnet18')
  model = models.create(name, 11, aux=True, head_channels=512)
  arrays = conversion.to_state_dict(filled(official.variable_shapes(model)), layers)
  assert 'pretrained.conv1.weight' in arrays and 'pretrained.conv2.weight' not in arrays
  found = structure.read(name, arrays, layers)
  assert found.student['head_channels'] == 512 and found.student['deep_stem'] is False


@pytest.mark.parametrize('case, mean, std', [
    ('cirkd_v1_psp_resnet18', (104.00698793, 116.66876762, 122.67891434), (1, 1, 1)),
    ('skd_pspnet_resnet18', (104.00698793, 116.66876762, 122.67891434), (1, 1, 1)),
    ('skd19_espnet_c', (73.18188461, 82.93553322, 72.41519599), (45.3199, 46.1528, 44.9148))])
def test_preprocessing(case, mean, std):
  """As the sources write it: of BGR images."""
  image = np.random.default_rng(0).integers(0, 256, (1, 4, 5, 3), np.uint8)
  model, _ = official.load(case, official.state_dict(case, official.counted))
  np.testing.assert_allclose(
      model.preprocessing(image), (image[..., ::-1] - np.array(mean)) / np.array(std), atol=1e-4)


def test_conventions_of_structured_distillation():
  case = 'skd_pspnet_resnet18'
  model, variables = official.load(case, official.state_dict(case, official.drawn))
  assert model.backbone.ceil_mode and model.backbone.dilate_first
  assert model.head.negative_slope == model.auxiliary_head.negative_slope == 0.01
  norm = official.drawn('layer2.0.bn1.weight', (128,))
  np.testing.assert_allclose(
      variables['params']['backbone']['stage2_block0']['conv1']['norm']['norm']['scale'],
      np.abs(norm) + 1e-5, rtol=1e-6)


def test_a_scale_that_no_weight_gives():
  layer = Layer('bn1', 'backbone/stem1/norm/norm', magnitude=1e-5)
  with pytest.raises(UserError, match='backbone/stem1/norm/norm/scale has negative numbers'):
    layer.to_source('scale', np.float32([0.5, -0.1]))
  weight = layer.to_source('scale', np.float32([0.5, 0]))
  np.testing.assert_allclose(layer.to_ours('scale', weight), [0.5, 1e-5], rtol=1e-6)


@pytest.mark.parametrize('name, case, message', [
    ('deeplabv3_resnet18', 'skd19_espnet_c',
     r'not those of deeplabv3_resnet18: .*cirkd \(0%\).* They are those of espnet_c'),
    ('espnet', 'torchvision_resnet18', r'skd_espnet \(0%\).* They are those of .*resnet18'),
    ('pspnet_resnet18', 'torchvision_mobilenet_v2', 'mobilenetv2.* first keys are features.0.0'),
    ('deeplabv3plus_resnet18', 'skd_pspnet_resnet18', 'none.* They are those of pspnet_resnet101')])
def test_another_family(name, case, message):
  with pytest.raises(conversion.WeightsError, match=message):
    schemes.choose(name, official.state_dict(case, official.counted))


def test_missing_and_unused_keys_are_listed():
  case = 'skd19_espnet_c'
  name, scheme = official.CASES[case]
  arrays = official.state_dict(case, official.counted)
  del arrays['level2.1.bn.act.weight']
  arrays['extra.weight'] = np.ones(3, np.float32)
  like = official.variable_shapes(models.create(name, 19))
  converted = conversion.to_variables(arrays, schemes.named(scheme).layers(name), like)
  assert converted.absent == ['params/backbone/stage2_block1/norm/prelu/slope']
  assert converted.unknown == ['extra.weight']


@pytest.mark.parametrize('weight, message', [
    (None, 'classifier.conv.weight is missing'),
    (np.ones(19, np.float32), r'classifier.conv.weight has shape \(19,\); expected a kernel')])
def test_classifier_that_is_none(weight, message):
  name, scheme = official.CASES['skd19_espnet_c']
  arrays = official.state_dict('skd19_espnet_c', official.counted)
  arrays['classifier.conv.weight'] = weight
  arrays = {key: array for key, array in arrays.items() if array is not None}
  with pytest.raises(conversion.WeightsError, match=message):
    structure.read(name, arrays, schemes.named(scheme).layers(name))
