"""The defaults, written out: one that changes is to be changed here as well, and on purpose.

Sources of those that are published stand beside them; options of terms are those of their papers or
official scripts, see the docstrings of the factories.
"""

import dataclasses
import inspect

import flax.linen as nn
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from kdseg_jax import default_config, distillers, inference, models, tasks
from kdseg_jax.data import augmentation
from kdseg_jax.distillers import methods
from kdseg_jax.models import (
    classifier,
    deeplab,
    efficientnet_lite,
    espnet,
    mobilenet,
    pspnet,
    resnet,
)

_OPTIMIZER = {
    'name': 'sgd', 'options': {}, 'learning_rate': 0.01,      # PSPNet, section 4.1
    'schedule': 'poly', 'power': 0.9,          # ibid.
    'momentum': 0.9, 'weight_decay': 1e-4,     # ibid.
    'milestones': (0.5, 0.75), 'factor': 0.1,  # ResNet, section 4.2: 32k, 48k of 64k
    'decay': 'kernels', 'warmup_steps': 0, 'nesterov': False, 'clip_norm': 0.0,
    'warmup': 'linear', 'warmup_factor': 0.0, 'bias_factor': 1.0,
    'b1': 0.9, 'b2': 0.999}                    # Adam, section 2
DEFAULTS = {
    'seed': 0, 'role': 'student', 'parallel': 'shard_map', 'distill': {},
    'task': {
        'name': 'segmentation',
        'align_corners': True,                 # SKD's and CIRKD's codes
        'auxiliary_weight': 0.4,               # PSPNet, section 3.3
        'supervised_loss': 'cross_entropy', 'ohem_threshold': 0.7, 'ohem_min_kept': 100_000,
        'absent_as_zero': False,
    },
    'data': {
        'name': 'scenes', 'options': {}, 'root': '', 'size': (), 'by_orientation': False,
        'train_split': 'train', 'train_limit': 0, 'seed': None, 'unlabelled': '',
        'unlabelled_share': None,
        'tfds': {'image_key': 'image', 'label_key': 'label', 'num_classes': 0}},
    'augmentation': {
        'crop': (64, 64), 'scale': (0.5, 2.0), 'flip': 0.5, 'pad': 0, 'resized_crop': (),
        'resize': ()},
    'student': {
        'name': 'deeplabv3_resnet18', 'options': {}, 'width': 1.0, 'output_stride': 8, 'aux': True,
        'project_dropout': 0.5, 'dropout': 0.1,  # torchvision's head; PSPNet's code
        'dtype': 'float32', 'remat': 'none', 'init': '', 'channel_order': 'rgb',
        # 255 times torchvision's
        'mean': (123.675, 116.28, 103.53), 'std': (58.395, 57.12, 57.375)},
    'teacher': {'checkpoint': '', 'config': {}, 'min_metric': 0.0},
    'train': {
        'steps': 40_000, 'batch_size': 16,     # SKD, section 4.1, and CIRKD's scripts
        'split_teacher': False, 'compile_level': 3, 'accumulate': 1, 'ema_decay': 0.0,
        'freeze': ()},
    'optimizer': _OPTIMIZER,
    'memory_limit_gb': 8.0,
    'critic': {'steps': 1, 'optimizer': _OPTIMIZER | {'learning_rate': 4e-4}},  # SKD's code
    'prepare': {'steps': 0, 'folder': '', 'optimizer': _OPTIMIZER | {
        'learning_rate': 0.1}},  # knowledge adaptation, CVPR 2019
    'eval': {
        'split': 'val', 'every_steps': 2_000, 'batch_size': 8, 'limit': 0, 'pad_multiple': 1,
        'window': (), 'overlap': 1 / 3, 'scales': (1.0,), 'flip': False, 'crop': (),
        'short_side': 0, 'canvas': (), 'sides': (),
        'pictures': 4},
    'checkpoint': {'every_steps': 1_000, 'keep': 2},
    'log': {'every_steps': 50},
}
_EMBEDDING = {'student_tap': 'embedding', 'teacher_tap': 'embedding'}
_RESIZE = {'resize': False, 'align_corners': True}
_PIXELWISE = _RESIZE | {'temperature': 1.0, 'form': 'kl', 'reduction': 'mean', 'tap': 'logits'}
_HOLISTIC = _RESIZE | {
    'conditional': True, 'input_norm': False, 'critic_loss': 'wasserstein',
    'gradient_penalty_weight': 10.0, 'critic_weight': 0.1, 'width': 1.0, 'tap': 'logits',
    'critic_learning_rate': None, 'critic_b1': 0.9, 'critic_b2': 0.99, 'critic_steps': None}
