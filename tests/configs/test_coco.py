"""The recipe of COCO against CrossKD's configs, and that every pair can be distilled."""

import inspect
import re

import jax
import numpy as np
import pytest
from flax import traverse_util

from configs import coco
from kdseg_jax import data, distillers, models
from kdseg_jax.errors import UserError
from kdseg_jax.inference.model import abstract_variables, create_module
from kdseg_jax.interop import importing
from kdseg_jax.losses import dense_boxes
from kdseg_jax.tasks.detection import suppression, task
from kdseg_jax.training import freezing, loop, shapes
from kdseg_jax.training.optimizers import create_schedule
from tests import runs
from tests.data import boxed_sets

pytestmark = pytest.mark.usefixtures('one_device')

# What jbwang1997/CrossKD's configs/crosskd/*.py and mmdetection's baselines have in common, with
# _base_/datasets/coco_detection.py: Resize (1333, 800), RandomFlip 0.5, pad_size_divisor 32;
# optim_wrapper; 8 x 2 images (auto_scale_lr's base_batch_size).
COMMON = {
    'data.name': 'coco', 'data.train_split': 'train_with_boxes',  # filter_empty_gt
    'eval.split': 'val', 'train.batch_size': 16,
    'train.accumulate': 1, 'augmentation.flip': 0.5, 'augmentation.scale': (),
    'augmentation.pad': 0, 'augmentation.resized_crop': (), 'eval.sides': (800, 1333),
    'data.by_orientation': True, 'augmentation.crop': (800, 1344),  # AspectRatioBatchSampler
    'eval.canvas': (800, 1344),
    'optimizer.name': 'sgd', 'optimizer.learning_rate': 0.01, 'optimizer.momentum': 0.9,
    'optimizer.nesterov': False, 'optimizer.weight_decay': 1e-4, 'optimizer.schedule': 'steps',
    'optimizer.factor': 0.1, 'optimizer.warmup_steps': 500, 'student.width': 1.0,
    'student.init': 'imagenet', 'student.frozen_statistics': True,  # norm_eval
    'student.mean': (123.675, 116.28, 103.53), 'student.std': (58.395, 57.12, 57.375),
    'student.channel_order': 'rgb'}
# LinearLR of schedule_1x.py, optim_wrapper without clip_grad and paramwise_cfg.
PLAIN = {'optimizer.warmup': 'linear', 'optimizer.warmup_factor': 0.001, 'optimizer.decay': 'all',
         'optimizer.bias_factor': 1.0, 'optimizer.clip_norm': 0.0}
# crosskd_r50_fcos_r101-2x-ms_caffe_fpn_gn-head_2x_ms_coco.py: ConstantLR, bias_lr_mult,
# bias_decay_mult, clip_grad.
FCOS = {'optimizer.warmup': 'constant', 'optimizer.warmup_factor': 1 / 3, 'optimizer.clip_norm': 35,
        'optimizer.bias_factor': 2.0, 'optimizer.decay': 'all_but_biases'}
ONE = ((800, 1333),)
TWO = ((640, 1333), (800, 1333))          # RandomChoiceResize of FCOS
RANGE = tuple((side, 1333) for side in range(480, 801))  # RandomResize of gfl_r50_fpn_ms-2x_coco.py
# Argument -> model, max_epochs, milestones, resizing; by the configs that are named.
SCRIPTS = {
    # crosskd_r50_gflv1_r101-2x-ms_fpn_1x_coco.py, gfl_r101_fpn_ms-2x_coco.py
    'head=gfl': ('gfl_resnet50', 12, (8, 11), ONE),
    'head=gfl,role=teacher': ('gfl_resnet101', 24, (16, 22), RANGE),
    # crosskd_r18_gflv1_r50_fpn_1x_coco.py, gfl_r50_fpn_1x_coco.py
    'head=gfl,backbone=resnet18': ('gfl_resnet18', 12, (8, 11), ONE),
    'head=gfl,role=teacher,backbone=resnet50': ('gfl_resnet50', 12, (8, 11), ONE),
    # crosskd_r50_retinanet_r101_fpn_2x_coco.py, retinanet_r101_fpn_2x_coco.py
    'head=retinanet': ('retinanet_resnet50', 24, (16, 22), ONE),
    'head=retinanet,role=teacher': ('retinanet_resnet101', 24, (16, 22), ONE),
    # crosskd_r18_retinanet_r50_fpn_1x_coco.py, retinanet_r50_fpn_1x_coco.py
    'head=retinanet,backbone=resnet18': ('retinanet_resnet18', 12, (8, 11), ONE),
    'head=retinanet,role=teacher,backbone=resnet50,schedule=1x': (
        'retinanet_resnet50', 12, (8, 11), ONE),
    # crosskd_r50_atss_r101_fpn_1x_coco.py, atss_r101_fpn_1x_coco.py
    'head=atss': ('atss_resnet50', 12, (8, 11), ONE),
    'head=atss,role=teacher': ('atss_resnet101', 12, (8, 11), ONE),
    # crosskd_r50_fcos_..._coco.py, fcos_r101-caffe_fpn_gn-head_ms-640-800-2x_coco.py
    'head=fcos': ('fcos_resnet50', 24, (16, 22), TWO),
    'head=fcos,role=teacher': ('fcos_resnet101', 24, (16, 22), TWO),
}
EPOCH = 7330  # steps, as mmdetection logs them: 117,266 images, 16 a step

