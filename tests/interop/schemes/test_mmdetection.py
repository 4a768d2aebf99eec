"""Detectors by mmdetection's names."""

import jax
import numpy as np
import pytest

from kdseg_jax import models
from kdseg_jax.errors import UserError
from kdseg_jax.interop import conversion, importing, schemes, structure
from kdseg_jax.interop.importing import Request
from kdseg_jax.models.normalization import IMAGENET
from tests import official
from tests.interop import states
from tests.interop import torch_writer as writer

SMALL = {'head_channels': 64, 'stacked_convs': 2, 'norm_groups': 32}


def checkpoint(path, model, **options):
  """As mmengine saves it, of a detector of 3 classes."""
  weights = states.state_dict(model, 'mmdetection', 3, **options)
  if model.startswith('gfl'):
    weights = weights | {'bbox_head.integral.project': np.arange(17, dtype=np.float32)}
  path.write_bytes(writer.zipped({
      'meta': {'epoch': 12, 'dataset_meta': {'classes': ('a', 'b', 'c')}, 'cfg': 'model = dict()'},
      'state_dict': writer.state_dict(**weights), 'optimizer': {'state': {}}}))
  return str(path), weights


def test_import_of_a_checkpoint(tmp_path):
  """Its images are ImageNet's, its structure follows from shapes."""
  path, weights = checkpoint(tmp_path / 'gfl.pth', 'gfl_resnet18', fpn_channels=24, **SMALL)
  imported = importing.read(Request(path, 'gfl_resnet18'))
  assert imported.report['scheme'] == 'mmdetection' and len(imported.classes) == 3
  assert imported.report['left_out'] == imported.report['drawn_anew'] == []
  student = imported.config.student
  assert (student.name, student.output_stride, student.aux) == ('gfl_resnet18', 32, False)
  assert (student.head_channels, student.fpn_channels, student.stacked_convs) == (64, 24, 2)
  assert (student.norm_groups, student.extra_convs, student.reg_max) == (32, 'on_output', 16)
  assert (student.mean, student.std, student.channel_order) == IMAGENET
  params = imported.variables['params']
  np.testing.assert_array_equal(
      params['head']['cls_convs_1']['conv']['kernel'],
      weights['bbox_head.cls_convs.1.conv.weight'].transpose(2, 3, 1, 0))
  assert params['head']['scales_4']['factor'] == weights['bbox_head.scales.4.scale']


@pytest.mark.parametrize('head, extra_convs', [
    ('atss', 'on_output'), ('retinanet', 'on_output'), ('retinanet', 'on_input')])
def test_every_array_of_other_heads_is_taken(head, extra_convs, tmp_path):
  options = SMALL if head == 'atss' else SMALL | {'norm_groups': 0}
  path, weights = checkpoint(
      tmp_path / 'a.pth', f'{head}_resnet18', fpn_channels=24, extra_convs=extra_convs, **options)
  imported = importing.read(Request(path, f'{head}_resnet18'))
  assert imported.report['scheme'] == 'mmdetection' and len(imported.classes) == 3
  assert imported.report['left_out'] == imported.report['drawn_anew'] == []
  student = imported.config.student
  assert (student.head_channels, student.fpn_channels, student.stacked_convs) == (64, 24, 2)
  assert student.extra_convs == extra_convs
  assert student.get('norm_groups', 0) == (32 if head == 'atss' else 0)
  key, ours = ('atss_centerness', 'centerness') if head == 'atss' else ('retina_reg', 'reg')
  np.testing.assert_array_equal(
      imported.variables['params']['head'][ours]['kernel'],
      weights[f'bbox_head.{key}.weight'].transpose(2, 3, 1, 0))


def test_fcos_is_on_a_resnet_of_caffe(tmp_path):
  path, _ = checkpoint(tmp_path / 'fcos.pth', 'fcos_resnet18', **SMALL)
  imported = importing.read(Request(path, 'fcos_resnet18'))
  student = imported.config.student
  assert imported.report['scheme'] == 'mmdetection_caffe'
  assert student.stride_first and student.channel_order == 'bgr'
  assert student.mean == (122.7717, 115.9465, 102.9801) and student.std == (1.0, 1.0, 1.0)
  # The same names on a ResNet of torchvision are the second scheme's.
  assert 'fcos_resnet18' in schemes.named('mmdetection').models
  assert not schemes.named('mmdetection').student


def zeros(model, **options):
  """A narrow state dict."""
  module = models.create(model, 3, width=0.125, stacked_convs=1, **options)
  return conversion.to_state_dict(
      jax.tree.map(lambda x: np.zeros(x.shape, np.float32), official.variable_shapes(module)),
      schemes.named('mmdetection').layers(model))


def test_another_head_is_refused():
  arrays, name = zeros('atss_resnet18'), 'gfl_resnet18'
  with pytest.raises(UserError, match='bbox_head.gfl_cls.weight is missing'):
    structure.read(name, arrays, schemes.choose(name, arrays).layers(name))


def test_another_number_of_anchors_is_refused():
  name = 'retinanet_resnet18'
  arrays = zeros(name) | {'bbox_head.retina_cls.weight': np.zeros((10, 32, 3, 3), np.float32)}
  with pytest.raises(UserError, match='10 and 36 outputs, which retinanet_resnet18 with 9 anchors'):
    structure.read(name, arrays, schemes.choose(name, arrays).layers(name))


@pytest.mark.parametrize('options, expected', [
    ({'tower_bias': True}, (32, True)), ({'norm_groups': 0}, (0, False))])
def test_norm_and_bias_of_the_towers(options, expected):
  """With GroupNorms a bias is rare, without them it is there anyway."""
  name = 'fcos_resnet18'
  layers = schemes.named('mmdetection').layers(name)
  student = structure.read(name, zeros(name, **options), layers).student
  assert (student['norm_groups'], student['tower_bias']) == expected