_PYRAMID_TAPS = ('p3', 'p4', 'p5', 'p6', 'p7')
_OF_HEADS = {'teacher_head': None, 'uniform': False, 'cls_weight': None, 'box_weight': None}
_AUTOENCODER = _EMBEDDING | {'strides': None, 'channels': None, 'alpha': 1e-7}
TERMS = {
    'pixelwise': _PIXELWISE,
    'pairwise': _EMBEDDING | {
        'node_scale': None, 'node_size': None, 'pool': 'max', 'norm_gradient': True,
        'norm': 'add_eps', 'eps': 1e-8, 'neighbourhood': None},
    'holistic': _HOLISTIC,
    'adversarial': _HOLISTIC | {
        'conditional': False, 'input_norm': True, 'critic_loss': 'hinge',
        'gradient_penalty_weight': 0.0, 'critic_learning_rate': 4e-4},
    'kd': _PIXELWISE,
    'decoupled': {
        'alpha': 1.0, 'beta': 8.0, 'temperature': 4.0, 'ignore_label': 255, 'tap': 'logits'},
    'fitnets': _EMBEDDING | _RESIZE | {'projection': True},
    'attention_transfer': _EMBEDDING,
    'channel_wise_features': _EMBEDDING | {
        'temperature': 4.0, 'projection': None, 'official_channel_count': False},
    'channel_wise_logits': {'temperature': 4.0, 'tap': 'logits'},
    'intra_class_variation': _EMBEDDING | {'ignore_label': 255},
    'double_similarity_pixel': {'taps': ('aux_logits', 'embedding', 'logits')},
    'double_similarity_category': {'temperature': 4.0, 'tap': 'logits'},
    'cross_image': _EMBEDDING | {'temperature': 0.1, 'pool': None},
    'memory': _EMBEDDING | {
        'pixel_weight': 0.1, 'region_weight': 0.1, 'pixel_slots': 20_000, 'region_slots': 2_000,
        'pixel_samples': 4_096, 'region_samples': 1_024, 'pixels_per_class': 16,
        'anchors_per_image': None, 'only_filled': True, 'temperature': 0.1, 'kd_temperature': 1.0,
        'ignore_label': 255},
    'channels': _EMBEDDING | {
        'cross_weight': 1.0, 'mse_weight': 100.0, 'memory_weight': 0.1, 'slots': 10_000,
        'samples': 2_048, 'pool': 4, 'temperature': 0.1},
    'context': {'tap': 'embedding'},
    'feature_adaptation': _AUTOENCODER | {'p': 2, 'q': 2},
    'affinity_adaptation': _AUTOENCODER | {'autoencoder': True},
    'review': {
        'form': 'residual', 'attention': True, 'levels': (4, 2, 1), 'channels': None,
        'teacher_batch_statistics': False,
        'student_taps': ('stage1', 'stage2', 'stage3', 'stage4'),
        'teacher_taps': ('stage1_preactivation', 'stage2_preactivation', 'stage3_preactivation',
                         'stage4_preactivation')},
    'crosskd': _OF_HEADS | {'layer': None, 'projection': False, 'centerness_weight': 1.0},
    'prediction_mimicking': _OF_HEADS | {'region': 'all'},
    'localization_distillation': {'temperature': 10.0, 'region': 'positive'},
    'pkd': {'taps': _PYRAMID_TAPS},
    'pyramid_fitnets': {'taps': _PYRAMID_TAPS, 'projection': True},
}


def plain(config):
  return {name: plain(value) if isinstance(value, ConfigDict) else value
          for name, value in config.items()}


def test_the_defaults_of_the_config_are_these():
  assert plain(default_config.segmentation()) == DEFAULTS


@pytest.mark.parametrize('task', ['segmentation', 'classification', 'detection'])
def test_the_config_of_a_task_has_its_method_and_role(task):
  config = getattr(default_config, task)('kd', 'teacher')
  assert (config.task.name, config.role, list(config.distill)) == (task, 'teacher', ['kd'])
  assert getattr(default_config, task)().role == 'student'


def test_the_defaults_of_the_terms_are_these():
  own = ('factory', 'weight', 'warmup_steps')
  assert {term: {name: value for name, value in distillers.terms_of(term)[term].items()
                 if name not in own} for term in methods.TERMS} == TERMS


MODEL = {
    'width': 1.0, 'output_stride': None, 'aux': False, 'dtype': jnp.float32, 'remat': 'none',
    'mean': None, 'std': None, 'channel_order': 'rgb',
    'head_channels': None, 'aux_channels': None, 'aux_bias': False, 'negative_slope': 0.0,
    'project_dropout': 0.5, 'dropout': None}
_PYRAMID = {'rates': (12, 24, 36), 'project_dropout': 0.5, 'dropout': 0.1}  # DeepLabV3, section 5
_BACKBONE = {'width': 1.0, 'output_stride': 8, 'remat': 'none'}
PARTS = {
    pspnet.PSPNetHead: {'pool_sizes': (1, 2, 3, 6), 'dropout': 0.1, 'negative_slope': 0.0},
    pspnet.AuxiliaryHead: {'dropout': 0.1, 'negative_slope': 0.0, 'use_bias': False},
    deeplab.DeepLabV3Head: _PYRAMID,
    deeplab.DeepLabV3PlusHead: _PYRAMID | {'low_level_channels': 48},  # V3+, section 4.1
    classifier.ClassifierHead: {
        'channels': 0, 'dropout': 0.0, 'epsilon': 1e-5, 'tap': 'stage4', 'activation': nn.relu6},
    resnet.ResNet: _BACKBONE | {
        'depth': 18, 'deep_stem': False, 'stem_channels': (64, 64, 128), 'ceil_mode': False,
        'dilate_first': False, 'pooled_shortcuts': False, 'stride_first': False},
    mobilenet.MobileNetV2: _BACKBONE,
    efficientnet_lite.EfficientNetLite: _BACKBONE | {'variant': 0},
    espnet.ESPNetEncoder: {'width': 1.0, 'blocks': (2, 8), 'remat': 'none'}}  # of SKD's code