# test_cfg of each head: nms iou_threshold; score_thr 0.05, nms_pre 1000, max_per_img 100 of all.
SUPPRESSION = {'gfl': 0.6, 'atss': 0.6, 'retinanet': 0.5, 'fcos': 0.5}
# reused_teacher_head_idx, loss_feat_kd's weight in configs/crosskd+pkd/.
METHODS = {'gfl': (3, 6.0), 'retinanet': (3, 2.0), 'fcos': (2, 2.0), 'atss': (3, 1.0)}


def value_of(config, path):
  for name in path.split('.'):
    config = config[name]
  return config


@pytest.mark.parametrize('arg', SCRIPTS)
def test_settings_are_those_of_the_scripts(arg):
  config = coco.get_config(arg)
  name, epochs, milestones, resize = SCRIPTS[arg]
  expected = COMMON | (FCOS if 'fcos' in arg else PLAIN) | {
      'student.name': name, 'train.steps': epochs * EPOCH, 'augmentation.resize': resize,
      'eval.every_steps': EPOCH, 'checkpoint.every_steps': EPOCH}
  assert {path: value_of(config, path) for path in expected} == expected
  rate = create_schedule(config.optimizer, config.train.steps)
  first = 0.01 * expected['optimizer.warmup_factor']
  middle = first if 'fcos' in arg else (first + 0.01) / 2
  wanted = {0: first, 250: middle, 500: 0.01}
  for k, epoch in enumerate(milestones):
    wanted |= {epoch * EPOCH - 1: 0.01 * 0.1**k, epoch * EPOCH: 0.01 * 0.1**(k + 1)}
  np.testing.assert_allclose([rate(step) for step in wanted], [*wanted.values()], rtol=1e-5,
                             atol=1e-8)


