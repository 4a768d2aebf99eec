"""Detectors by mmdetection's names."""

import types

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from kdseg_jax import models
from kdseg_jax.errors import UserError
from kdseg_jax.interop import conversion, importing, schemes, structure
from kdseg_jax.interop.exporting import weights
from kdseg_jax.interop.importing import Request
from kdseg_jax.models.normalization import IMAGENET
from tests import official
from tests.interop import states
from tests.interop import torch_writer as writer

RETINANET = {  # of 3 classes, as far as its structure follows from it
    'bbox_head.retina_cls': (27, 32, 3, 3), 'bbox_head.retina_reg': (36, 32, 3, 3),
    'neck.lateral_convs.2.conv': (48, 64, 1, 1), 'neck.fpn_convs.3.conv': (48, 48, 3, 3)}
SMALL = {'head_channels': 64, 'stacked_convs': 2, 'norm_groups': 32}


def checkpoint(path, model, **options):
  """As mmengine saves it, of a detector of 3 classes."""
  arrays = states.state_dict(model, 'mmdetection', 3, **options)
  if model.startswith('gfl'):
    arrays = arrays | {'bbox_head.integral.project': np.arange(17, dtype=np.float32)}
  path.write_bytes(writer.zipped({
      'meta': {'epoch': 12, 'dataset_meta': {'classes': ('a', 'b', 'c')}, 'cfg': 'model = dict()'},
      'state_dict': writer.state_dict(**arrays), 'optimizer': {'state': {}}}))
  return str(path), arrays


def test_import_of_a_checkpoint(tmp_path):
  """Its images are ImageNet's, its structure follows from shapes."""
  path, arrays = checkpoint(tmp_path / 'gfl.pth', 'gfl_resnet18', fpn_channels=24, **SMALL)
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
      arrays['bbox_head.cls_convs.1.conv.weight'].transpose(2, 3, 1, 0))
  assert params['head']['scales_4']['factor'] == arrays['bbox_head.scales.4.scale']


@pytest.mark.parametrize('head, extra_convs', [
    ('atss', 'on_output'), ('retinanet', 'on_output'), ('retinanet', 'on_input')])
def test_every_array_of_other_heads_is_taken(head, extra_convs, tmp_path):
  options = SMALL if head == 'atss' else SMALL | {'norm_groups': 0}
  path, arrays = checkpoint(
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
      arrays[f'bbox_head.{key}.weight'].transpose(2, 3, 1, 0))


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


def structure_of(model, shapes):
  """What these kernels say."""
  arrays = {f'{key}.weight': np.zeros(shape, np.float32) for key, shape in shapes.items()}
  return structure.read(model, arrays, schemes.named('mmdetection').layers(model))


def test_another_head_is_refused():
  arrays, name = zeros('atss_resnet18'), 'gfl_resnet18'
  with pytest.raises(UserError, match='bbox_head.gfl_cls.weight is missing'):
    structure.read(name, arrays, schemes.choose(name, arrays).layers(name))


def test_another_number_of_anchors_is_refused():
  name = 'retinanet_resnet18'
  arrays = zeros(name) | {'bbox_head.retina_cls.weight': np.zeros((10, 32, 3, 3), np.float32)}
  with pytest.raises(UserError, match='10 and 36 outputs, which retinanet_resnet18 with 9 anchors'):
    structure.read(name, arrays, schemes.choose(name, arrays).layers(name))


def test_towers_are_named_up_to_eight_convolutions():
  towers = {f'bbox_head.{branch}_convs.{i}.conv': (32, 32, 3, 3)
            for branch in ('cls', 'reg') for i in range(8)}
  layers = schemes.named('mmdetection').layers('retinanet_resnet18')
  assert towers.keys() <= {layer.source for layer in layers}
  found = structure_of('retinanet_resnet18', RETINANET | towers)
  assert found.student['stacked_convs'] == 8


def test_sides_of_boxes_are_four():
  with pytest.raises(UserError, match='3 and 66 outputs, which gfl_resnet18 with 1 anchors'):
    structure_of('gfl_resnet18', {
        'bbox_head.gfl_cls': (3, 32, 3, 3), 'bbox_head.gfl_reg': (66, 32, 3, 3)})


@pytest.mark.parametrize('stage, levels, p6, extra_convs', [
    (64, 48, 64, 'on_input'), (64, 48, 48, 'on_output'), (64, 64, 64, None)])
def test_what_the_pyramid_goes_on_from_is_open_where_the_shapes_do_not_tell(
    stage, levels, p6, extra_convs):
  found = structure_of('retinanet_resnet18', RETINANET | {
      'neck.lateral_convs.2.conv': (levels, stage, 1, 1),
      'neck.fpn_convs.3.conv': (levels, p6, 3, 3)})
  assert (found.num_classes, found.student['head_channels']) == (3, 32)
  assert found.student['fpn_channels'] == levels
  assert found.student.get('extra_convs') == extra_convs


@pytest.mark.parametrize('stride_first, expected', [
    (True, 'mmdetection_caffe'), (False, 'mmdetection')])
def test_the_stride_of_a_block_decides_between_names_that_are_the_same(stride_first, expected):
  name = 'fcos_resnet18'
  student = {'name': name, 'stride_first': stride_first}
  kernel = {'params': {'head': {'cls': {'kernel': np.zeros((3, 3, 32, 3), np.float32)}}}}
  model = types.SimpleNamespace(config=ConfigDict({'student': student}), variables=kernel)
  assert weights.choose(model, None).name == expected


@pytest.mark.parametrize('options, expected', [
    ({'tower_bias': True}, (32, True)), ({'norm_groups': 0}, (0, False))])
def test_norm_and_bias_of_the_towers(options, expected):
  """With GroupNorms a bias is rare, without them it is there anyway."""
  name = 'fcos_resnet18'
  layers = schemes.named('mmdetection').layers(name)
  student = structure.read(name, zeros(name, **options), layers).student
  assert (student['norm_groups'], student['tower_bias']) == expected
