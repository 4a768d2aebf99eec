"""Detectors by name."""

import math

import flax.linen as nn
import jax
import numpy as np
import pytest

from kdseg_jax import models
from kdseg_jax.errors import UserError
from kdseg_jax.models import dense_detector, detectors
from kdseg_jax.models.conv import Conv
from kdseg_jax.models.normalization import IMAGENET
from tests import official

CASES = ('crosskd_gfl_r18', 'crosskd_retinanet_r18', 'crosskd_retinanet_r18_on_input',
         'crosskd_fcos_r50', 'crosskd_atss_r50')
BUFFERS = ('running_mean', 'running_var', 'num_batches_tracked', 'integral.project')


@pytest.mark.parametrize('case', CASES)
def test_as_many_parameters_as_the_official_detector(case):
  name, _ = official.CASES[case]
  options = {'extra_convs': 'on_output'} if case == 'crosskd_retinanet_r18' else {}
  model = models.create(name, 80, **options)
  shapes = jax.eval_shape(lambda: model.init(
      {'params': jax.random.key(0)}, np.zeros((1, 32, 32, 3), np.uint8)))['params']
  assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) == sum(
      math.prod(shape) for key, shape in official.shapes()[case].items()
      if not key.endswith(BUFFERS))


def test_defaults():
  model = models.create('gfl_resnet50', 80)
  assert model.backbone.output_stride == 32 and model.preprocessing == IMAGENET
  assert (model.head.stacked_convs, model.head.groups, model.head.reg_max) == (4, 32, 16)
  assert not model.frozen_statistics and not model.backbone.stride_first
  assert models.output_stride_of('gfl_resnet50') == 32
  assert models.preprocessing_of('fcos_resnet50') == IMAGENET
  assert models.backbone_of('atss_efficientnet_lite0')[0] == 'efficientnet_lite0'


@pytest.mark.parametrize('head, extra_convs, extra_relu', [
    ('gfl', 'on_output', False), ('retinanet', 'on_input', False), ('fcos', 'on_output', True),
    ('atss', 'on_output', False)])
def test_the_pyramid_of_each_head(head, extra_convs, extra_relu):
  model = models.create(f'{head}_resnet18', 3)
  assert (model.fpn.extra_convs, model.fpn.extra_relu) == (extra_convs, extra_relu)
  assert type(model.head) is detectors.HEADS[head].module
  other = models.create(f'{head}_resnet18', 3, extra_convs='on_input', extra_relu=True)
  assert (other.fpn.extra_convs, other.fpn.extra_relu) == ('on_input', True)


def test_channels():
  widths = lambda **options: [part.channels for model in [
      models.create('gfl_mobilenetv2', 3, **options)] for part in (model.fpn, model.head)]
  assert widths() == [256, 256] and widths(width=0.25) == [64, 64]
  assert widths(head_channels=96) == [96, 96]
  assert widths(fpn_channels=48, width=0.5) == [48, 128]


def test_options_of():
  assert {'fpn_channels', 'extra_convs', 'frozen_statistics', 'norm_groups', 'stacked_convs',
          'reg_max'} <= models.options_of('gfl_mobilenetv2')
  assert 'reg_max' not in models.options_of('atss_resnet18')
  assert {'norm_on_bbox', 'stride_first'} <= models.options_of('fcos_resnet50')
  assert not {'channels', 'num_classes', 'dtype'} & models.options_of('fcos_resnet50')


@pytest.mark.parametrize('options, message', [
    ({'aux': True}, 'gfl_resnet18 is a detector: it has no auxiliary head'),
    ({'output_stride': 8}, r'output_stride=8 is unknown to gfl_resnet18; .* \(32,\)'),
    ({'norm_on_bbox': True}, "Unknown option of gfl_resnet18: 'norm_on_bbox'"),
    ({'norm_groups': 3}, 'norm_groups=3 does not divide the 256 channels'),
    ({'head_channels': 28}, 'norm_groups=3 does not divide the 28 channels'),
    ({'extra_convs': 'on_inputs'}, "Unknown extra_convs: 'on_inputs'"),
    ({'stacked_convs': -1}, 'stacked_convs=-1')])
def test_bad_options(options, message):
  with pytest.raises(UserError, match=message):
    models.create('gfl_resnet18', 3, **options)


@pytest.mark.parametrize('stride_first, strides', [(False, (1, 2)), (True, (2, 1))])
def test_which_convolution_of_a_bottleneck_strides(stride_first, strides):
  found = {}

  def note(call, args, kwargs, context):
    if isinstance(context.module, Conv):
      found['/'.join(context.module.path)] = context.module.strides
    return call(*args, **kwargs)

  backbone = models.create('fcos_resnet50', 3, width=0.125, stride_first=stride_first).backbone
  image = np.zeros((1, 32, 32, 3), np.float32)
  with nn.intercept_methods(note):
    taps, _ = jax.eval_shape(lambda: backbone.init_with_output(jax.random.key(0), image, False))
  assert (found['stage2_block0/conv1/conv'], found['stage2_block0/conv2/conv']) == strides
  assert (found['stage2_block1/conv1/conv'], found['stage2_block1/conv2/conv']) == (1, 1)
  assert taps['stage4'].shape[1:3] == (1, 1)


def test_equal_detectors_are_one_to_jax():
  create = lambda: models.create('atss_mobilenetv2', 3, mean=[1, 2, 3], std=[1, 1, 1])
  assert create() == create() and hash(create()) == hash(create())
  assert isinstance(create(), dense_detector.Detector)