@pytest.mark.parametrize('images', [20, 300, 900])
def test_small_folders_have_a_shorter_warmup(images):
  config = coco.get_config(f'images={images}')
  steps = 12 * -(-images // 16)
  rate = create_schedule(config.optimizer, config.train.steps)
  assert config.train.steps == steps and config.optimizer.warmup_steps == min(500, steps // 4)
  np.testing.assert_allclose(
      [rate(steps * 8 // 12 - 1), rate(steps * 8 // 12), rate(steps - 1)], [1e-2, 1e-3, 1e-4],
      rtol=1e-5)


@pytest.mark.parametrize('head', SUPPRESSION)
def test_models_are_those_of_the_scripts(head):
  config = coco.get_config(f'head={head},method=crosskd')
  module = create_module(config.student, 80)
  assert module.head_kind == head
  assert (module.head.channels, module.fpn.channels, module.head.stacked_convs) == (256, 256, 4)
  assert module.head.groups == (0 if head == 'retinanet' else 32)
  assert module.fpn.extra_convs == 'on_output' and module.fpn.extra_relu == (head == 'fcos')
  own = task.HEADS[head](80)
  assert own.strides == (8, 16, 32, 64, 128) and own.iou_threshold == SUPPRESSION[head]
  assert own.per_position == (9 if head == 'retinanet' else 1)
  defaults = {name: one.default for name, one in inspect.signature(
      suppression.detect).parameters.items()}
  assert (defaults['score_threshold'], defaults['max_candidates'], defaults['max_detections']) == (
      0.05, 1000, 100)


def test_retinanet_alone_and_its_teachers_have_the_pyramid_of_the_baseline():
  extra = lambda arg: coco.get_config(f'head=retinanet,{arg}').student.extra_convs
  assert extra('role=teacher') == extra('method=none') == 'on_input'  # configs/retinanet
  assert extra('method=crosskd') == extra('method=pkd') == 'on_output'  # configs/crosskd


@pytest.mark.parametrize('head', ['gfl', 'fcos'])
def test_what_is_frozen_is_the_stem_the_first_stage_and_of_fcos_the_norms(head):
  config = coco.get_config(f'head={head},backbone=resnet18')
  paths = traverse_util.flatten_dict(abstract_variables(
      create_module(config.student, 80))['params'], sep='/')
  frozen = {path for path in paths if freezing.matches(path, config.train.freeze)}
  expected = {path for path in paths if path.startswith(('backbone/stem/', 'backbone/stage1_'))}
  assert len(expected) == 3 + 4 * 3
  if head == 'fcos':  # norm_cfg of its backbone: requires_grad=False
    expected |= {path for path in paths if path.startswith('backbone/') and '/norm/' in path}
  assert frozen == expected


def test_without_weights_nothing_is_frozen_and_mobilenets_keep_their_statistics_alone():
  scratch, mobile = map(coco.get_config, ('init=', 'head=retinanet,backbone=mobilenetv2'))
  assert not scratch.student.frozen_statistics and scratch.train.freeze == ()
  assert mobile.student.frozen_statistics and mobile.train.freeze == ()
  assert mobile.train.steps == 12 * EPOCH


def test_fcos_has_the_images_and_the_options_of_its_scripts():
  """data_preprocessor and style='caffe' of FCOS; the options of mmdetection's later FCOS."""
  config = coco.get_config('head=fcos,caffe,init=elsewhere')
  student = config.student
  assert (student.mean, student.std) == ((122.7717, 115.9465, 102.9801), (1.0,) * 3)
  assert student.channel_order == 'bgr'
  student.update(norm_on_bbox=True, centerness_on_reg=True, tower_bias=True)
  module = create_module(student, 80)
  assert module.backbone.stride_first
  assert module.head.norm_on_bbox and module.head.centerness_on_reg and module.head.tower_bias
  config.task.update(box_loss='giou', center_sampling=True)


@pytest.mark.parametrize('head', METHODS)
def test_methods_have_the_weights_of_the_pair(head):
  layer, pkd = METHODS[head]
  distill = coco.get_config(
      f'head={head},method=crosskd+pkd+localization_distillation+review+pyramid_fitnets,'
      f'teacher_head={head}').distill
  assert (distill.crosskd.weight, distill.pkd.weight) == (1.0, pkd)
  towers = distillers.create({'crosskd': distill.crosskd.to_dict()}).requires.student
  assert towers[:2] == (f'cls_tower_{layer}', f'reg_tower_{layer}')
  # configs/ld/: T=10, loss_weight=0.25; ReviewKD's RetinaNet: weight 1, 256 channels.
  own = distill.localization_distillation
  assert (own.weight, own.temperature, own.region) == (0.25, 10.0, 'positive')
  assert (distill.review.weight, distill.review.channels) == (1.0, 256)
  pyramid = ('p3', 'p4', 'p5', 'p6', 'p7')
  assert distill.review.student_taps == distill.pkd.taps == distill.pyramid_fitnets.taps == pyramid
  assert coco.get_config(f'head={head},method=crosskd+pkd@3').distill.pkd.weight == 3


def test_layer_and_head_of_the_teacher_are_arguments():
  config = coco.get_config('method=crosskd+prediction_mimicking,layer=0,teacher_head=atss')
  assert config.distill.crosskd.layer == 0
  assert config.distill.crosskd.teacher_head == 'atss'
  assert config.distill.prediction_mimicking.teacher_head == 'atss'
  assert coco.get_config('method=crosskd').distill.crosskd.layer is None


@pytest.mark.parametrize('arg,message', [
    ('head=yolo', "head of this recipe: 'yolo'"), ('backbone=resnet51', "'gfl_resnet51'"),
    ('schedule=3x', "schedule: '3x'"), ('method=crosskd,teacher_head=fcs', "Did you mean 'fcos'"),
    ('method=pkd,layer=2', 'layer=2 is of method=crosskd'), ('caffe', 'expected a ResNet'),
    ('layer=two', 'must be of type int')])
def test_wrong_arguments_are_refused(arg, message):
  with pytest.raises(UserError, match=message):
    coco.get_config(arg)


def test_what_the_docstring_names_exists():
  text = coco.get_config.__globals__['__doc__']
  for arg in re.findall(r'configs/coco\.py:(\S+)', text):
    coco.get_config(arg.replace('<i>', '4'))
  config = coco.get_config('head=fcos,method=crosskd')
  fields = set(re.findall(r'--config\.((?:task|student|augmentation|eval)\.\w+)', text))
  assert {'task.box_loss', 'student.norm_on_bbox', 'augmentation.crop'} <= fields
  for field in fields - {'student.extra_convs'}:
    value_of(config, field)
  assert coco.get_config('head=retinanet').student.extra_convs
  assert set(re.findall(r'head=, backbone=|^  (\w+)(?: \(the default\))?:', text, re.M)) >= set(
      dense_boxes.HEADS)
  assert models.backbone_of('retinanet_mobilenetv2')[0] == 'mobilenetv2'


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """A folder in COCO's layout."""
  folder = tmp_path_factory.mktemp('coco')
  for split in ('train', 'val'):
    boxed_sets.coco(folder, split)
  return str(folder)


def small(arg, root):
  config = coco.get_config(f'{arg},runlocal')
  config.data.root = root
  return config


BASELINES = 'pkd+pyramid_fitnets+review'


@pytest.mark.parametrize('student,teacher', [
    (f'head=gfl,method=crosskd+prediction_mimicking+localization_distillation+{BASELINES}',
     'head=gfl'),
    (f'head=retinanet,backbone=mobilenetv2,method=crosskd+prediction_mimicking+{BASELINES}',
     'head=retinanet'),
    ('head=fcos,method=crosskd+pkd', 'head=fcos'), ('head=atss,method=crosskd+pkd', 'head=atss'),
    ('head=gfl,method=crosskd+prediction_mimicking,teacher_head=atss', 'head=atss'),
    ('head=gfl,method=crosskd+pkd,teacher_head=retinanet', 'head=retinanet')])
def test_every_pair_can_be_distilled(student, teacher, root):
  shapes.check_with_untrained(small(student, root), small(f'role=teacher,{teacher}', root))


@pytest.mark.parametrize('method,message', [
    ('crosskd', 'head of the teacher for gfl, and it is retinanet. Set --config.distill.crosskd.'
     'teacher_head=retinanet'),
    ('prediction_mimicking,teacher_head=retinanet',
     'a gfl head has 1 anchors .* retinanet head 9.* Choose crosskd with teacher_head=retinanet')])
def test_heads_of_unlike_anchors_are_refused_with_what_to_do(method, message, root):
  with pytest.raises(UserError, match=message):
    shapes.check_with_untrained(
        small(f'method={method}', root), small('role=teacher,head=retinanet', root))


def test_a_head_of_the_same_shapes_is_not_taken_for_another(root):
  with pytest.raises(UserError, match='head of the teacher for fcos, and it is atss'):
    shapes.check_with_untrained(
        small('head=atss,method=crosskd,teacher_head=fcos', root),
        small('role=teacher,head=atss', root))


@pytest.mark.slow
def test_a_student_is_distilled_from_a_saved_teacher_of_another_head(
    root, shallow_models, tmp_path):
  teacher, source = small('role=teacher,head=retinanet', root), data.Coco('train', root=root)
  draws = np.random.default_rng(0)
  variables = jax.tree.map(
      lambda x: draws.uniform(0.01, 0.05, x.shape).astype(x.dtype),
      abstract_variables(create_module(teacher.student, len(source.classes))))
  importing.write(importing.Imported(
      variables, teacher, source.classes, source.palette, {}), str(tmp_path / 'teacher'))
  config = small('method=crosskd+pkd,backbone=mobilenetv2', root)
  config.teacher.checkpoint = str(tmp_path / 'teacher')
  config.distill.crosskd.teacher_head = 'retinanet'
  assert loop.train(config, str(tmp_path / 'student'))['images'] == 3
  last = [row for row in runs.rows(tmp_path / 'student') if row['phase'] == 'train'][-1]
  assert last['step'] == 2 and last['distill/pkd/raw'] > 0
  assert last['distill/crosskd/cls'] > 0
