"""Every recipe, written out: all in which it differs from the defaults of test_default_config.py.

What a script or a reported figure says of each is in the recipe's own tests and docstring. Here
nothing else may differ, so that a default that gets lost or a field too many is seen.
"""

import pytest
from flax import traverse_util

from kdseg_jax import default_config, recipes

CAMVID = {
    'augmentation.crop': (180, 180), 'checkpoint.every_steps': 500, 'data.name': 'camvid',
    'data.size': (180, 240), 'eval.every_steps': 500, 'optimizer.learning_rate': 0.03,
    'optimizer.warmup_steps': 100, 'student.aux': False, 'student.name': 'deeplabv3_mobilenetv2',
    'train.batch_size': 8, 'train.steps': 3_000}
FOLDER = {
    'augmentation.crop': (512, 512), 'data.name': 'folder', 'optimizer.learning_rate': 0.02,
    'optimizer.warmup_steps': 500, 'train.steps': 20_000}
QUICKSTART = {
    'augmentation.flip': 0.0, 'augmentation.scale': (), 'checkpoint.every_steps': 0,
    'checkpoint.keep': 1, 'eval.batch_size': 20, 'eval.every_steps': 0, 'eval.split': 'test',
    'log.every_steps': 100, 'optimizer.name': 'adamw', 'optimizer.warmup_steps': 50,
    'student.aux': False, 'student.project_dropout': 0.0, 'train.batch_size': 8}
QUICK_STUDENT = QUICKSTART | {
    'data.train_limit': 300, 'optimizer.learning_rate': 0.064, 'student.width': 0.125,
    'train.steps': 3_000}
DETECTION = {
    'task.name': 'detection', 'task.head': '', 'task.max_boxes': 100, 'task.box_loss': 'iou_log',
    'task.center_sampling': False, 'augmentation.scale': (), 'data.name': 'scenes_detection',
    'student.name': 'gfl_resnet18', 'student.output_stride': 32, 'student.aux': False,
    'student.dropout': 0.0}
BCCD = DETECTION | {
    'augmentation.crop': (256, 320), 'augmentation.resize': ((256, 320),),
    'checkpoint.every_steps': 100, 'data.name': 'voc_boxes', 'eval.canvas': (256, 320),
    'eval.every_steps': 200, 'optimizer.clip_norm': 10.0, 'optimizer.learning_rate': 5e-4,
    'optimizer.name': 'adamw', 'optimizer.warmup_steps': 50, 'student.frozen_statistics': False,
    'student.head_channels': 64, 'student.stacked_convs': 2, 'train.batch_size': 8,
    'train.steps': 800}
SCENES = DETECTION | {
    'augmentation.crop': (128, 128), 'augmentation.flip': 0.0, 'checkpoint.every_steps': 500,
    'data.size': (128, 128), 'eval.batch_size': 25, 'eval.every_steps': 500,
    'optimizer.clip_norm': 10.0, 'optimizer.learning_rate': 0.02, 'optimizer.warmup_steps': 100,
    'student.head_channels': 48, 'student.stacked_convs': 2, 'student.width': 0.25,
    'task.max_boxes': 8, 'train.steps': 2_000}
COCO = DETECTION | {
    'augmentation.crop': (800, 1344), 'augmentation.resize': ((800, 1333),),
    'checkpoint.every_steps': 7330, 'data.by_orientation': True, 'data.name': 'coco',
    'data.train_split': 'train_with_boxes', 'eval.canvas': (800, 1344), 'eval.every_steps': 7330,
    'eval.sides': (800, 1333), 'optimizer.decay': 'all', 'optimizer.schedule': 'steps',
    'optimizer.milestones': ((8 * 7330 - 500) / (12 * 7330 - 500),
                             (11 * 7330 - 500) / (12 * 7330 - 500)),
    'optimizer.warmup_factor': 1e-3, 'optimizer.warmup_steps': 500,
    'student.frozen_statistics': True, 'student.head_channels': 256, 'student.init': 'imagenet',
    'student.name': 'gfl_resnet50', 'student.stacked_convs': 4,
    'train.freeze': ('backbone/stem*', 'backbone/stage1*'), 'train.steps': 12 * 7330}
SCRATCH = ('student.init', 'train.freeze', 'student.frozen_statistics')
CLASSIFIER = {
    'task.name': 'classification', 'augmentation.scale': (), 'optimizer.decay': 'all',
    'optimizer.schedule': 'steps', 'student.aux': False, 'student.dropout': 0.0,
    'optimizer.learning_rate': 0.1}
CIFAR = CLASSIFIER | {
    'augmentation.crop': (32, 32), 'augmentation.pad': 4, 'checkpoint.every_steps': 5 * 391,
    'data.name': 'cifar100', 'eval.batch_size': 500, 'eval.every_steps': 5 * 391,
    'eval.split': 'test', 'optimizer.milestones': (0.625, 0.75, 0.875),
    'optimizer.nesterov': True, 'optimizer.weight_decay': 5e-4,
    'student.mean': (125.3, 123.0, 113.9), 'student.std': (63.0, 62.1, 66.7),
    'student.name': 'cifar_resnet20', 'student.output_stride': 4, 'train.batch_size': 128,
    'train.steps': 240 * 391}
IMAGENET = CLASSIFIER | {
    'augmentation.crop': (224, 224), 'augmentation.resized_crop': (0.08, 1.0),
    'checkpoint.every_steps': 5005, 'data.name': 'imagenet', 'eval.batch_size': 256,
    'eval.crop': (224, 224), 'eval.every_steps': 5005, 'eval.short_side': 256,
    'optimizer.milestones': (0.3, 0.6, 0.9), 'student.name': 'resnet18',
    'student.output_stride': 32, 'train.batch_size': 256, 'train.steps': 100 * 5005}