def fields(of):
  return {field.name: field.default for field in dataclasses.fields(of)
          if field.default is not dataclasses.MISSING
          and field.name not in ('parent', 'name', 'axis_name', 'dtype')}


def test_the_defaults_of_models_are_these():
  assert {name: parameter.default
          for name, parameter in inspect.signature(models.create).parameters.items()
          if parameter.kind is parameter.KEYWORD_ONLY and name != 'axis_name'} == MODEL
  model, student = models.create('deeplabv3_resnet18', 3), DEFAULTS['student']
  assert model.preprocessing == (student['mean'], student['std'], 'rgb')
  assert (model.head.dropout, models.create('resnet18', 3).head.dropout) == (0.1, 0.1)


@pytest.mark.parametrize('part', PARTS, ids=lambda part: part.__name__)
def test_the_defaults_of_the_parts_of_models_are_these(part):
  assert fields(part) == PARTS[part]


def test_without_a_config_the_defaults_are_its():
  of_data = {'by_orientation': DEFAULTS['data']['by_orientation']}
  evaluation = DEFAULTS['eval'] | of_data
  task = {'name': 'segmentation'} | fields(tasks.SegmentationTask)
  assert task == DEFAULTS['task']
  views = fields(inference.Inference)
  assert views == {name: evaluation[name] for name in views} and len(views) == 9
  assert fields(augmentation.Augmentation) == {
      name: DEFAULTS['augmentation'][name] for name in ('scale', 'flip', 'pad')
  } | {'resized_crop': None, 'resize': None} | of_data  # () in a config
  weights = {name: parameter.default
             for name, parameter in inspect.signature(distillers.cirkd).parameters.items()}
  assert weights == {
      'kd_weight': methods.METHODS['cirkd']['kd'], 'axis_name': None,
      'cross_image_weight': methods.METHODS['cirkd']['cross_image'],
      'pixel_weight': TERMS['memory']['pixel_weight'],
      'region_weight': TERMS['memory']['region_weight']}


def test_options_of_what_is_named_are_its_defaults_beside_those_that_are_given():
  config = default_config.segmentation()
  config.student.update(name='tests.mylab.parts:Tiny', options={'features': 3})
  config.optimizer.update(name='optax:lion', options={'b1': 0.8})
  default_config.complete(config)
  assert config.student.options.to_dict() == {'features': 3}
  assert (config.optimizer.options.b1, config.optimizer.options.b2) == (0.8, 0.99)
  default_config.set_name(config, 'student.name', 'tests.mylab.parts:Regularized')  # another one
  assert config.student.name == 'tests.mylab.parts:Regularized'
  assert config.student.options.features == 4 and 'b1' not in config.student.options


def test_parts_of_the_students_and_the_teacher_of_a_study_are_completed_too():
  teacher = default_config.segmentation(role='teacher')
  teacher.student.name = 'tests.mylab.parts:Tiny'
  config = default_config.segmentation()
  term = {'factory': 'tests.mylab.losses:my_term', 'weight': 0.5}
  with config.unlocked():
    config.distill.mine = dict(term)
    config.study = {'students': {'a': {'distill': {'mine': dict(term)}}, 'b': {}},
                    'teacher': teacher}
  default_config.complete(config)
  assert config.study.teacher.student.options.features == 4
  for distill in (config.distill, config.study.students.a.distill):
    assert distill.mine.to_dict() == term | {
        'warmup_steps': 0, 'power': 2, 'tap': 'logits', 'levels': (1,)}
  assert config.study.students.b.to_dict() == {}


def test_fields_that_came_later_are_those_of_the_task_and_terms_stay_as_they_are():
  config = ConfigDict({'task': {'name': 'detection'}, 'student': {'width': 0.5},
                       'distill': {'kd': {'weight': 2.0}}})
  default_config.fill(config)
  assert config.task.to_dict() == default_config.detection().task.to_dict()
  assert config.student.to_dict() == DEFAULTS['student'] | {'width': 0.5}
  assert config.distill.to_dict() == {'kd': {'weight': 2.0}}
  foreign = ConfigDict({'task': {'name': 'nowhere.tasks:Mine', 'own': 1}})  # is not imported
  assert default_config.fill(foreign).task.to_dict() == {'name': 'nowhere.tasks:Mine', 'own': 1}
  assert plain(foreign.eval) == DEFAULTS['eval']