PAPERS = {
    'augmentation.crop': (512, 512), 'critic.optimizer.decay': 'all', 'optimizer.decay': 'all',
    'optimizer.learning_rate': 0.02, 'student.deep_stem': True, 'data.name': 'voc'}
SKD = PAPERS | {
    'augmentation.scale': (0.7, 2.1), 'critic.optimizer.weight_decay': 5e-4,
    'optimizer.weight_decay': 5e-4, 'optimizer.learning_rate': 0.01, 'student.ceil_mode': True,
    'student.name': 'pspnet_resnet18', 'train.batch_size': 8}
ADAPTATION = {
    'augmentation.crop': (513, 513), 'critic.optimizer.weight_decay': 4e-5, 'data.name': 'voc',
    'optimizer.learning_rate': 0.007, 'optimizer.weight_decay': 4e-5, 'student.aux': False,
    'student.name': 'plain_mobilenetv2', 'student.output_stride': 16,
    'student.project_dropout': 0.1, 'train.steps': 30_000}
DIFFERENCES = {
    'camvid:role=teacher': CAMVID | {'student.output_stride': 16},
    'camvid:': CAMVID | {'student.width': 0.5},
    'camvid:finetune': CAMVID | {
        'student.width': 0.5, 'train.steps': 400, 'optimizer.learning_rate': 0.003,
        'eval.every_steps': 200, 'checkpoint.every_steps': 200},
    'folder:role=teacher': FOLDER | {'student.name': 'deeplabv3_resnet50'}, 'folder:': FOLDER,
    'quickstart:role=teacher': QUICKSTART | {
        'optimizer.learning_rate': 0.008, 'student.width': 0.25, 'train.steps': 5_000},
    'quickstart:': QUICK_STUDENT,
    'quickstart:unlabelled': QUICK_STUDENT | {
        'optimizer.learning_rate': 0.032, 'data.unlabelled': 'rest', 'data.unlabelled_share': 0.5},
    'bccd:role=teacher': BCCD | {'student.name': 'gfl_mobilenetv2'},
    'bccd:': BCCD | {'student.width': 0.25},
    'bccd:init=runs/a': BCCD | {
        'student.width': 0.25, 'student.init': 'runs/a', 'student.frozen_statistics': True},
    'scenes_detection:role=teacher': SCENES | {'student.width': 0.5}, 'scenes_detection:': SCENES,
    'scenes_detection:head=retinanet': SCENES | {
        'student.name': 'retinanet_resnet18', 'optimizer.learning_rate': 0.01},
    'coco:': COCO,
    'coco:init=': {name: value for name, value in COCO.items() if name not in SCRATCH} | {
        'student.frozen_statistics': False},
    'cifar:role=teacher': CIFAR | {'student.name': 'cifar_resnet56'}, 'cifar:': CIFAR,
    'imagenet:role=teacher': IMAGENET | {'student.name': 'resnet34'}, 'imagenet:': IMAGENET,
    'voc:': PAPERS, 'voc:role=teacher': PAPERS | {'student.name': 'deeplabv3_resnet101'},
    'voc:settings=cirkd_v2': PAPERS | {'student.head_channels': 512, 'train.steps': 80_000},
    'voc:settings=skd': SKD, 'voc:settings=adaptation': ADAPTATION,
    'voc:settings=adaptation,role=teacher': ADAPTATION | {'student.name': 'deeplabv3plus_resnet50'},
    'ade20k:': PAPERS | {'data.name': 'ade20k'},
    'pascal_context:': PAPERS | {'data.name': 'pascal_context'},
    'cityscapes:': PAPERS | {'data.name': 'cityscapes', 'augmentation.crop': (512, 1024)},
    'camvid_papers:': PAPERS | {'data.name': 'camvid', 'augmentation.crop': (360, 360)}}


def flat(config):
  return traverse_util.flatten_dict(config.to_dict(), sep='.', keep_empty_nodes=True)


@pytest.mark.parametrize('name', DIFFERENCES)
def test_a_recipe_differs_from_the_defaults_in_these_fields_alone(name):
  recipe, _, arg = name.partition(':')
  config = recipes.load(recipe)(arg)
  assert config.role == ('teacher' if 'role=teacher' in arg else 'student')
  found, defaults = flat(config), flat(default_config.segmentation(role=config.role))
  unlike = lambda fields: {field: value for field, value in fields.items()
                           if defaults.get(field, 'none') != value}
  found = unlike(found)
  if config.teacher.config:
    found = {name: value for name, value in found.items() if not name.startswith('teacher.config')}
  assert found == unlike(DIFFERENCES[name])  # one setting may undo another


def test_every_recipe_is_here():
  assert {name.partition(':')[0] for name in DIFFERENCES} == set(recipes.names())


@pytest.mark.parametrize('role', ['teacher', 'student'])
@pytest.mark.parametrize('recipe, arg', [
    ('camvid', ''), ('folder', ''), ('quickstart', ''), ('bccd', ''), ('scenes_detection', ''),
    ('coco', ''), ('cifar', ''), ('imagenet', ''),
    *[('voc', f'settings={name},') for name in ('cirkd', 'cirkd_v2', 'skd')]])
def test_a_method_changes_its_terms_alone(recipe, arg, role):
  load = lambda more: flat(recipes.load(recipe)(f'{arg}role={role},{more}'))
  ours, without = load('method=kd+review'), load('')
  terms = {name: value for name, value in ours.items() if name.startswith('distill.')}
  assert {name.split('.')[1] for name in terms} == {'kd', 'review'}
  same = lambda fields: {name: value for name, value in fields.items()
                         if not name.startswith('distill')}
  assert same(ours) == same(without)
